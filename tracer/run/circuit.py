"""Finds a small set of cells that carries a share of the difference: in the map's order, or greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ..choices import CircuitMethod
from ..pairs.indexing import distinct
from ..pairs.pairs import Pair
from ..results.causal_trace import CausalTrace
from ..results.circuit import Circuit
from ..results.faithfulness import first_cells
from ..results.resampling import table_interval
from ..results.sides import cluster_keys, text_keys
from ..results.statistics import bootstrap, cluster_draws, combine, pair_table, wants_bootstrap
from .joint import JointRuns
from .joint_options import CircuitOptions
from .progress import ProgressCallback, progress_bar

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["circuit"]

_STEP = 16  # sizes that are tried at a time
_COSINE = 2**-22  # rounding of differences of float32 cosines
_MOST = 1e-3  # of a CTE: what rounding may do to one at the smallest denominators, see metrics.Metric.floor


@explains_arguments
def circuit(
    model: DualEncoder,
    trace: CausalTrace,
    pairs: Sequence[Pair] | None = None,
    *,
    share: float = CircuitOptions.share,
    method: CircuitMethod = CircuitOptions.method,
    candidates: int = CircuitOptions.candidates,
    targets: Any = None,
    align: str = CircuitOptions.align,
    reduce: str = CircuitOptions.reduce,
    segment: str | None = CircuitOptions.segment,
    layers: Sequence[int] | None = CircuitOptions.layers,
    among: Any = CircuitOptions.among,
    ci: float | None = CircuitOptions.ci,
    n_boot: int = CircuitOptions.n_boot,
    seed: int = CircuitOptions.seed,
    progress: bool | ProgressCallback = True,
) -> Circuit:
    """A small set of cells (or heads) of a trace's map that together carry a share of S_corr - S_foil.

    Every share is exact: the cells are patched together in every pair. To find *the* smallest set one would have to try
    all sets; what is returned is the smallest that the method finds.

    Args:
        model, trace, pairs, targets, align, reduce, segment, layers, among: as :func:`faithfulness` takes them.
        share: CTE that the cells must reach together, such as 0.9, within the rounding of float32 scores.
        method: "greedy": cell by cell, always the one that adds most to those taken before, and at the end every cell
            that is not needed is dropped again. "order": the shortest beginning of the map's order; with an
            attribution trace that is the order of the gradients, and nothing but the beginnings is run.
        candidates: how many cells, the first of the map's order, "greedy" chooses among; its cost is about this number
            times the number of cells it takes.
        ci, n_boot, seed: of the interval of the share, and of the cells' stability: in which share of the draws of
            clusters a cell would be chosen again ("order": is among as many first ones of the map; "greedy": adds most
            to the same cells).
        progress: a bar, or a callback ``(done, total)`` over sets of cells that were tried; the total is the most there
            can be.

    Raises:
        TraceError: the cells do not reach the share together (says how far they get); or see :func:`faithfulness`.

    >>> import tracescribe as ts
    >>> model, clear = ts.load("phantom"), ts.Text("The lungs are clear.")
    >>> pairs = [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=clear)]
    >>> trace = ts.trace(model, pairs, progress=False)
    >>> ts.circuit(model, trace, pairs, share=0.9, progress=False).cells  # layer 0's differing token decides all
    [(0, 'first differing')]
    """
    asked = CircuitOptions.given(locals())
    share, method, candidates, reduce, ci = asked.share, asked.method, asked.candidates, asked.reduce, asked.ci
    n_boot, seed = asked.n_boot, asked.seed
    runs = JointRuns.of(model, trace, pairs, targets, asked)
    search = _Search(runs, reduce, n_boot if wants_bootstrap(ci, n_boot) else 0, seed)
    choose = search.in_order if method == "order" else search.greedily
    most = len(runs.cells) if method == "order" else candidates * (candidates + 1) // 2
    with progress_bar(progress, most, "sets of cells") as advance:
        chosen, stability, whole = choose(share, candidates, advance)
    effects = runs.effects(first_cells([_completed(chosen, len(runs.cells))], np.arange(1, len(chosen) + 1))[0])
    table = search.table(effects)
    shares = combine(table)[0, :, 0]
    texts = distinct(text_keys(trace, runs.used))[1]
    bounds = table_interval(table, search.clusters, texts, ci=ci, n_boot=n_boot, seed=seed)
    lo, hi = (None, None) if bounds is None else (float(bound[-1, 0]) for bound in bounds)
    cells = runs.cells
    return Circuit(
        layer=cells.layer[chosen],
        rows=tuple(cells.rows[row] for row in cells.row[chosen].tolist()),
        alone=cells.value[chosen],
        shares=shares,
        stability=stability,
        n_cells=len(cells),
        method=method,
        wanted=float(share),
        whole=whole,
        n_layers=trace.n_layers,
        n_pairs=len(runs.used),
        lo=lo,
        hi=hi,
        ci=None if lo is None else ci,
        provenance={**trace.provenance, "align": asked.align, "segment": asked.segment, "seed": seed},
    )


Found = tuple[list[int], Float[np.ndarray, " cell"], float]
Advance = Callable[[int], None]


class _Search:
    """Tries sets of cells, and judges how stable a choice is."""

    def __init__(self, runs: JointRuns, reduce: str, n_boot: int, seed: int) -> None:
        self.runs, self.reduce = runs, reduce
        self.denominator = runs.trace.denominator[runs.used]
        self.clusters = distinct(cluster_keys(runs.trace, runs.used))[1]
        n = int(self.clusters.max()) + 1
        self.draws = cluster_draws(n, n_boot, seed) if n_boot and n > 1 else None
        self.tried = 0
        sizes = np.abs([self.denominator.mean()] if reduce == "ratio_of_means" else self.denominator)
        self.rounding = min(_MOST, float(_COSINE * runs.coarseness / sizes.min()))

    def reaches(self, shares: Float[np.ndarray, " set"], share: float) -> Bool[np.ndarray, " set"]:
        """Whether CTEs are a share or more; float32 rounds what is exactly 1 to either side of it."""
        return shares >= share - self.rounding

    def table(self, effects: Float[np.ndarray, "set used"]) -> Any:
        ones = np.ones((len(self.denominator), 1))
        return pair_table(effects.T[:, :, None], ones, self.denominator, self.reduce)

    def shares(self, effects: Float[np.ndarray, "set used"]) -> Float[np.ndarray, " set"]:
        """CTE of each set over all pairs."""
        return combine(self.table(effects))[0, :, 0]

    def run(self, sets: Sequence[Sequence[int]], advance: Advance) -> Float[np.ndarray, "set used"]:
        """Effects of sets of cells, given by their cells' numbers."""
        masks = np.zeros((len(sets), len(self.runs.cells)), dtype=bool)
        for number, cells in enumerate(sets):
            masks[number, list(cells)] = True
        found = self.runs.effects(masks)
        self.tried += len(sets)
        advance(self.tried)
        return found

    def of_all_cells(self, share: float) -> float:
        """CTE of all cells together.

        Raises:
            TraceError: it is less than the share.
        """
        found = float(self.shares(self.runs.effects(np.ones((1, len(self.runs.cells)), dtype=bool)))[0])
        if not self.reaches(np.array([found]), share)[0]:
            raise TraceError(
                f"share={share:g}: all {len(self.runs.cells)} cells of the map together carry {found:.3f} of S_corr - "
                f"S_foil: ask for less, or trace another site"
            )
        return found

    def in_order(self, share: float, candidates: int, advance: Advance) -> Found:
        """The shortest beginning of the map's order that reaches the share."""
        whole = self.of_all_cells(share)
        order = self.runs.cells.by_effect().tolist()
        for at in range(0, len(order), _STEP):
            sizes = range(at + 1, min(at + _STEP, len(order)) + 1)
            reached = self.reaches(self.shares(self.run([order[:size] for size in sizes], advance)), share)
            if reached.any():
                chosen = order[: sizes[int(reached.argmax())]]
                return chosen, self._among_first(chosen), whole
        return order, np.ones(len(order)), whole  # all of them reach it, within rounding

    def greedily(self, share: float, candidates: int, advance: Advance) -> Found:
        """Cell by cell the one that adds most; then without those that are not needed."""
        whole = self.of_all_cells(share)
        pool = self.runs.cells.by_effect()[:candidates].tolist()
        chosen: list[int] = []
        stability: dict[int, float] = {}
        while pool:
            effects = self.run([[*chosen, cell] for cell in pool], advance)
            shares = self.shares(effects)
            best = int(shares.argmax())
            stability[pool[best]] = self._wins(effects, best)
            chosen.append(pool.pop(best))
            if self.reaches(shares, share)[best]:
                break
        else:
            reached = float(self.shares(self.run([chosen], advance))[0])
            raise TraceError(
                f"share={share:g}: the {len(chosen)} candidates together carry {reached:.3f} of S_corr - S_foil: give "
                f"candidates= more than {candidates}"
            )
        for cell in chosen[:-1]:
            without = [other for other in chosen if other != cell]
            if self.reaches(self.shares(self.run([without], advance)), share)[0]:
                chosen = without
        return chosen, np.array([stability[cell] for cell in chosen]), whole

    def _wins(self, effects: Float[np.ndarray, "set used"], best: int) -> float:
        """In which share of the draws the same cell would be taken."""
        if self.draws is None:
            return float("nan")
        shares = bootstrap(self.table(effects), self.clusters, self.draws)[..., 0]
        return float((shares.argmax(axis=1) == best).mean())

    def _among_first(self, chosen: Sequence[int]) -> Float[np.ndarray, " cell"]:
        """In which share of the draws each cell is among as many first ones of the map."""
        if self.draws is None:
            return np.full(len(chosen), np.nan)
        runs = self.runs
        effect = np.nan_to_num(runs.trace.effect(runs.used))
        member = runs.columns_of[:, :, None] == np.arange(len(runs.cells.rows))
        counts = member.sum(axis=1).astype(np.float64)
        table = pair_table(effect @ member, counts, self.denominator, self.reduce)
        maps = bootstrap(table, self.clusters, self.draws)
        values = maps[:, runs.cells.layer - int(runs.trace.layers[0]), runs.cells.row]
        ranks = np.argsort(np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=1, kind="stable"), axis=1)
        found: Float[np.ndarray, " cell"] = (ranks[:, list(chosen)] < len(chosen)).mean(axis=0)
        return found


def _completed(chosen: Sequence[int], n_cells: int) -> Int[np.ndarray, " cell"]:
    """An order of all cells that begins with the chosen ones."""
    return np.array([*chosen, *(cell for cell in range(n_cells) if cell not in set(chosen))])

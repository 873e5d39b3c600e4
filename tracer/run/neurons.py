"""Finds the neurons that carry the difference: gradients rank all of them, replacements measure the first ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ..pairs.pairs import Pair
from ..results.neurons import Neurons
from ..results.sides import rows_of
from .columns import select_columns
from .entering import EnteringPairs
from .finer_options import NeuronOptions
from .joint import effects_of_sets
from .options import TraceOptions
from .progress import ProgressCallback, progress_bar

if TYPE_CHECKING:
    import torch

    from ...patching import DualEncoder, JointEngine, NeuronAttribution
    from ..pairs.directions import Direction
    from .options import Positions

__all__ = ["neurons"]

_CELLS = 256  # cells whose runs share a preparation


@explains_arguments
def neurons(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    top: int = NeuronOptions.top,
    others: int = NeuronOptions.others,
    positions: Positions | None = NeuronOptions.positions,
    align: str = NeuronOptions.align,
    segment: str | None = NeuronOptions.segment,
    direction: Direction = NeuronOptions.direction,
    steps: int = NeuronOptions.steps,
    batch_size: int | Literal["auto"] = NeuronOptions.batch_size,
    dtype: torch.dtype | str | None = NeuronOptions.dtype,
    floor: float | None = NeuronOptions.floor,
    seed: int = NeuronOptions.seed,
    progress: bool | ProgressCallback = True,
) -> Neurons:
    """The neurons of the MLPs that carry the difference between two captions, by layer and token.

    A cell is one neuron (an activation that the MLP's last linear layer reads, behind the activation function) of one
    layer at the tokens of one row. There are layers × rows × 4 d_model of them, so that all are *estimated* first, by
    gradient × difference, CTE(l, p, n) ≈ -dS/da(l, p, n) (a_foil - a_corr) / (S_corr - S_foil), from one backward pass
    per pair of captions whatever the number of images. The cells with the largest absolute estimates are then
    *replaced*, each in runs of its own, and :attr:`Neurons.agreement` says how far the estimates were right.

    Args:
        model, pairs, direction, batch_size, dtype, floor: as :func:`trace` takes them.
        top: how many cells are replaced.
        others: how many further cells are, drawn at random: they would show neurons that the estimates miss.
        positions: "each": rows by ``align``, as in a map; or one set of tokens, as :func:`trace` takes it.
        align, segment: as in :meth:`CausalTrace.map`.
        steps: gradients between base and donor that are averaged (integrated gradients); 1: the base's own.
        seed: of the random cells, and of the runs that are checked against the generic path.
        progress: a bar, or a callback ``(done, total)`` over text pairs.

    Raises:
        TraceError: an option that is not allowed, or no neuron has an effect.
        SiteError: the tower's blocks are not taken apart.
        DegenerateTraceError: no pair enters.
        LengthMismatchError, IdenticalPairError, ContextOverflowError, DataFormatError, NonFiniteError,
        PatchDidNotFireError, TowerMismatchError: as :func:`trace`.

    >>> import tracescribe as ts
    >>> model, clear = ts.load("phantom"), ts.Text("The lungs are clear.")
    >>> pairs = [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=clear)]
    >>> found = ts.neurons(model, pairs, top=5, others=0, progress=False)
    >>> found.n_cells, len(found), found.row[0]  # 8 layers, 7 rows of tokens, 256 neurons
    (14336, 5, 'further after')
    """
    from ...patching import JointEngine, NeuronAttribution

    asked = NeuronOptions.given(locals())
    options = asked.trace_options(site="neurons", method="attribution", positions=asked.positions, steps=asked.steps)
    attribution = NeuronAttribution(model.text, dtype=options.torch_dtype)
    entering = EnteringPairs.of(model, attribution, pairs, options, asked.segment)
    rows = _Rows.of(model, entering, options, asked.align)
    # of every text: the gradients, the cells, and the first ones together
    n_runs = 2 - (asked.top + asked.others) // -_CELLS
    with progress_bar(progress, n_runs * len(rows.base)) as advance:
        estimate = _estimates(attribution, entering, rows, options, advance)
        first, drawn = _chosen(estimate, asked.top, asked.others, asked.seed)
        picked = np.concatenate([first, drawn])
        layer, row, neuron = np.unravel_index(picked, estimate.shape)
        replaced = _Replaced(JointEngine(model.text, dtype=options.torch_dtype), entering, rows, options, advance)
        effects = replaced.each(layer, row, neuron)
        together = replaced.all_of(layer[: len(first)], row[: len(first)], neuron[: len(first)])
    present = rows.holds[rows.of_pair][:, row].any(axis=2).T
    return Neurons(
        layer=layer + 1,
        row=tuple(rows.labels[at] for at in row.tolist()),
        neuron=neuron,
        estimate=estimate.ravel()[picked],
        chosen=np.arange(len(picked)) < len(first),
        effects=np.where(present, effects, np.nan),
        together=together,
        denominator=entering.denominator,
        clusters=entering.clusters,
        texts=entering.texts,
        rows=rows.labels,
        n_cells=estimate.size,
        n_layers=model.text.n_layers,
        n_neurons=estimate.shape[2],
        segment=entering.name,
        provenance={
            **entering.clean.provenance,
            "align": asked.align,
            "top": asked.top,
            "others": asked.others,
            "path": replaced.path,
        },
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Pairs with equal captions as one run, and which of its tokens each row of the result holds.

    base, donor: token ids by run. of_pair: the run of each pair. holds: by run, which positions belong to a row.
    """

    labels: tuple[str, ...]
    base: list[list[int]]
    donor: list[list[int]]
    of_pair: Int[np.ndarray, " pair"]
    holds: Bool[np.ndarray, "run row pos"]

    @classmethod
    def of(cls, model: DualEncoder, entering: EnteringPairs, options: TraceOptions, align: str) -> _Rows:
        from ...patching import site_named

        batch = entering.batch
        pair_of_run = batch.example_of_text
        base, donor = ([side[batch.patched_pair[pair]] for pair in pair_of_run] for side in (batch.base, batch.donor))
        columns, names = select_columns(model.text, batch, site_named(options.site), options.positions, None)
        longest = batch.kinds.shape[1]
        if names is None:
            rows = rows_of(entering.clean, np.arange(len(entering.clean)), align)
            present = np.unique(rows.index[rows.index >= 0])
            labels = tuple(rows.labels[at] for at in present.tolist())
            holds = rows.index[pair_of_run, None, :longest] == present[:, None]
        else:
            labels = names
            holds = np.zeros((len(base), 1, longest), dtype=bool)
            for run, pair in enumerate(pair_of_run.tolist()):
                holds[run, 0, list(columns[batch.patched_pair[pair]][0].positions)] = True
        return cls(labels, base, donor, batch.text_pair, holds)


def _estimates(
    engine: NeuronAttribution,
    entering: EnteringPairs,
    rows: _Rows,
    options: TraceOptions,
    advance: Callable[[int], None],
) -> Float[np.ndarray, "layer row neuron"]:
    """CTE of every cell to first order, over all pairs: sum of effects over sum of S_corr - S_foil."""
    towards = [entering.towards(np.flatnonzero(rows.of_pair == run)) for run in range(len(rows.base))]
    total: np.ndarray | None = None
    found = engine.by_neuron(rows.base, rows.donor, towards, steps=options.steps, batch_size=options.batch_size)
    for done, (run, effects) in enumerate(found, start=1):
        by_position = effects.double().cpu().numpy()  # layer, position, neuron
        holds = rows.holds[run, :, : by_position.shape[1]].astype(np.float64)
        by_row = np.einsum("rp,lpn->lrn", holds, by_position)
        total = by_row if total is None else total + by_row
        advance(done)
    assert total is not None
    weights = rows.holds[rows.of_pair].any(axis=2).astype(np.float64)
    return total / (entering.denominator @ weights)[:, None]


def _chosen(
    estimate: Float[np.ndarray, "layer row neuron"], top: int, others: int, seed: int
) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " other"]]:
    """Flat numbers of the cells with the largest absolute estimates, and of some drawn from the rest.

    Cells with the estimate 0 are those that cannot have an effect: before the first difference, or where they are not
    read.
    """
    flat = np.abs(estimate).ravel()
    order = np.argsort(-flat, kind="stable")[: np.count_nonzero(flat)]
    if not len(order):
        raise TraceError("no neuron differs between the captions where the text is read: there is nothing to rank")
    rest = order[top:]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:others]
    return order[:top], rest[np.sort(drawn)]


@dataclass(eq=False)
class _Replaced:
    """Runs exact replacements of cells."""

    engine: JointEngine
    entering: EnteringPairs
    rows: _Rows
    options: TraceOptions
    advance: Callable[[int], None]
    path: str = ""
    done: int = 1  # runs of every text, the gradients among them

    def each(self, *cells: Int[np.ndarray, " cell"]) -> Float[np.ndarray, "cell pair"]:
        """The effects of cells (layer, row, neuron), each replaced alone."""
        found = []
        for at in range(0, len(cells[0]), _CELLS):
            some = [axis[at : at + _CELLS] for axis in cells]
            found.append(self._run(some, np.eye(len(some[0]), dtype=bool)))
        return np.concatenate(found)

    def all_of(self, *cells: Int[np.ndarray, " cell"]) -> Float[np.ndarray, " pair"]:
        """The effect of cells that are replaced together."""
        return self._run(cells, np.ones((1, len(cells[0])), dtype=bool))[0]

    def _run(
        self, cells: Sequence[Int[np.ndarray, " cell"]], sets: Bool[np.ndarray, "set cell"]
    ) -> Float[np.ndarray, "set pair"]:
        from ...patching import Column, Sweep, site_named

        layer, row, neuron = cells
        columns, asked = [], {}
        for run, holds in enumerate(self.rows.holds):
            here = np.flatnonzero(holds[row].any(axis=1))
            columns.append(
                [Column(tuple(np.flatnonzero(holds[row[at]]).tolist()), int(neuron[at])) for at in here.tolist()]
            )
            member = np.zeros((len(sets), self.engine.tower.n_layers, len(here)), dtype=bool)
            member[:, layer[here], np.arange(len(here))] = sets[:, here]
            asked[run] = member
        prepared = self.engine.prepare(
            self.rows.base,
            self.rows.donor,
            sweep=Sweep(site_named("neurons")),
            columns=columns,
            batch_size=self.options.batch_size,
        )
        self.path = prepared.path
        before = self.done * len(asked)
        found = self.engine.patch_sets(
            prepared, asked, seed=self.options.seed, progress=lambda n: self.advance(before + n)
        )
        self.done += 1
        return effects_of_sets(found, self.rows.of_pair, self.entering.sign, self.entering.images)

"""Compares two traces: matches their pairs, resamples what they share together, and puts depths on one axis."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ...io.quoting import shown
from ...validation import Whole, check_choice, check_option
from ..choices import ALIGNMENTS
from ..pairs.indexing import distinct
from .alike import check_alike
from .comparison import Contrast, TraceComparison
from .matching import Pairing, match_pairs
from .profiles import pairs_used
from .resampling import degrees_of_freedom
from .sides import TOKEN_AGGREGATES, Estimated, Maps, RowSums, Side, by_layer, estimated, layer_table
from .statistics import AGGREGATES, REDUCTIONS, PairTable, minmax, percentile_interval, wants_bootstrap

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["compare", "interpolation"]

_FIXED = 1e-9  # spread below which a difference is fixed by construction: both are the same exact 0 or 1


@explains_arguments
def compare(
    first: CausalTrace | str | os.PathLike[str],
    second: CausalTrace | str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    pairing: Pairing = "auto",
    align: str = "role",
    aggregate: str = "sum",
    reduce: str = "ratio_of_means",
    segment: str | None = None,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> TraceComparison:
    """Compare two traces cell by cell, layer by layer and block by block.

    Pairs that are in both traces are compared with themselves: clusters and texts are resampled for both at once. The
    pairs that enter are then those that ``segment`` lets in in both. Otherwise the traces are two samples, each with
    its own pairs; clusters and texts that both name are still drawn together. Traces of models of different depths are
    compared at equal relative depth, layer over number of blocks: the deeper one's maps, profile and alpha are
    interpolated linearly between its layers at the depths of the shallower one's.

    Args:
        first, second: traces, or files that :meth:`CausalTrace.save` wrote. A difference is second - first.
        names: of the two; by default the files' names, or "first" and "second".
        pairing: "auto" pairs what is the same item (:func:`tracescribe.tracer.results.matching.match_pairs`); "id" all
            pairs with equal ids and groups, such as two wordings or targets of one item, and refuses if there are none;
            "order" pairs by place; "none" never.
        align, reduce, segment, aggregate, ci, n_boot, seed: as in :meth:`CausalTrace.map` and ``per_layer``.

    Raises:
        TraceError: traces that differ in their site, direction, metric, ...; no row in common; an unknown option.
        DegenerateTraceError: no pair enters.
        DataFormatError: a file that is no trace.

    >>> compare("no/such.safetensors", "other.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    check_choice("align", align, ALIGNMENTS)
    check_choice("reduce", reduce, REDUCTIONS)
    check_choice("aggregate", aggregate, (*AGGREGATES, *TOKEN_AGGREGATES))
    wants_bootstrap(ci, n_boot)
    seed = check_option("seed", seed, (Whole(0),))
    traces = _read(first), _read(second)
    told = _names((first, second), names)
    check_alike(*traces, "the traces")
    matching = match_pairs(*traces, pairing)
    used = [pairs_used(trace, segment)[0] for trace in traces]
    if matching.places is not None:
        used = _used_in_both(matching.places, used)
    sums = [RowSums.of(trace, pairs, align) for trace, pairs in zip(traces, used, strict=True)]
    rows = tuple(label for label in sums[0].labels if label in sums[1].labels)
    if not rows:
        raise TraceError(f"no common rows: {', '.join(sums[0].labels)} and {', '.join(sums[1].labels)}")
    tables = [
        _beside(one.of_rows(rows).table(reduce), layer_table(trace, pairs, aggregate, None, reduce))
        for one, trace, pairs in zip(sums, traces, used, strict=True)
    ]
    sides = [Side.of(trace, pairs, table) for trace, pairs, table in zip(traces, used, tables, strict=True)]
    if matching.places is not None:  # the same items: the clusters that the first says hold for both
        texts = _joined(sides[0].texts, sides[1].texts)
        sides = [Side(table, sides[0].clusters, texts) for table in tables]
    shallow = traces[0] if traces[0].n_layers <= traces[1].n_layers else traces[1]
    depth = shallow.layers / shallow.n_layers
    statistic = _Statistic([trace.layers / trace.n_layers for trace in traces], depth, len(rows), aggregate)
    found = estimated(sides, statistic, ci=ci, n_boot=n_boot, seed=seed)
    cells, profile, alpha = statistic.parts(found, ci)
    return TraceComparison(
        names=told,
        cells=cells,
        profile=profile,
        alpha=alpha,
        layers=shallow.layers,
        depth=depth,
        rows=rows,
        paired=matching.places is not None,
        matching=matching.said,
        n_pairs=(len(used[0]), len(used[1])),
        n_groups=min(len(np.unique(labels)) for labels in found.clusters),
        n_texts=found.n_texts,
        ci=ci,
        aggregate=aggregate,
        align=align,
        reduce=reduce,
        interpolated=_interpolated(traces, told),
        provenance={name: trace.provenance for name, trace in zip(("first", "second"), traces, strict=True)},
    )


def _joined(first: Sequence[Hashable], second: Sequence[Hashable]) -> list[Hashable]:
    """Texts of items that are paired: two items have one in common if they have in either trace.

    >>> _joined(["a", "a", "b", "c"], ["x", "y", "y", "z"])
    [0, 0, 0, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    (ours, one), (theirs, two) = distinct(first), distinct(second)
    n_texts = len(ours) + len(theirs)
    graph = coo_array((np.ones(len(one)), (one, two + len(ours))), shape=(n_texts, n_texts))
    found: list[Hashable] = connected_components(graph, directed=False)[1][one].tolist()
    return found


def _beside(cells: PairTable, tokens: PairTable) -> PairTable:
    """Both tables as one, so that they are resampled once: the rows of the map, then the pairs' own tokens."""
    amount = np.concatenate([cells.amount, tokens.amount], axis=2)
    return PairTable(amount, np.concatenate([cells.weight, tokens.weight], axis=1), cells.reduce)


class _Statistic:
    """Cells, profile and alpha of two traces at the depths of the shallower one, and their differences.

    Resampling scales the draws of every number by themselves, so that the difference is one of the numbers.
    """

    def __init__(
        self, depths: Sequence[Float[np.ndarray, "_"]], wanted: Float[np.ndarray, "layer"], n_rows: int, aggregate: str
    ) -> None:
        self._blocks = [depth > 0 for depth in depths]
        self._to_layers = [interpolation(depth, wanted) for depth in depths]
        self._to_blocks = [interpolation(depth[depth > 0], wanted[wanted > 0]) for depth in depths]
        self._cells, self._n_blocks, self._aggregate = (len(wanted), n_rows), int((wanted > 0).sum()), aggregate

    def __call__(self, maps: Maps) -> Float[np.ndarray, "draw 3 number"]:
        sides = []
        for cells, to_layers, to_blocks, blocks in zip(
            maps, self._to_layers, self._to_blocks, self._blocks, strict=True
        ):
            at_depth = np.einsum("gl,dlr->dgr", to_layers, cells)
            curve = by_layer(cells[:, :, -1:], self._aggregate, None)
            alpha = minmax(curve[:, blocks]) @ to_blocks.T
            flat = at_depth[:, :, :-1].reshape(len(cells), -1)
            sides.append(np.concatenate([flat, curve @ to_layers.T, alpha], axis=1))
        return np.stack([*sides, sides[1] - sides[0]], axis=1)

    def parts(self, found: Estimated, ci: float | None) -> tuple[Contrast, Contrast, Contrast]:
        """The numbers as contrasts of cells, of the profile and of alpha."""
        n_cells, n_layers = self._cells[0] * self._cells[1], self._cells[0]
        places = (slice(n_cells), slice(n_cells, n_cells + n_layers), slice(n_cells + n_layers, None))
        shapes = (self._cells, (n_layers,), (self._n_blocks,))
        limits = (np.inf, np.inf, 1.0)  # no two alphas differ by more than 1
        one, two, three = (
            _contrast(found, ci, at, shape, limit) for at, shape, limit in zip(places, shapes, limits, strict=True)
        )
        return one, two, three


def _contrast(found: Estimated, ci: float | None, at: slice, shape: tuple[int, ...], limit: float) -> Contrast:
    """Some of the numbers, with draws in which what both sides share was drawn together."""
    first, second, difference = found.value[:, at]
    lo, hi, p, q = (np.full(difference.shape, np.nan) for _ in range(4))
    if found.draws is not None and ci is not None:
        draws = found.draws[:, 2, at]
        with np.errstate(invalid="ignore"):
            spread = draws.std(axis=0, ddof=1)
        free = spread > _FIXED
        if free.any():
            lo[free], hi[free] = np.clip(percentile_interval(draws[:, free], ci), -limit, limit)
            p[free], q[free] = _tests(
                difference[free], spread[free], degrees_of_freedom(found.clusters, found.texts), ci
            )
    return Contrast(*(numbers.reshape(shape) for numbers in (first, second, difference, lo, hi, p, q)))


def _tests(
    difference: Float[np.ndarray, "cell"], spread: Float[np.ndarray, "cell"], freedom: float, ci: float
) -> tuple[Float[np.ndarray, "cell"], Float[np.ndarray, "cell"]]:
    """p and q of no difference, by t. The draws are widened by t / z, so that their percentiles are a t interval's."""
    from scipy.stats import false_discovery_control, norm, t

    tail = (1 + ci) / 2
    error = spread * norm.ppf(tail) / t.ppf(tail, freedom)
    p = 2 * t.sf(np.abs(difference) / error, freedom)
    return p, false_discovery_control(p)


def _read(trace: CausalTrace | str | os.PathLike[str]) -> CausalTrace:
    from .causal_trace import CausalTrace
    from .storage import load_trace

    if isinstance(trace, (str, os.PathLike)):
        return load_trace(trace)
    if not isinstance(trace, CausalTrace):
        raise TraceError(
            f"compare takes two causal traces or their files, not {shown(trace)}; evaluations are compared by "
            f"tracescribe.benchmark.compare"
        )
    return trace


def _names(given: Sequence[Any], names: Sequence[str] | None) -> tuple[str, str]:
    if names is not None:
        if isinstance(names, str) or len(names) != 2 or not all(isinstance(name, str) and name for name in names):
            raise TraceError(f"names must be two texts, not {shown(names)}")
        return names[0], names[1]
    stems = [Path(one).stem if isinstance(one, (str, os.PathLike)) else "" for one in given]
    if not all(stems) or stems[0] == stems[1]:
        return "first", "second"
    return stems[0], stems[1]


def _used_in_both(places: tuple[np.ndarray, np.ndarray], used: Sequence[np.ndarray]) -> list[Int[np.ndarray, "same"]]:
    """The items that enter from both traces."""
    keep = np.isin(places[0], used[0]) & np.isin(places[1], used[1])
    if not keep.any():
        raise TraceError(
            "no pair enters from both traces: those that one model gets right the other gets wrong; segment='all' "
            "takes all valid ones"
        )
    return [place[keep] for place in places]


def interpolation(
    known: Float[np.ndarray, "layer"], wanted: Float[np.ndarray, "depth"]
) -> Float[np.ndarray, "depth layer"]:
    """Weights that interpolate values at known depths linearly at the wanted ones.

    >>> interpolation(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), np.array([0.0, 1 / 3, 1.0])).round(3)[1]
    array([0.   , 0.667, 0.333, 0.   , 0.   ])
    """
    return np.stack([np.interp(wanted, known, row) for row in np.eye(len(known))], axis=1)


def _interpolated(traces: tuple[CausalTrace, CausalTrace], names: tuple[str, str]) -> str | None:
    one, two = (trace.n_layers for trace in traces)
    if one == two:
        return None
    deep = 0 if one > two else 1
    return (
        f"{names[deep]} ({max(one, two)} layers) is interpolated linearly at the relative depths of the "
        f"{min(one, two)} layers of {names[1 - deep]}"
    )

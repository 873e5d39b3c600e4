"""Compares two traces: matches their pairs, resamples what they share together, and puts depths on one axis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ...errors import TraceError
from ...io.quoting import shown
from .comparison import Contrast, TraceComparison
from .matching import Pairing, match_pairs
from .profiles import pairs_used
from .resampling import degrees_of_freedom
from .sides import Estimated, Maps, RowSums, Side, by_layer, estimated, layer_table
from .statistics import minmax, percentile_interval

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["compare"]

_FIXED = 1e-9  # spread below which a difference is fixed by construction: both are the same exact 0 or 1
_ALIKE = {
    "site": "site",
    "direction": "direction",
    "method": "method",
    "replace": "replacement",
    "positions": "positions",
    "heads": "heads",
    "window": "window",
    "modality": "modality",
}


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
        pairing: "auto" pairs what is the same item (:func:`tracescribe.tracer.results.matching.match_pairs`); "id"
            refuses if nothing is; "order" pairs by place; "none" never.
        align, reduce, segment, aggregate, ci, n_boot, seed: as in :meth:`CausalTrace.map` and ``per_layer``.

    Raises:
        TraceError: traces that differ in their site, direction, metric, ...; no row in common; an unknown option.
        DegenerateTraceError: no pair enters.
        DataFormatError: a file that is no trace.

    >>> compare("no/such.safetensors", "other.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    traces = _read(first), _read(second)
    told = _names((first, second), names)
    _check_alike(traces)
    matching = match_pairs(*traces, pairing)
    used = [pairs_used(trace, segment, stacklevel=3)[0] for trace in traces]
    if matching.places is not None:
        used = _used_in_both(matching.places, used)
    sums = [RowSums.of(trace, own, align) for trace, own in zip(traces, used, strict=True)]
    rows = tuple(label for label in sums[0].labels if label in sums[1].labels)
    if not rows:
        raise TraceError(f"no common rows: {', '.join(sums[0].labels)} and {', '.join(sums[1].labels)}")
    common = [one.of_rows(rows).table(reduce) for one in sums]
    by_token = [layer_table(t, own, aggregate, None, reduce) for t, own in zip(traces, used, strict=True)]
    sides = [Side.of(traces[0], used[0], common[0]), Side.of(traces[1], used[1], common[1])]
    if matching.places is not None:  # the same items: what the first says of them holds for both
        sides[1] = Side(common[1], sides[0].clusters, sides[0].texts)
    layer_sides = [Side(table, side.clusters, side.texts) for table, side in zip(by_token, sides, strict=True)]

    shallow = traces[0] if traces[0].n_layers <= traces[1].n_layers else traces[1]
    depths = [trace.layers / trace.n_layers for trace in traces]
    to_shallow = [_interpolation(depth, shallow.layers / shallow.n_layers) for depth in depths]
    block = shallow.layers > 0
    block_to_shallow = [
        _interpolation(depth[depth > 0], (shallow.layers / shallow.n_layers)[block]) for depth in depths
    ]

    def cells(maps: Maps) -> np.ndarray:
        return _with_difference([np.einsum("gl,...lr->...gr", w, m) for w, m in zip(to_shallow, maps, strict=True)])

    def profiles(maps: Maps) -> np.ndarray:
        curves = [by_layer(m, aggregate, None) for m in maps]
        return _with_difference([c @ w.T for w, c in zip(to_shallow, curves, strict=True)])

    def alphas(maps: Maps) -> np.ndarray:
        curves = [by_layer(m, aggregate, None)[:, d > 0] for m, d in zip(maps, depths, strict=True)]
        return _with_difference([minmax(c) @ w.T for w, c in zip(block_to_shallow, curves, strict=True)])

    options: dict[str, Any] = {"ci": ci, "n_boot": n_boot, "seed": seed}
    found = [
        estimated(some, statistic, **options)
        for some, statistic in ((sides, cells), (layer_sides, profiles), (layer_sides, alphas))
    ]
    return TraceComparison(
        names=told,
        **dict(zip(("cells", "profile", "alpha"), (_contrast(one, ci) for one in found), strict=True)),
        layers=shallow.layers,
        depth=shallow.layers / shallow.n_layers,
        rows=rows,
        paired=matching.places is not None,
        matching=matching.said,
        n_pairs=(len(used[0]), len(used[1])),
        n_groups=min(len(np.unique(labels)) for labels in found[0].clusters),
        n_texts=found[0].n_texts,
        ci=ci,
        aggregate=aggregate,
        align=align,
        reduce=reduce,
        interpolated=_interpolated(traces, told),
    )


def _with_difference(sides: Sequence[Float[np.ndarray, "draw *cell"]]) -> Float[np.ndarray, "draw side *cell"]:
    """Resampling scales every number's draws by themselves, so that the difference is one of them."""
    return np.stack([*sides, sides[1] - sides[0]], axis=1)


def _contrast(found: Estimated, ci: float | None) -> Contrast:
    """From both estimates and their difference, with draws in which what both sides share was drawn together."""
    first, second, difference = found.value
    unknown = np.full(difference.shape, np.nan)
    if found.draws is None or ci is None:
        return Contrast(first, second, difference, unknown, unknown, unknown, unknown)
    draws = found.draws[:, 2]
    with np.errstate(invalid="ignore"):
        spread = draws.std(axis=0, ddof=1)
    free = spread > _FIXED
    lo, hi = (np.where(free, bound, np.nan) for bound in percentile_interval(draws, ci))
    p, q = unknown.copy(), unknown.copy()
    if free.any():
        from scipy.stats import false_discovery_control, norm, t

        number = degrees_of_freedom(found.clusters, found.texts)
        tail = (1 + ci) / 2
        # the draws are widened by t / z of that many clusters, so that their percentiles are a t interval's
        error = spread[free] * norm.ppf(tail) / t.ppf(tail, number)
        p[free] = 2 * t.sf(np.abs(difference[free]) / error, number)
        q[free] = false_discovery_control(p[free])
    return Contrast(first, second, difference, lo, hi, p, q)


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


def _check_alike(traces: tuple[CausalTrace, CausalTrace]) -> None:
    one, two = traces
    for key, what in _ALIKE.items():
        ours, theirs = (trace.provenance.get(key) for trace in traces)
        if ours != theirs and None not in (ours, theirs):
            raise TraceError(f"the traces differ in their {what} ({shown(ours)} and {shown(theirs)}): trace both alike")
    if one.metric != two.metric:
        raise TraceError(
            f"the traces differ in their metric ({one.metric.name} and {two.metric.name}): score both alike"
        )


def _used_in_both(places: tuple[np.ndarray, np.ndarray], used: Sequence[np.ndarray]) -> list[Int[np.ndarray, "same"]]:
    """The items that enter from both traces."""
    keep = np.isin(places[0], used[0]) & np.isin(places[1], used[1])
    if not keep.any():
        raise TraceError(
            "no pair enters from both traces: those that one model gets right the other gets wrong; segment='all' "
            "takes all valid ones"
        )
    return [place[keep] for place in places]


def _interpolation(
    known: Float[np.ndarray, "layer"], wanted: Float[np.ndarray, "depth"]
) -> Float[np.ndarray, "depth layer"]:
    """Weights that interpolate values at known depths linearly at the wanted ones.

    >>> _interpolation(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), np.array([0.0, 1 / 3, 1.0])).round(3)[1]
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

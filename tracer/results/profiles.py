"""Computes maps and layer profiles of a trace: which pairs enter, and how they are combined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ...errors import DegenerateTraceError, TraceWarning
from ...validation import MAX_DRAWS, Whole, check_choice, check_option
from ...warn import warn_user
from ..choices import SEGMENTS
from .maps import LayerProfile, TraceMap
from .sides import Maps, RowSums, Side, by_layer, estimated, layer_table
from .statistics import cluster_index, percentile_interval, split_half_correlation

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["layer_profile", "pairs_used", "split_half", "trace_map"]

PREFERRED = "S_corr > S_foil"
INVERTED = "S_corr < S_foil"


def pairs_used(trace: CausalTrace, segment: str | None, *, warn: bool = True) -> tuple[Int[np.ndarray, "used"], str]:
    """Indices of the pairs that enter a map, and the name of that choice; see :meth:`CausalTrace.map`."""
    valid = trace.valid
    if not valid.any():
        raise DegenerateTraceError(
            f"none of the {trace.n_pairs} pairs has |S_corr - S_foil| >= {trace.floor:g} (the largest is "
            f"{np.abs(trace.denominator).max():.2g}), so that no CTE is defined: the model does not tell these "
            "captions apart on these images; choose other pairs or lower the floor"
        )
    if segment is None:
        preferred = valid & (trace.denominator > 0)
        if preferred.any():
            return np.flatnonzero(preferred), PREFERRED
        if warn:
            warn_user(
                f"the model prefers the foil in every valid pair ({valid.sum()} of {trace.n_pairs}); the result is "
                "over these, not over pairs that it gets right",
                TraceWarning,
            )
        return np.flatnonzero(valid), INVERTED
    check_choice("segment", segment, SEGMENTS)
    used = valid if segment == "all" else valid & (trace.segment == segment)
    if not used.any():
        sizes = ", ".join(f"{(valid & (trace.segment == name)).sum()} {name}" for name in SEGMENTS[:3])
        raise DegenerateTraceError(f"no valid pair is {segment!r}; there are {sizes}")
    return np.flatnonzero(used), segment


def trace_map(
    trace: CausalTrace, align: str, reduce: str, segment: str | None, ci: float | None, n_boot: int, seed: int
) -> TraceMap:
    """See :meth:`CausalTrace.map`."""
    used, name = pairs_used(trace, segment)
    sums = RowSums.of(trace, used, align)
    count = sums.count.sum(axis=0)
    with np.errstate(invalid="ignore"):  # a row that no pair has
        effect, denominator = sums.effect.sum(axis=0) / count, (sums.denominator @ sums.count) / count
    found = estimated([Side.of(trace, used, sums.table(reduce))], lambda maps: maps[0], ci=ci, n_boot=n_boot, seed=seed)
    lo = hi = None
    if found.draws is not None and ci is not None:
        lo, hi = percentile_interval(found.draws, ci)
    return TraceMap(
        values=found.value,
        rows=sums.labels,
        layers=trace.layers,
        counts=(sums.count > 0).sum(axis=0),
        reduce=reduce,
        align=align,
        segment=name,
        n_pairs=len(used),
        effect=effect,
        denominator=denominator,
        lo=lo,
        hi=hi,
        ci=None if lo is None else ci,
    )


def layer_profile(
    *traces: CausalTrace,
    aggregate: str,
    ci: float | None,
    n_boot: int,
    seed: int,
    reduce: str,
    segment: str | None,
    align: str | None,
) -> LayerProfile:
    """The profile of a trace, or that of a trace less its control's.

    See :meth:`CausalTrace.per_layer` and :meth:`Excess.per_layer`.
    """
    sides, denominators = [], []
    for trace in traces:  # no comprehension: some Pythons give it a frame, and a warning counts frames to the caller
        used, _ = pairs_used(trace, segment)
        sides.append(Side.of(trace, used, layer_table(trace, used, aggregate, align, reduce)))
        denominators.append(float(trace.denominator[used].mean()))

    def difference(maps: Maps) -> Float[np.ndarray, "draw layer"]:
        ours, *control = (by_layer(cells, aggregate, align) for cells in maps)
        return ours - control[0] if control else ours

    found = estimated(sides, difference, ci=ci, n_boot=n_boot, seed=seed)
    return LayerProfile.from_replicates(
        found.value,
        found.draws,
        aggregate=aggregate,
        ci=ci,
        n_pairs=len(found.clusters[0]),
        n_groups=found.n_clusters,
        n_texts=found.n_texts,
        denominator=denominators[0] if len(sides) == 1 else None,
        layers=traces[0].layers,
    )


def split_half(
    trace: CausalTrace, *, seed: int, n_splits: int, align: str, reduce: str, segment: str | None, by: str
) -> float:
    """See :meth:`CausalTrace.split_half`."""
    check_choice("by", by, ("group", "text"))
    check_option("n_splits", n_splits, (Whole(1, MAX_DRAWS),))
    used, _ = pairs_used(trace, segment)
    table = RowSums.of(trace, used, align).table(reduce)
    labels = trace.groups if by == "group" else [str(number) for number in trace.text_pair]
    cluster, _ = cluster_index([labels[i] for i in used])
    return float(np.mean(split_half_correlation(table, cluster, n_splits, seed, of=by)))

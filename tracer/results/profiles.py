"""From a causal trace to maps and layer profiles: which pairs enter, how tokens become rows, how pairs are combined."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ...errors import DegenerateTraceError, TraceError, TraceWarning
from ...validation import check_choice
from ..pairs.roles import ALIGNMENTS, QUANTMEYER_ROWS, Rows, assign_rows
from .maps import LayerProfile, TraceMap
from .statistics import (
    AGGREGATES,
    PairTable,
    aggregate_rows,
    bootstrap,
    cluster_draws,
    cluster_index,
    combine,
    pair_table,
    split_half_correlation,
    wants_bootstrap,
)

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["layer_profile", "pairs_used", "profile_difference", "split_half", "trace_map"]

SEGMENTS = ("correct", "ambiguous", "incorrect", "all")
PREFERRED = "S_corr > S_foil"
INVERTED = "S_corr < S_foil"
_CHUNK = 512


def pairs_used(trace: CausalTrace, segment: str | None) -> tuple[Int[np.ndarray, "used"], str]:
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
        warnings.warn(
            f"the model prefers the foil in every valid pair ({valid.sum()} of {trace.n_pairs}); the result is over "
            "these, not over pairs that it gets right",
            TraceWarning,
            stacklevel=4,
        )
        return np.flatnonzero(valid), INVERTED
    check_choice("segment", segment, SEGMENTS)
    used = valid if segment == "all" else valid & (trace.segment == segment)
    if not used.any():
        sizes = ", ".join(f"{(valid & (trace.segment == name)).sum()} {name}" for name in SEGMENTS[:3])
        raise DegenerateTraceError(f"no valid pair is {segment!r}; there are {sizes}")
    return np.flatnonzero(used), segment


def rows_of(trace: CausalTrace, used: Int[np.ndarray, "used"], align: str) -> Rows:
    """The rows of the last axis: of the tokens by ``align``, or, where it is not the tokens, one for each column."""
    check_choice("align", align, ALIGNMENTS)
    if trace.columns is not None:
        return Rows(trace.columns, np.broadcast_to(np.arange(len(trace.columns)), (len(used), len(trace.columns))))
    return assign_rows(
        align, trace.kinds[used], trace.differs[used], [trace.tokens[i] for i in used], [trace.ids[i] for i in used]
    )


def _row_table(
    trace: CausalTrace, used: Int[np.ndarray, "used"], align: str, reduce: str
) -> tuple[PairTable, tuple[str, ...]]:
    """Table over the rows that at least one used pair has (Quantmeyer's: over all eight), and their names."""
    rows = rows_of(trace, used, align)
    present = np.arange(len(rows.labels)) if rows.labels == QUANTMEYER_ROWS else np.unique(rows.index[rows.index >= 0])
    effects, counts = [], []
    for start in range(0, len(used), _CHUNK):  # membership [pair, token, row] of all pairs at once may be gigabytes
        chunk = slice(start, start + _CHUNK)
        member = rows.member(chunk)[:, :, present]
        effects.append(np.nan_to_num(trace.effect(used[chunk])) @ member)
        counts.append(member.sum(axis=1))
    table = pair_table(np.concatenate(effects), np.concatenate(counts), trace.denominator[used], reduce)
    return table, tuple(rows.labels[row] for row in present)


def _token_table(trace: CausalTrace, used: Int[np.ndarray, "used"], aggregate: str, reduce: str) -> PairTable:
    """Table with one row: each pair's own tokens, aggregated before pairs are combined."""
    denominator = trace.denominator[used]
    own = aggregate_rows(trace.effect(used) / denominator[:, None, None], aggregate) * denominator[:, None]
    return pair_table(own[:, :, None], np.ones((len(used), 1)), denominator, reduce)


def _table(
    trace: CausalTrace, used: Int[np.ndarray, "used"], aggregate: str, align: str | None, reduce: str
) -> PairTable:
    check_choice("aggregate", aggregate, AGGREGATES)
    return _token_table(trace, used, aggregate, reduce) if align is None else _row_table(trace, used, align, reduce)[0]


def _by_layer(
    maps: Float[np.ndarray, "draw layer row"], aggregate: str, align: str | None
) -> Float[np.ndarray, "draw layer"]:
    """One number per layer: without alignment the tokens are aggregated already, and there is only one row."""
    return maps[..., 0] if align is None else aggregate_rows(maps, aggregate)


def trace_map(trace: CausalTrace, align: str, reduce: str, segment: str | None) -> TraceMap:
    """See :meth:`CausalTrace.map`."""
    used, name = pairs_used(trace, segment)
    table, labels = _row_table(trace, used, align, reduce)
    return TraceMap(
        values=combine(table)[0],
        rows=labels,
        layers=trace.layers,
        counts=(table.weight != 0).sum(axis=0),
        reduce=reduce,
        align=align,
        segment=name,
        n_pairs=len(used),
    )


def layer_profile(
    trace: CausalTrace,
    *,
    aggregate: str,
    ci: float | None,
    n_boot: int,
    seed: int,
    reduce: str,
    segment: str | None,
    align: str | None,
) -> LayerProfile:
    """See :meth:`CausalTrace.per_layer`."""
    used, _ = pairs_used(trace, segment)
    table = _table(trace, used, aggregate, align, reduce)
    cluster, n_groups = cluster_index([trace.groups[i] for i in used])
    replicates = None
    if wants_bootstrap(ci, n_boot) and n_groups > 1:
        replicates = _by_layer(bootstrap(table, cluster, cluster_draws(n_groups, n_boot, seed)), aggregate, align)
    return LayerProfile.from_replicates(
        _by_layer(combine(table), aggregate, align)[0],
        replicates,
        aggregate=aggregate,
        ci=ci,
        n_pairs=len(used),
        n_groups=n_groups,
        layers=trace.layers,
    )


def profile_difference(
    trace: CausalTrace,
    control: CausalTrace,
    *,
    aggregate: str = "sum",
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
    reduce: str = "ratio_of_means",
    segment: str | None = None,
    align: str | None = None,
) -> LayerProfile:
    """Profile of a trace minus that of its control; see :meth:`Excess.per_layer`."""
    sides = []
    for side in (trace, control):
        used, _ = pairs_used(side, segment)
        sides.append((_table(side, used, aggregate, align, reduce), [side.groups[i] for i in used]))
    (ours, our_groups), (theirs, their_groups) = sides
    value = _by_layer(combine(ours), aggregate, align)[0] - _by_layer(combine(theirs), aggregate, align)[0]

    replicates = None
    n_ours, n_theirs = len(set(our_groups)), len(set(their_groups))
    if wants_bootstrap(ci, n_boot) and min(n_ours, n_theirs) > 1:
        if set(our_groups) & set(their_groups):
            cluster, n_groups = cluster_index(our_groups + their_groups)
            our_cluster, their_cluster = cluster[: len(our_groups)], cluster[len(our_groups) :]
            our_draws = their_draws = cluster_draws(n_groups, n_boot, seed)
        else:
            our_cluster, their_cluster = cluster_index(our_groups)[0], cluster_index(their_groups)[0]
            # Independent streams from one seed: the second sample must not repeat the first one's choices.
            first, second = np.random.SeedSequence(seed).generate_state(2)
            our_draws = cluster_draws(n_ours, n_boot, int(first))
            their_draws = cluster_draws(n_theirs, n_boot, int(second))
        replicates = _by_layer(bootstrap(ours, our_cluster, our_draws), aggregate, align)
        replicates = replicates - _by_layer(bootstrap(theirs, their_cluster, their_draws), aggregate, align)
    return LayerProfile.from_replicates(
        value,
        replicates,
        aggregate=aggregate,
        ci=ci,
        n_pairs=len(our_groups),
        n_groups=n_ours,
        layers=trace.layers,
    )


def split_half(trace: CausalTrace, *, seed: int, n_splits: int, align: str, reduce: str, segment: str | None) -> float:
    """See :meth:`CausalTrace.split_half`."""
    if n_splits < 1:
        raise TraceError(f"n_splits must be at least 1, not {n_splits!r}")
    used, _ = pairs_used(trace, segment)
    table, _ = _row_table(trace, used, align, reduce)
    cluster, _ = cluster_index([trace.groups[i] for i in used])
    return float(np.mean(split_half_correlation(table, cluster, n_splits, seed)))

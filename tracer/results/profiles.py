"""Computes maps and layer profiles of a trace: which pairs enter, how tokens become rows, how pairs are combined."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import DegenerateTraceError, TraceError, TraceWarning
from ...validation import check_choice
from ..pairs.indexing import distinct, picked
from ..pairs.roles import ALIGNMENTS, QUANTMEYER_ROWS, Rows, TokenKind, assign_rows
from .maps import LayerProfile, TraceMap
from .resampling import two_way_replicates
from .statistics import (
    AGGREGATES,
    PairTable,
    aggregate_rows,
    bootstrap,
    cluster_index,
    combine,
    pair_table,
    split_half_correlation,
    wants_bootstrap,
)

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["layer_profile", "pairs_used", "split_half", "trace_map"]

SEGMENTS = ("correct", "ambiguous", "incorrect", "all")
# Aggregates of certain tokens of each pair, and what is computed over them.
TOKEN_AGGREGATES = {"differing": "sum", "pooled": "sum", "std_from_differing": "std"}
POOLED_KINDS = {
    "eos": TokenKind.END,
    "argmax": TokenKind.END,
    "last": TokenKind.END,
    "cls": TokenKind.START,
}
PREFERRED = "S_corr > S_foil"
INVERTED = "S_corr < S_foil"
_CHUNK = 512


def pairs_used(
    trace: CausalTrace, segment: str | None, *, warn: bool = True, stacklevel: int = 4
) -> tuple[Int[np.ndarray, "used"], str]:
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
            warnings.warn(
                f"the model prefers the foil in every valid pair ({valid.sum()} of {trace.n_pairs}); the result is "
                "over these, not over pairs that it gets right",
                TraceWarning,
                stacklevel=stacklevel,
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


@dataclass(frozen=True, eq=False)
class _RowSums:
    """Effects and numbers of tokens of each used pair, by the rows that at least one has (of Quantmeyer's, all)."""

    effect: Float[np.ndarray, "pair layer row"]
    count: Float[np.ndarray, "pair row"]
    denominator: Float[np.ndarray, "pair"]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, trace: CausalTrace, used: Int[np.ndarray, "used"], align: str) -> _RowSums:
        rows = rows_of(trace, used, align)
        every = rows.labels == QUANTMEYER_ROWS
        present = np.arange(len(rows.labels)) if every else np.unique(rows.index[rows.index >= 0])
        effects, counts = [], []
        for start in range(0, len(used), _CHUNK):  # membership [pair, token, row] of all pairs may be gigabytes
            chunk = slice(start, start + _CHUNK)
            member = rows.member(chunk)[:, :, present]
            effects.append(np.nan_to_num(trace.effect(used[chunk])) @ member)
            counts.append(member.sum(axis=1))
        labels = tuple(rows.labels[row] for row in present)
        return cls(np.concatenate(effects), np.concatenate(counts), trace.denominator[used], labels)

    def table(self, reduce: str) -> PairTable:
        return pair_table(self.effect, self.count, self.denominator, reduce)


def _token_table(trace: CausalTrace, used: Int[np.ndarray, "used"], aggregate: str, reduce: str) -> PairTable:
    """Table with one row: each pair's own tokens, aggregated before pairs are combined."""
    denominator = trace.denominator[used]
    cells = trace.effect(used) / denominator[:, None, None]
    if aggregate in TOKEN_AGGREGATES:
        cells = np.where(_counted(trace, used, aggregate)[:, None], cells, np.nan)
        aggregate = TOKEN_AGGREGATES[aggregate]
    effect = aggregate_rows(cells, aggregate) * denominator[:, None]
    return pair_table(effect[:, :, None], np.ones((len(used), 1)), denominator, reduce)


def _counted(trace: CausalTrace, used: Int[np.ndarray, "used"], aggregate: str) -> Bool[np.ndarray, "pair token"]:
    """The tokens that an aggregate of certain tokens takes."""
    if trace.columns is not None:
        raise TraceError(
            f"aggregate {aggregate!r} needs a trace by token; the columns here are {trace.columns[0]}, ..."
        )
    differs, kinds = trace.differs[used], trace.kinds[used]
    if aggregate == "differing":
        return differs
    if aggregate == "std_from_differing":
        return np.maximum.accumulate(differs, axis=1)
    pooling = str(trace.provenance.get("tower", {}).get("pooling"))
    if pooling not in POOLED_KINDS:
        raise TraceError(f"aggregate 'pooled' needs a tower that reads one token; this one's pooling is {pooling!r}")
    return kinds == POOLED_KINDS[pooling]


def _table(
    trace: CausalTrace, used: Int[np.ndarray, "used"], aggregate: str, align: str | None, reduce: str
) -> PairTable:
    check_choice("aggregate", aggregate, AGGREGATES if align is not None else (*AGGREGATES, *TOKEN_AGGREGATES))
    return (
        _token_table(trace, used, aggregate, reduce) if align is None else _RowSums.of(trace, used, align).table(reduce)
    )


def _by_layer(
    maps: Float[np.ndarray, "draw layer row"], aggregate: str, align: str | None
) -> Float[np.ndarray, "draw layer"]:
    """One number per layer: without alignment the tokens are aggregated already, and there is only one row."""
    return maps[..., 0] if align is None else aggregate_rows(maps, aggregate)


def trace_map(trace: CausalTrace, align: str, reduce: str, segment: str | None) -> TraceMap:
    """See :meth:`CausalTrace.map`."""
    used, name = pairs_used(trace, segment)
    sums = _RowSums.of(trace, used, align)
    count = sums.count.sum(axis=0)
    with np.errstate(invalid="ignore"):  # a row that no pair has
        effect, denominator = sums.effect.sum(axis=0) / count, (sums.denominator @ sums.count) / count
    return TraceMap(
        values=combine(sums.table(reduce))[0],
        rows=sums.labels,
        layers=trace.layers,
        counts=(sums.count > 0).sum(axis=0),
        reduce=reduce,
        align=align,
        segment=name,
        n_pairs=len(used),
        effect=effect,
        denominator=denominator,
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
    sides = []
    for trace in traces:  # no comprehension: some Pythons give it a frame, and a warning counts frames to the caller
        sides.append(_Side.of(trace, aggregate, reduce, segment, align))

    def difference(maps: Sequence[Float[np.ndarray, "draw layer row"]]) -> Float[np.ndarray, "draw layer"]:
        ours, *control = (_by_layer(cells, aggregate, align) for cells in maps)
        return ours - control[0] if control else ours

    def estimate(
        labels: Sequence[Int[np.ndarray, "pair"]], draws: Float[np.ndarray, "boot cluster"]
    ) -> Float[np.ndarray, "boot layer"]:
        return difference([bootstrap(side.table, own, draws) for side, own in zip(sides, labels, strict=True)])

    value = difference([combine(side.table) for side in sides])[0]
    clusters, texts = (_labels(sides, kind) for kind in ("clusters", "texts"))
    replicates = None
    if ci is not None and wants_bootstrap(ci, n_boot):
        replicates = two_way_replicates(estimate, value, clusters, texts, ci=ci, n_boot=n_boot, seed=seed)
    return LayerProfile.from_replicates(
        value,
        replicates,
        aggregate=aggregate,
        ci=ci,
        n_pairs=len(clusters[0]),
        n_groups=len(np.unique(clusters[0])),
        n_texts=min(len(np.unique(labels)) for labels in texts),
        denominator=sides[0].denominator if len(sides) == 1 else None,
        layers=traces[0].layers,
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """The pairs of one trace that enter a profile; of two, the second is subtracted."""

    table: PairTable
    clusters: list[Hashable]  # of the pairs; equal ones are one cluster, within a trace and between two
    texts: list[Hashable]
    denominator: float

    @classmethod
    def of(cls, trace: CausalTrace, aggregate: str, reduce: str, segment: str | None, align: str | None) -> _Side:
        used, _ = pairs_used(trace, segment, stacklevel=5)
        table = _table(trace, used, aggregate, align, reduce)
        clusters, texts = cluster_keys(trace, used), text_keys(trace, used)
        return cls(table, clusters, texts, float(trace.denominator[used].mean()))


def _labels(sides: Sequence[_Side], kind: Literal["clusters", "texts"]) -> list[Int[np.ndarray, "pair"]]:
    keys = [getattr(side, kind) for side in sides]
    index = distinct(key for side in keys for key in side)[1]
    return np.split(index, np.cumsum([len(side) for side in keys])[:-1])


def cluster_keys(trace: CausalTrace, used: Int[np.ndarray, "used"]) -> list[Hashable]:
    """The cluster of each pair, such that two traces have one in common only where it is meant.

    A cluster that the user named (by ``group`` or ``id``) is known by its name. One that has its pair's number is known
    by what it holds: the captions' tokens and S_corr and S_foil of its first pair, which with the same model are those
    of the same captions and image; and by how many equal ones came before.
    """
    groups = picked(trace.groups, used)
    named = named_clusters(trace)
    if named.all():
        return list(groups)
    known: dict[str, Hashable] = {}
    times: dict[Hashable, int] = {}
    keys: list[Hashable] = []
    for pair, group in zip(used.tolist(), groups, strict=True):
        if named[pair]:
            keys.append(group)
            continue
        if group not in known:
            scores = float(trace.scores.correct[pair]), float(trace.scores.foil[pair])
            content = (trace.tokens[pair], trace.foil_tokens[pair], *scores)
            known[group] = (content, times.setdefault(content, 0))
            times[content] += 1
        keys.append(known[group])
    return keys


def named_clusters(trace: CausalTrace) -> Bool[np.ndarray, "pair"]:
    """Whether the user named each pair's cluster; of a trace that does not say, those whose names are no numbers."""
    if trace.named is not None:
        return trace.named
    return np.fromiter((not group.isdecimal() for group in trace.groups), dtype=bool, count=trace.n_pairs)


def text_keys(trace: CausalTrace, used: Int[np.ndarray, "used"]) -> list[Hashable]:
    """The two captions of each pair, by their tokens; of pairs of images, the caption that is judged."""
    if trace.provenance.get("modality") == "image":
        return list(picked(trace.groups if trace.captions is None else trace.captions, used))
    _, first, which = np.unique(trace.text_pair[used], return_index=True, return_inverse=True)
    texts = [(trace.tokens[pair], trace.foil_tokens[pair]) for pair in used[first].tolist()]
    return list(picked(texts, which))


def split_half(trace: CausalTrace, *, seed: int, n_splits: int, align: str, reduce: str, segment: str | None) -> float:
    """See :meth:`CausalTrace.split_half`."""
    if n_splits < 1:
        raise TraceError(f"n_splits must be at least 1, not {n_splits!r}")
    used, _ = pairs_used(trace, segment)
    table = _RowSums.of(trace, used, align).table(reduce)
    cluster, _ = cluster_index([trace.groups[i] for i in used])
    return float(np.mean(split_half_correlation(table, cluster, n_splits, seed)))

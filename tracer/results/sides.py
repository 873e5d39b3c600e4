"""What each pair of a trace contributes to a map or profile, and what it shares with other pairs that are resampled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import TraceError
from ...validation import check_choice
from ..choices import ALIGNMENTS
from ..pairs.indexing import distinct, picked
from ..pairs.roles import QUANTMEYER_ROWS, Rows, TokenKind, assign_rows
from .resampling import two_way_replicates
from .statistics import AGGREGATES, PairTable, aggregate_rows, bootstrap, combine, pair_table, wants_bootstrap

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = [
    "Estimated",
    "RowSums",
    "Side",
    "by_layer",
    "cluster_keys",
    "estimated",
    "layer_table",
    "rows_of",
    "text_keys",
]

# Aggregates of certain tokens of each pair, and what is computed over them.
TOKEN_AGGREGATES = {"differing": "sum", "pooled": "sum", "std_from_differing": "std"}
POOLED_KINDS = {
    "eos": TokenKind.END,
    "argmax": TokenKind.END,
    "last": TokenKind.END,
    "cls": TokenKind.START,
}
_CHUNK = 512
Maps = Sequence[Float[np.ndarray, "draw _layer _row"]]


def rows_of(trace: CausalTrace, used: Int[np.ndarray, "used"], align: str) -> Rows:
    """The rows of the last axis: of the tokens by ``align``, or, where it is not the tokens, one for each column."""
    check_choice("align", align, ALIGNMENTS)
    if trace.columns is not None:
        return Rows(trace.columns, np.broadcast_to(np.arange(len(trace.columns)), (len(used), len(trace.columns))))
    return assign_rows(
        align, trace.kinds[used], trace.differs[used], [trace.tokens[i] for i in used], [trace.ids[i] for i in used]
    )


@dataclass(frozen=True, eq=False)
class RowSums:
    """Effects and numbers of tokens of each used pair, by the rows that at least one has (of Quantmeyer's, all)."""

    effect: Float[np.ndarray, "pair layer row"]
    count: Float[np.ndarray, "pair row"]
    denominator: Float[np.ndarray, "pair"]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, trace: CausalTrace, used: Int[np.ndarray, "used"], align: str) -> RowSums:
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

    def of_rows(self, labels: Sequence[str]) -> RowSums:
        """Only these rows, in this order."""
        places = [self.labels.index(label) for label in labels]
        return RowSums(self.effect[:, :, places], self.count[:, places], self.denominator, tuple(labels))


def token_table(trace: CausalTrace, used: Int[np.ndarray, "used"], aggregate: str, reduce: str) -> PairTable:
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


def layer_table(
    trace: CausalTrace, used: Int[np.ndarray, "used"], aggregate: str, align: str | None, reduce: str
) -> PairTable:
    check_choice("aggregate", aggregate, AGGREGATES if align is not None else (*AGGREGATES, *TOKEN_AGGREGATES))
    return (
        token_table(trace, used, aggregate, reduce) if align is None else RowSums.of(trace, used, align).table(reduce)
    )


def by_layer(
    maps: Float[np.ndarray, "draw layer row"], aggregate: str, align: str | None
) -> Float[np.ndarray, "draw layer"]:
    """One number per layer: without alignment the tokens are aggregated already, and there is only one row."""
    return maps[..., 0] if align is None else aggregate_rows(maps, aggregate)


@dataclass(frozen=True, eq=False)
class Side:
    """The pairs of one trace that enter an estimate, by what they contribute and what they share."""

    table: PairTable
    clusters: list[Hashable]  # of the pairs; equal ones are one cluster, within a trace and between two
    texts: list[Hashable]

    @classmethod
    def of(cls, trace: CausalTrace, used: Int[np.ndarray, "used"], table: PairTable) -> Side:
        """With the clusters and texts that the trace's pairs say."""
        return cls(table, cluster_keys(trace, used), text_keys(trace, used))


@dataclass(frozen=True, eq=False)
class Estimated:
    """An estimate, its bootstrap draws (None: no interval), and the labels of every side's pairs."""

    value: np.ndarray
    draws: np.ndarray | None
    clusters: list[Int[np.ndarray, "_pair"]]
    texts: list[Int[np.ndarray, "_pair"]]

    @property
    def n_clusters(self) -> int:
        """Of the first side."""
        return len(np.unique(self.clusters[0]))

    @property
    def n_texts(self) -> int:
        """Of the side that has fewer."""
        return min(len(np.unique(labels)) for labels in self.texts)


def estimated(
    sides: Sequence[Side], statistic: Callable[[Maps], np.ndarray], *, ci: float | None, n_boot: int, seed: int
) -> Estimated:
    """A statistic of the maps of one or several traces, with draws in which what they share is drawn together.

    statistic: from the maps of every side, [draw, layer, row], to numbers by draw.
    """

    def estimate(
        labels: Sequence[Int[np.ndarray, "_pair"]], draws: Float[np.ndarray, "boot cluster"]
    ) -> Float[np.ndarray, "boot *cell"]:
        return statistic([bootstrap(side.table, of_side, draws) for side, of_side in zip(sides, labels, strict=True)])

    value = statistic([combine(side.table) for side in sides])[0]
    clusters, texts = (_labels(sides, kind) for kind in ("clusters", "texts"))
    draws = None
    if ci is not None and wants_bootstrap(ci, n_boot):
        draws = two_way_replicates(estimate, value, clusters, texts, ci=ci, n_boot=n_boot, seed=seed)
    return Estimated(value, draws, clusters, texts)


def _labels(sides: Sequence[Side], kind: Literal["clusters", "texts"]) -> list[Int[np.ndarray, "_pair"]]:
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

"""Negator-selective attention: which heads attend to the negator more than to the word in its place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ..pairs.batch import PairBatch, as_pairs, make_batch
from ..pairs.negation import NEGATORS, negator_tokens
from ..pairs.pairs import Pair
from ..pairs.roles import TokenKind
from ..results.maps import TraceMap
from ..results.read_only import ReadOnlyArrays
from ..results.resampling import table_interval
from ..results.statistics import PairTable, cluster_index, combine, wants_bootstrap

if TYPE_CHECKING:
    import pandas as pd

    from ...patching import DualEncoder

__all__ = ["NegatorAttention", "negator_attention"]


@dataclass(frozen=True, eq=False)
class NegatorAttention(ReadOnlyArrays):
    """How much more attention each head pays to the negator than to the affirmative caption's word in its place.

    selectivity: for each pair, the largest excess over the later queries: attention to the negator in the negated
        caption less attention to its counterpart in the affirmative one, by the same query position (-1 to 1).
    negated, affirmative: the largest attention that any later query pays to that token (0 to 1).
    negators: the two tokens that are compared, by pair. groups: clusters of the bootstrap.
    lo, hi: the ``ci`` percentile interval of :attr:`mean` over resampled groups; None with one group.
    """

    selectivity: Float32[np.ndarray, "pair layer head"]
    negated: Float32[np.ndarray, "pair layer head"]
    affirmative: Float32[np.ndarray, "pair layer head"]
    negators: tuple[tuple[str, str], ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    model: str = ""
    ci: float | None = None
    lo: Float[np.ndarray, "layer head"] | None = None
    hi: Float[np.ndarray, "layer head"] | None = None

    @property
    def layers(self) -> Int[np.ndarray, "layer"]:
        """Numbers of the blocks, from 1."""
        return np.arange(1, self.negated.shape[1] + 1)

    @property
    def mean(self) -> Float[np.ndarray, "layer head"]:
        """Selectivity averaged over the pairs."""
        return combine(self._table())[0]

    def map(self) -> TraceMap:
        """Layer × head, for :func:`tracescribe.viz.heatmap`."""
        n_pairs, _, n_heads = self.negated.shape
        return TraceMap(
            values=self.mean,
            rows=tuple(f"head {head}" for head in range(n_heads)),
            layers=self.layers,
            counts=np.full(n_heads, n_pairs),
            reduce="mean",
            align="head",
            n_pairs=n_pairs,
            quantity="attention to the negator − to its counterpart",
        )

    def to_frame(self) -> pd.DataFrame:
        """One line a head: layer, head, mean over the pairs with its interval, and the two attentions it comes from."""
        import pandas as pd

        layer, head = (axis.ravel() for axis in np.indices(self.mean.shape))
        columns = {
            "layer": self.layers[layer],
            "head": head,
            "selectivity": self.mean.ravel(),
            "negated": self.negated.mean(axis=0).ravel(),
            "affirmative": self.affirmative.mean(axis=0).ravel(),
        }
        if self.lo is not None and self.hi is not None:
            columns |= {"lo": self.lo.ravel(), "hi": self.hi.ravel()}
        return pd.DataFrame(columns)

    def _table(self) -> PairTable:
        values = self.selectivity.astype(np.float64)
        return PairTable(values, np.ones((len(values), values.shape[2])), "mean_of_ratios")

    def _repr_html_(self) -> str:
        return self.map()._repr_html_()

    def __repr__(self) -> str:
        layer, head = np.unravel_index(int(self.mean.argmax()), self.mean.shape)
        return (
            f"NegatorAttention({len(self.ids)} pairs, {self.mean.shape[0]} layers × {self.mean.shape[1]} heads, "
            f"highest: layer {self.layers[layer]} head {head} with {self.mean[layer, head]:.3f})"
        )


@explains_arguments
def negator_attention(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    negators: Collection[str] = NEGATORS,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> NegatorAttention:
    """Negator-selective attention of every head (Quantmeyer, Mosteiro, Gatt 2024, arXiv 2407.10488).

    For each pair: the maximum over later queries of the attention to the negator in the negated caption less that to
    the token in its place in the affirmative caption ("no" less "some"). Averaged over pairs, with an interval from
    resampling groups and texts. Images play no part.

    pairs: with ``negation``, which says which caption is the negated one. The negator is the token in which the
        captions differ; if they differ in several, the one of these that belongs to one of ``negators`` (words or
        phrases; see :data:`tracescribe.tracer.pairs.negation.NEGATORS`).

    Raises:
        TraceError: a pair without ``negation``, without one clear negator, or with no token behind it.
        LengthMismatchError, IdenticalPairError, ContextOverflowError: as in tracing.
        SiteError: the tower's blocks are not taken apart.

    >>> import tracescribe as ts
    >>> pair = ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", negation="correct")
    >>> found = negator_attention(ts.load("phantom"), [pair])
    >>> found.mean.shape, found.negators
    ((8, 4), (('no', 'severe'),))
    """
    from ...patching import attention_patterns

    wants_bootstrap(ci, n_boot)  # refuses bad options before the forward passes
    batch = make_batch(model.text, as_pairs(pairs))
    places = [_negator(batch, pair, negators) for pair in range(len(batch.ids))]
    later = [_later_words(batch, pair, place) for pair, place in enumerate(places)]
    rows = [row for both in zip(batch.base, batch.donor, strict=True) for row in both]
    by_query: dict[tuple[int, int], np.ndarray] = {}  # (pair, side) -> [layer, head, later query]
    for numbers, patterns in attention_patterns(model.text, rows):
        for number, pattern in zip(numbers, patterns.float().cpu().numpy(), strict=True):
            text, side = divmod(number, 2)
            for pair in np.flatnonzero(batch.patched_pair == text):
                by_query[int(pair), side] = pattern[:, :, later[pair], places[pair]]
    in_foil = np.array([pair.negation == "foil" for pair in batch.pairs], dtype=np.int64)
    negated, affirmative = ([by_query[i, foil ^ side] for i, foil in enumerate(in_foil.tolist())] for side in (0, 1))
    tokens = [(batch.tokens[i][place], batch.foil_tokens[i][place]) for i, place in enumerate(places)]
    result = NegatorAttention(
        selectivity=np.stack([(no - some).max(axis=-1) for no, some in zip(negated, affirmative, strict=True)]),
        negated=np.stack([attention.max(axis=-1) for attention in negated]),
        affirmative=np.stack([attention.max(axis=-1) for attention in affirmative]),
        negators=tuple(two[::-1] if foil else two for two, foil in zip(tokens, in_foil, strict=True)),
        ids=batch.ids,
        groups=batch.groups,
        model=model.name,
    )
    clusters = cluster_index(batch.groups)[0]
    bounds = table_interval(result._table(), clusters, batch.text_pair, ci=ci, n_boot=n_boot, seed=seed)
    return result if bounds is None else replace(result, ci=ci, lo=bounds[0], hi=bounds[1])


def _negator(batch: PairBatch, pair: int, negators: Collection[str]) -> int:
    """Position of a pair's negator."""
    name, side = batch.ids[pair], batch.pairs[pair].negation
    if side is None:
        raise TraceError(f"pair {name!r} does not say which caption is negated: give negation='correct' or 'foil'")
    words = (batch.tokens if side == "correct" else batch.foil_tokens)[pair]
    places = np.flatnonzero(batch.differs[pair]).tolist()
    if len(places) > 1:
        text = batch.pairs[pair].correct if side == "correct" else batch.pairs[pair].foil
        negating = negator_tokens(text, words, negators)
        places = [place for place in places if negating[place]]
    if len(places) != 1:
        raise TraceError(
            f"pair {name!r}: {len(places)} of the tokens in which its captions differ are negators "
            f"({' '.join(words)}): one is needed; name it with negators=(...)"
        )
    return places[0]


def _later_words(batch: PairBatch, pair: int, place: int) -> list[int]:
    """Positions of the tokens behind a pair's negator, padding left out."""
    kinds = batch.kinds[pair]
    words = (kinds != TokenKind.OUTSIDE) & (kinds != TokenKind.PADDING)
    found = [int(at) for at in np.flatnonzero(words) if at > place]
    if not found:
        raise TraceError(
            f"pair {batch.ids[pair]!r} ({' '.join(batch.tokens[pair])}): no token comes after token {place}, so that "
            f"none attends to it"
        )
    return found

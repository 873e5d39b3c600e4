"""Negator-selective attention: which heads attend to the negator more than to the word in its place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...arguments import explains_arguments
from ...errors import TraceError
from ..pairs.batch import PairBatch, as_pairs, make_batch
from ..pairs.negation import negator_tokens
from ..pairs.pairs import Pair
from ..pairs.roles import TokenKind
from ..results.negator_attention import NegatorAttention
from .finer_options import NegatorAttentionOptions
from .progress import ProgressCallback, progress_bar
from .provenance import trace_provenance

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["negator_attention"]


@explains_arguments
def negator_attention(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    negators: Collection[str] = NegatorAttentionOptions.negators,
    ci: float | None = NegatorAttentionOptions.ci,
    n_boot: int = NegatorAttentionOptions.n_boot,
    seed: int = NegatorAttentionOptions.seed,
    progress: bool | ProgressCallback = True,
) -> NegatorAttention:
    """Negator-selective attention of every head (Quantmeyer, Mosteiro, Gatt 2024, arXiv 2407.10488).

    For each pair: the maximum over later queries of the attention to the negator in the negated caption less that to
    the token in its place in the affirmative caption ("no" less "some"). Averaged over pairs, with an interval from
    resampling groups and texts. Images play no part.

    Args:
        model: from :func:`tracescribe.load` or :func:`tracescribe.wrap`.
        pairs: with ``negation``, which says which caption is the negated one. The negator is the token in which the
            captions differ; if they differ in several, the one of these that belongs to one of ``negators``.
        negators: words or phrases; by default :data:`tracescribe.tracer.pairs.negation.NEGATORS`.
        ci, n_boot, seed: level, number of draws and seed of the interval; None or 0 draws: no interval.
        progress: a bar, or a callback ``(done, total)`` over text pairs.

    Raises:
        TraceError: an option that is not allowed; a pair without ``negation``, without one clear negator, or with no
            token behind it.
        LengthMismatchError, IdenticalPairError, ContextOverflowError: as in tracing.
        SiteError: the tower's blocks are not taken apart.

    >>> import tracescribe as ts
    >>> pair = ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", negation="correct")
    >>> found = negator_attention(ts.load("phantom"), [pair], progress=False)
    >>> found.mean.shape, found.negators
    ((8, 4), (('no', 'severe'),))
    """
    from ...patching import attention_patterns

    asked = NegatorAttentionOptions.given(locals())
    batch = make_batch(model.text, as_pairs(pairs))
    places = [_negator(batch, pair, asked.negators) for pair in range(len(batch.ids))]
    later = [_later_words(batch, pair, place) for pair, place in enumerate(places)]
    rows = [row for both in zip(batch.base, batch.donor, strict=True) for row in both]
    by_query: dict[tuple[int, int], np.ndarray] = {}  # (pair, side) -> [layer, head, later query]
    done = 0
    with progress_bar(progress, len(batch.base)) as advance:
        for numbers, patterns in attention_patterns(model.text, rows):
            for number, pattern in zip(numbers, patterns.float().cpu().numpy(), strict=True):
                text, side = divmod(number, 2)
                for pair in np.flatnonzero(batch.patched_pair == text):
                    by_query[int(pair), side] = pattern[:, :, later[pair], places[pair]]
            done += len(numbers)
            advance(done // 2)
    in_foil = np.array([pair.negation == "foil" for pair in batch.pairs], dtype=np.int64)
    negated, affirmative = ([by_query[i, foil ^ side] for i, foil in enumerate(in_foil.tolist())] for side in (0, 1))
    tokens = [(batch.tokens[i][place], batch.foil_tokens[i][place]) for i, place in enumerate(places)]
    found = NegatorAttention(
        selectivity=np.stack([(no - some).max(axis=-1) for no, some in zip(negated, affirmative, strict=True)]),
        negated=np.stack([attention.max(axis=-1) for attention in negated]),
        affirmative=np.stack([attention.max(axis=-1) for attention in affirmative]),
        negators=tuple(two[::-1] if foil else two for two, foil in zip(tokens, in_foil, strict=True)),
        ids=batch.ids,
        groups=batch.groups,
        texts=batch.text_pair,
        provenance={
            **trace_provenance(model, batch, None),
            **asked.recorded(),
            "dtype": str(model.text.dtype).removeprefix("torch."),
        },
    )
    bounds = None if asked.ci is None or not asked.n_boot else found.interval(asked.ci, asked.n_boot, asked.seed)
    return found if bounds is None else replace(found, ci=asked.ci, lo=bounds[0], hi=bounds[1])


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

"""Checks of a causal trace's arrays before anything is computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import DegenerateTraceError, NonFiniteError, TraceError
from ...validation import check_choice
from ..pairs.directions import DIRECTIONS
from ..pairs.roles import TokenKind

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

PAIR_TEXTS = ("captions", "foil_captions", "attributes", "templates", "negated")  # a text per pair, "" where not given

__all__ = ["PAIR_TEXTS", "check_trace"]


def check_trace(trace: CausalTrace) -> None:
    """Refuse a trace whose parts do not fit together: every statistic relies on it."""
    if len(trace.ids) == 0:
        raise DegenerateTraceError("a causal trace needs at least one pair")
    _check_shapes(trace)
    check_choice("direction", trace.direction, DIRECTIONS)
    _check_tokens(trace)
    _check_finite(trace)


def _check_shapes(trace: CausalTrace) -> None:
    n_pairs = len(trace.ids)
    n_tokens = trace.kinds.shape[1]
    layers = trace.scores.patched.shape[1]
    n_columns = n_tokens if trace.columns is None else len(trace.columns)
    shapes = {
        "scores.correct": (trace.scores.correct.shape, (n_pairs,)),
        "scores.foil": (trace.scores.foil.shape, (n_pairs,)),
        "scores.patched": (trace.scores.patched.shape, (n_pairs, layers, n_columns)),
        "kinds": (trace.kinds.shape, (n_pairs, n_tokens)),
        "differs": (trace.differs.shape, (n_pairs, n_tokens)),
        "text_pair": (trace.text_pair.shape, (n_pairs,)),
    }
    if trace.noising is not None or trace.direction == DIRECTIONS[2]:
        shapes["noising"] = (() if trace.noising is None else trace.noising.shape, (n_pairs,))
    for name in ("tokens", "foil_tokens", "groups"):
        shapes[name] = ((len(getattr(trace, name)),), (n_pairs,))
    for name in PAIR_TEXTS:
        if getattr(trace, name) is not None:
            shapes[name] = ((len(getattr(trace, name)),), (n_pairs,))
    if trace.named is not None:
        shapes["named"] = (trace.named.shape, (n_pairs,))
    if trace.embeddings is not None:
        n_texts, _, _, width = trace.embeddings.shape
        shapes["embeddings"] = (trace.embeddings.shape, (n_texts, layers, n_columns, width))
        for name in ("correct_embeddings", "foil_embeddings"):
            value = getattr(trace, name)
            shapes[name] = (() if value is None else value.shape, (n_texts, width))
        if trace.text_pair.max() >= n_texts:
            raise TraceError(f"text_pair must lie within 0..{n_texts - 1}, the text pairs that have embeddings")
    if trace.target_embeddings is not None or trace.target is not None:
        if trace.target_embeddings is None or trace.target is None:
            raise TraceError("CausalTrace.target_embeddings and target must be given together")
        width = trace.target_embeddings.shape[1] if trace.embeddings is None else trace.embeddings.shape[3]
        shapes["target"] = (trace.target.shape, (n_pairs,))
        shapes["target_embeddings"] = (trace.target_embeddings.shape, (len(trace.target_embeddings), width))
        if trace.target.size and not 0 <= trace.target.min() <= trace.target.max() < len(trace.target_embeddings):
            raise TraceError(f"target must lie within 0..{len(trace.target_embeddings) - 1}, the targets' embeddings")
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise TraceError(f"CausalTrace.{name} has shape {found}, expected {expected}")


def _check_tokens(trace: CausalTrace) -> None:
    n_pairs = len(trace.ids)
    if trace.text_pair.min() < 0:
        raise TraceError(f"text_pair must be numbers from 0 on, not {int(trace.text_pair.min())}")
    if trace.kinds.size and not 0 <= trace.kinds.min() <= trace.kinds.max() < len(TokenKind):
        raise TraceError(f"kinds must be numbers of a TokenKind, 0 to {len(TokenKind) - 1}")
    tokens = trace.kinds != TokenKind.OUTSIDE
    lengths = tokens.sum(axis=1)
    counts = [np.fromiter(map(len, side), np.int64, n_pairs) for side in (trace.tokens, trace.foil_tokens)]
    wrong = (lengths != counts[0]) | (lengths != counts[1])
    gaps = tokens[:, 1:] & ~tokens[:, :-1]
    if gaps.any():
        wrong |= gaps.any(axis=1)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise TraceError(
            f"pair {trace.ids[i]!r} has {len(trace.tokens[i])} and {len(trace.foil_tokens[i])} tokens, but kinds "
            f"marks {lengths[i]} positions; they must be the first ones and as many"
        )


def _check_finite(trace: CausalTrace) -> None:
    scores = trace.scores
    with np.errstate(all="ignore"):  # a sum is finite only if all its terms are, and costs one passage
        if np.isfinite(scores.patched.sum() + scores.correct.sum() + scores.foil.sum()):
            return
    finite = np.isfinite(scores.correct) & np.isfinite(scores.foil)
    finite &= (np.isfinite(scores.patched) | ~trace.inside[:, None, :]).all(axis=(1, 2))
    if not finite.all():
        bad = int(np.argmin(finite))
        raise NonFiniteError(
            f"pair {trace.ids[bad]!r} ({' '.join(trace.tokens[bad])}) has scores that are NaN or infinite, as have "
            f"{int((~finite).sum()) - 1} others; check the model's weights and the image"
        )

"""What must hold of a causal trace's parts before anything is computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from ...errors import DegenerateTraceError, NonFiniteError, TraceError
from ...validation import check_choice
from ..pairs.directions import DIRECTIONS
from ..pairs.roles import TokenKind

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["check_trace", "pair_index", "set_array"]


def set_array(owner: Any, name: str, dtype: Any, ndim: int) -> None:
    """Store a read-only view, so that a result cannot be changed by accident; the caller's own array stays writable."""
    array = np.asarray(getattr(owner, name), dtype=dtype).view()
    if array.ndim != ndim:
        raise TraceError(f"{type(owner).__name__}.{name} must have {ndim} axes, not shape {array.shape}")
    array.flags.writeable = False
    object.__setattr__(owner, name, array)


def check_trace(trace: CausalTrace) -> None:
    """Refuse a trace whose parts do not fit together: every statistic below relies on it."""
    n_pairs = len(trace.ids)
    if n_pairs == 0:
        raise DegenerateTraceError("a causal trace needs at least one pair")
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
    if trace.embeddings is not None:
        n_texts, _, _, width = trace.embeddings.shape
        shapes["embeddings"] = (trace.embeddings.shape, (n_texts, layers, n_columns, width))
        for name in ("correct_embeddings", "foil_embeddings"):
            value = getattr(trace, name)
            shapes[name] = (() if value is None else value.shape, (n_texts, width))
        if trace.text_pair.min() < 0 or trace.text_pair.max() >= n_texts:
            raise TraceError(f"text_pair must lie within 0..{n_texts - 1}, the text pairs that have embeddings")
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise TraceError(f"CausalTrace.{name} has shape {found}, expected {expected}")
    check_choice("direction", trace.direction, DIRECTIONS)
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
    _check_finite(trace)


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


def pair_index(pairs: Any, n_pairs: int) -> Int[np.ndarray, "chosen"]:
    chosen = np.asarray(pairs)
    if chosen.dtype == np.bool_:
        if chosen.shape != (n_pairs,):
            raise TraceError(f"a mask of pairs must have shape ({n_pairs},), not {chosen.shape}")
        chosen = np.flatnonzero(chosen)
    elif not np.issubdtype(chosen.dtype, np.integer) and chosen.size:
        raise TraceError(f"select pairs by a boolean mask or by integer indices, not by {chosen.dtype} values")
    index = np.atleast_1d(chosen).astype(np.int64)
    if index.size == 0:
        raise TraceError(f"the selection holds none of the {n_pairs} pairs")
    outside = index[(index < -n_pairs) | (index >= n_pairs)]
    if len(outside):
        raise TraceError(f"there is no pair {outside[0]}: they are numbered 0 to {n_pairs - 1}")
    return index % n_pairs

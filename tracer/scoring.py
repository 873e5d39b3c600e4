"""Cosine similarities of patched text embeddings with images: one matrix product, no forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import NonFiniteError
from .options import TraceError

__all__ = ["normalise_rows", "patched_scores", "text_scores"]


def normalise_rows(embeddings: Any, what: str = "image embeddings") -> Float[np.ndarray, "row embed"]:
    """Rows of length 1, in float64.

    Raises:
        TraceError: not a two-dimensional array.
        NonFiniteError: a row holds NaN or infinity, or is 0 and has no direction.

    >>> normalise_rows([[3.0, 4.0]])
    array([[0.6, 0.8]])
    """
    if hasattr(embeddings, "detach"):  # a torch tensor, perhaps on a GPU, without importing torch for it
        embeddings = embeddings.detach().float().cpu().numpy()
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise TraceError(f"{what} must be an array [n, embed], not of shape {rows.shape}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        raise NonFiniteError(f"{what}: row {bad[0]} holds NaN, infinity or only zeros ({len(bad)} such rows)")
    return rows / norms


def text_scores(
    texts: Float[np.ndarray, "text_pair embed"],
    images: Float[np.ndarray, "pair embed"],
    text_pair: Int[np.ndarray, "pair"],
) -> Float[np.ndarray, "pair"]:
    """Cosine of each pair's text with its image, float32; both are of length 1 already."""
    return np.einsum("pe,pe->p", texts[text_pair].astype(np.float64), images.astype(np.float64)).astype(np.float32)


def patched_scores(
    embeddings: Float[np.ndarray, "text_pair layer token embed"],
    images: Float[np.ndarray, "pair embed"],
    text_pair: Int[np.ndarray, "pair"],
    inside: Bool[np.ndarray, "pair token"],
) -> Float[np.ndarray, "pair layer token"]:
    """Cosine of every patched embedding with its pair's image, computed in float64 and kept as float32.

    inside: True at a pair's tokens; the result is NaN elsewhere, whatever ``embeddings`` holds there.
    """
    images = images.astype(np.float64)
    n_layers, n_tokens = embeddings.shape[1:3]
    out = np.empty((len(images), n_layers, n_tokens), dtype=np.float32)
    # A text pair's block is widened to float64 only while its images are scored: the whole of E may be gigabytes.
    for text in np.unique(text_pair):
        of_text = np.flatnonzero(text_pair == text)
        block = embeddings[text].reshape(n_layers * n_tokens, -1).astype(np.float64)
        out[of_text] = (images[of_text] @ block.T).reshape(-1, n_layers, n_tokens)
    return np.where(inside[:, None, :], out, np.float32(np.nan))

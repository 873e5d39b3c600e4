"""Cosine similarities of patched text embeddings with images: one matrix product, no forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ..errors import NonFiniteError
from .options import TraceError

__all__ = ["cosines", "normalise_rows", "pairs_of", "patched_scores", "side_by_side", "text_scores"]

_IMAGES = 8192  # scored at a time


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
    norms = np.sqrt(np.einsum("re,re->r", rows, rows))[:, None]  # without a second array of the size of ``rows``
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        raise NonFiniteError(f"{what}: row {bad[0]} holds NaN, infinity or only zeros ({len(bad)} such rows)")
    return rows / norms


def cosines(
    images: Float[np.ndarray, "pair embed"], texts: Float[np.ndarray, "text embed"]
) -> Float32[np.ndarray, "pair text"]:
    """Every image with every text, all of length 1: computed in float64 and kept as float32.

    Equal texts are scored once, so that cells which are the clean or the foil run by construction get its very score.

    >>> cosines(np.eye(2), np.array([[0.6, 0.8], [1.0, 0.0], [0.6, 0.8]]))
    array([[0.6, 1. , 0.6],
           [0.8, 0. , 0.8]], dtype=float32)
    """
    places: dict[bytes, int] = {}
    place = [places.setdefault(row.tobytes(), len(places)) for row in texts]
    first = np.unique(place, return_index=True)[1]
    distinct = texts[first].astype(np.float64)
    out = np.empty((len(images), len(texts)), dtype=np.float32)
    for at in range(0, len(images), _IMAGES):  # bounded memory, however many images judge one text pair
        part = images[at : at + _IMAGES].astype(np.float64, copy=False)
        np.take((part @ distinct.T).astype(np.float32), place, axis=1, out=out[at : at + _IMAGES], mode="clip")
    return out


def pairs_of(text_pair: Int[np.ndarray, "pair"]) -> dict[int, Int[np.ndarray, "chosen"] | slice]:
    """The pairs of each text pair, in order.

    >>> pairs_of(np.array([0, 2, 0, 3, 3]))
    {0: array([0, 2]), 2: slice(1, 2, None), 3: slice(3, 5, None)}
    """
    order = np.argsort(text_pair, kind="stable")
    texts, starts = np.unique(text_pair[order], return_index=True)
    return dict(zip(texts.tolist(), map(side_by_side, np.split(order, starts[1:])), strict=True))


def side_by_side(index: Int[np.ndarray, "chosen"]) -> Int[np.ndarray, "chosen"] | slice:
    """The same index as a slice where it is one, so that what it takes is no copy."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def text_scores(
    texts: Float[np.ndarray, "text_pair embed"],
    images: Float[np.ndarray, "pair embed"],
    text_pair: Int[np.ndarray, "pair"],
) -> Float[np.ndarray, "pair"]:
    """Cosine of each pair's text with its image, float32; both are of length 1 already."""
    out = np.empty(len(images), dtype=np.float32)
    for text, pairs in pairs_of(text_pair).items():
        out[pairs] = cosines(images[pairs], texts[text][None])[:, 0]
    return out


def patched_scores(
    embeddings: Float[np.ndarray, "text_pair layer token embed"],
    images: Float[np.ndarray, "pair embed"],
    text_pair: Int[np.ndarray, "pair"],
    inside: Bool[np.ndarray, "pair token"],
) -> Float[np.ndarray, "pair layer token"]:
    """Cosine of every patched embedding with its pair's image, computed in float64 and kept as float32.

    inside: True at a pair's tokens; the result is NaN elsewhere, whatever ``embeddings`` holds there.
    """
    n_layers, n_tokens, embed = embeddings.shape[1:]
    out = np.empty((len(images), n_layers, n_tokens), dtype=np.float32)
    # A text pair's block is widened to float64 only while its images are scored: the whole of E may be gigabytes.
    for text, pairs in pairs_of(text_pair).items():
        scores = cosines(images[pairs], np.asarray(embeddings[text]).reshape(n_layers * n_tokens, embed))
        out[pairs] = scores.reshape(-1, n_layers, n_tokens)
    out[np.broadcast_to(~inside[:, None, :], out.shape)] = np.nan
    return out

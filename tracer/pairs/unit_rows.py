"""Normalises embeddings that users give to length 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32

from ...errors import NonFiniteError, TraceError
from ...io.quoting import shown

__all__ = ["normalise_rows"]

_TILE = 480  # rows at a time: their float64 copy stays in the processor's cache


def normalise_rows(embeddings: Any, what: str = "image embeddings") -> Float32[np.ndarray, "row embed"]:
    """Rows of length 1: divided by their length in float64, and kept in float32, the precision they are encoded in.

    Rounding a row moves all its cosines together, as another image 3e-8 away would, and by 1e-9 where errors are
    independent; their differences, of which CTE is made, move by that share of themselves.

    Raises:
        TraceError: not a two-dimensional array.
        NonFiniteError: a row holds NaN or infinity, or is 0 and has no direction.

    >>> normalise_rows([[3.0, 4.0]])
    array([[0.6, 0.8]], dtype=float32)
    """
    if hasattr(embeddings, "detach"):  # a torch tensor, perhaps on a GPU, without importing torch for it
        embeddings = embeddings.detach().float().cpu().numpy()
    try:
        rows = np.asarray(embeddings)
        if rows.dtype.kind not in "iuf":
            raise TypeError
    except (TypeError, ValueError, OverflowError):
        raise TraceError(f"{what} must be an array [n, embed] of numbers, not {shown(embeddings)}") from None
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64)
    if rows.ndim != 2:
        raise TraceError(f"{what} must be an array [n, embed], not of shape {rows.shape}")
    norms, out = np.empty(len(rows)), np.empty(rows.shape, dtype=np.float32)
    with np.errstate(all="ignore"):  # what cannot be divided is refused below
        for at in range(0, len(rows), _TILE):
            part = rows[at : at + _TILE].astype(np.float64)
            length = norms[at : at + _TILE] = np.sqrt(np.einsum("re,re->r", part, part))
            part /= length[:, None]
            out[at : at + _TILE] = part
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise NonFiniteError(f"{what}: row {bad[0]} holds NaN, infinity or only zeros ({len(bad)} such rows)")
    return out

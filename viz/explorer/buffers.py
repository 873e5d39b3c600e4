"""Arrays and pictures of a frame, as one run of bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Buffers"]


class Buffers:
    """Arrays and pictures in one run of bytes; what refers to them is (offset, length, shape)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def array(self, values: Any) -> dict[str, Any]:
        """float32, little-endian, at a multiple of 4 bytes."""
        values = np.ascontiguousarray(values, dtype="<f4")
        return {**self._add(values.tobytes()), "shape": list(values.shape)}

    def picture(self, png: bytes) -> dict[str, Any] | None:
        """A PNG; None without one."""
        return self._add(png) if png else None

    def _add(self, content: bytes) -> dict[str, Any]:
        where = {"at": self._size, "length": len(content)}
        padding = -len(content) % 4
        self._parts.append(content + bytes(padding))
        self._size += len(content) + padding
        return where

    @property
    def content(self) -> bytes:
        return b"".join(self._parts)

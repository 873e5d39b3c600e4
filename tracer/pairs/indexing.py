"""Distinct values of a field, with the index of each pair's value."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from operator import itemgetter
from typing import TypeVar

import numpy as np
from jaxtyping import Int

__all__ = ["distinct", "picked", "side_by_side"]

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


def distinct(values: Iterable[H]) -> tuple[list[H], Int[np.ndarray, "value"]]:
    """The values that differ, in the order of their first appearance, and the place of every value among them.

    >>> distinct(["b", "a", "b"])
    (['b', 'a'], array([0, 1, 0]))
    """
    places: dict[H, int] = {}
    index = [places.setdefault(value, len(places)) for value in values]
    return list(places), np.array(index, dtype=np.int64)


def picked(values: Sequence[T], index: Int[np.ndarray, "chosen"]) -> tuple[T, ...]:
    """The values at these places: what indexing does to an array.

    >>> picked(("a", "b"), np.array([1, 1, 0]))
    ('b', 'b', 'a')
    """
    places = index.tolist()
    return itemgetter(*places)(values) if len(places) > 1 else tuple(values[i] for i in places)


def side_by_side(index: Int[np.ndarray, "chosen"]) -> Int[np.ndarray, "chosen"] | slice:
    """The same index as a slice where it is one, so that what it takes is no copy."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index

"""Patched runs of one text attend together, so that the unpatched rows that they share are looked up once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

# Rows of lanes that attend together. They are multiplied with each other's keys too, which is masked out: up to about
# so many, a larger product takes less time than several small ones and their copies of the shared rows (perf/).
BUNDLE_ROWS = 12


def count_equals(texts: Sequence[int]) -> Int[np.ndarray, "two lane"]:
    """For each lane its text, numbered as they appear, and how many lanes of this text there are before it.

    >>> count_equals([7, 3, 7, 7]).tolist()
    [[0, 1, 0, 0], [0, 0, 1, 2]]
    """
    numbers: dict[int, int] = {}
    seen: Counter[int] = Counter()
    out = np.empty((2, len(texts)), dtype=np.int64)
    for lane, text in enumerate(texts):
        out[:, lane] = numbers.setdefault(text, len(numbers)), seen[text]
        seen[text] += 1
    return out


@dataclass(frozen=True, eq=False)
class Bundles:
    """Lanes side by side, those of one text in as few bundles as their rows allow.

    slots: the lane in every slot of a bundle; a slot that stays empty repeats a lane, and nothing reads it. place: the
    (flat) slot of every lane.

    >>> own = Bundles.of(count_equals([7, 3, 7, 7]), width=6, together=True)  # two lanes of 6 rows a bundle
    >>> own.slots.tolist(), own.place.tolist()
    ([[0, 2], [3, 0], [1, 0], [0, 0]], [0, 4, 1, 2])
    """

    slots: Int[np.ndarray, "bundle slot"]
    place: Int[np.ndarray, " lane"]

    @classmethod
    def of(cls, ranks: Int[np.ndarray, "two lane"], width: int, together: bool) -> Bundles:
        """Lanes of ``width`` rows, each by itself unless they may stand together; ranks: see :func:`count_equals`."""
        text, rank = ranks
        most = max(1, BUNDLE_ROWS // width) if together else 1
        if most == 1 or not len(text):
            alone = np.arange(len(text))
            return cls(alone[:, None], alone)
        lanes = int(rank.max()) + 1  # of one text
        parts = -(-lanes // most)
        size = -(-lanes // parts)
        place = (text * parts + rank // size) * size + rank % size
        slots = np.zeros((int(text.max()) + 1) * parts * size, dtype=np.int64)
        slots[place] = np.arange(len(text))
        return cls(slots.reshape(-1, size), place)

    @property
    def n_lanes(self) -> int:
        return len(self.place)

    @property
    def size(self) -> int:
        """Slots of each bundle."""
        return self.slots.shape[1]

    def rows(self, rows: Int[np.ndarray, "lane row"]) -> Int[np.ndarray, "bundle row"]:
        """The lanes' rows side by side."""
        return rows[self.slots].reshape(len(self.slots), self.size * rows.shape[1])

    def keys(self, keys: Int[np.ndarray, "lane pos"], start: int) -> Int[np.ndarray, "bundle key"]:
        """The rows before ``start`` once for each bundle, then those that each of its lanes has of its own."""
        return np.concatenate([keys[self.slots[:, 0], :start], self.rows(keys[:, start:])], axis=1)

    def mask(self, allowed: Bool[np.ndarray, "query pos"], start: int) -> Bool[np.ndarray, "bundle_query key"]:
        """What a bundle may attend to whose lanes are each ``allowed`` so much: none attends to another's rows."""
        size, (m, n) = self.size, allowed.shape
        own = np.zeros((size, m, size, n - start), dtype=bool)
        own[np.arange(size), :, np.arange(size)] = allowed[:, start:]
        return np.hstack([np.tile(allowed[:, :start], (size, 1)), own.reshape(size * m, -1)])

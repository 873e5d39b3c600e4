"""Which records a batch holds: seeded shuffles without gaps, of one file or of several that each give a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_CHOICE = 1 << 20  # of the generator that draws sources; no run has so many of them


@dataclass(frozen=True)
class Share:
    """Records start..stop - 1 of a table, and the weight with which a batch draws from them."""

    start: int
    stop: int
    weight: float = 1.0


class Sampler:
    """Numbers of records: of each source every record before any comes again; of several sources by their weights.

    The sequence depends on the shares and the seed only, not on the sizes in which it is taken.

    >>> Sampler([Share(0, 3)], seed=0, stream=0).take(6).tolist()
    [2, 0, 1, 2, 1, 0]
    """

    def __init__(self, shares: Sequence[Share], seed: int, stream: int) -> None:
        several = len(shares) > 1
        self._shares = shares
        self._shuffles = [
            _Shuffles(share.stop - share.start, [seed, stream, number + 1] if several else [seed, stream])
            for number, share in enumerate(shares)
        ]
        weights = np.array([share.weight for share in shares], dtype=np.float64)
        self._bounds = np.cumsum(weights / weights.sum())
        self._choice = np.random.default_rng([seed, stream, _CHOICE])

    def take(self, n: int) -> Int[np.ndarray, " n"]:
        """The next ``n`` numbers."""
        if len(self._shares) == 1:
            return self._shares[0].start + self._shuffles[0].take(n)
        drawn = np.searchsorted(self._bounds[:-1], self._choice.random(n), side="right")
        out = np.empty(n, dtype=np.int64)
        for number, share in enumerate(self._shares):
            wanted = drawn == number
            out[wanted] = share.start + self._shuffles[number].take(int(wanted.sum()))
        return out


class _Shuffles:
    def __init__(self, count: int, seed: Sequence[int]) -> None:
        self._count, self._generator = count, np.random.default_rng(seed)
        self._left = np.empty(0, dtype=np.int64)

    def take(self, n: int) -> Int[np.ndarray, " n"]:
        parts, missing = [], n
        while missing > len(self._left):
            parts.append(self._left)
            missing -= len(self._left)
            self._left = self._generator.permutation(self._count)
        parts.append(self._left[:missing])
        self._left = self._left[missing:]
        return np.concatenate(parts)

"""Hard images from contrast sets: of a claim that is false of one image, an image of which it is true."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int


class Counterparts:
    """For every contrast set, the sets of which a false claim of it is the true one.

    claims, label, present: as in TrainingData, as arrays.
    """

    def __init__(
        self,
        claims: Int[np.ndarray, "set claim"],
        label: Int[np.ndarray, " set"],
        present: Bool[np.ndarray, "set claim"],
    ) -> None:
        self._claims, self._false = claims, present & (np.arange(claims.shape[1]) != label[:, None])
        true = claims[np.arange(len(label)), label]
        self._sets = np.argsort(true, kind="stable")  # by the text that is true in them
        self._count = np.bincount(true, minlength=int(claims.max()) + 1)
        self._start = np.cumsum(self._count) - self._count

    @property
    def share(self) -> float:
        """Of the sets, those that have a counterpart."""
        return float((self._false & (self._count[self._claims] > 0)).any(axis=1).mean())

    def draw(self, sets: Int[np.ndarray, " n"], generator: np.random.Generator) -> Int[np.ndarray, " found"]:
        """A counterpart of each set that has one: a false claim, and a set in which it is true, both at random.

        >>> claims, label = np.array([[0, 1], [0, 1], [2, 1]]), np.array([0, 1, 0])  # text 1 is true in set 1
        >>> some = Counterparts(claims, label, np.ones((3, 2), dtype=bool))
        >>> some.draw(np.array([0, 2]), np.random.default_rng(0)).tolist()
        [1, 1]
        """
        claims = self._claims[sets]
        possible = self._false[sets] & (self._count[claims] > 0)
        which, whose = generator.random((2, len(sets)))
        wanted = 1 + np.floor(which * possible.sum(axis=1)).astype(np.int64)  # the so-manieth possible claim
        place = (possible.cumsum(axis=1) == wanted[:, None]).argmax(axis=1)
        text = claims[np.arange(len(sets)), place]
        drawn = self._start[text] + np.floor(whose * self._count[text]).astype(np.int64)
        return self._sets[drawn[possible.any(axis=1)]]

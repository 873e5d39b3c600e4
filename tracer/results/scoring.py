"""Scores of patched text embeddings with images: cosines by one matrix product, other metrics from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ..pairs.indexing import distinct, side_by_side
from .scorer import Scorer

__all__ = ["PairScores", "TextMap", "pairs_of", "score_maps"]

MANY = 256  # images of one text pair from which on differences are multiplied in float32; see TextMap
MAP_BYTES = 2**25  # of text pairs' rows that are scored together
_TILE = 480  # images at a time: their float64 copy stays in the processor's cache, and memory is bounded


@dataclass(frozen=True, eq=False)
class TextMap:
    """The texts of one text pair's map, each once, and where their scores belong.

    rows: the correct caption's embedding first. foil: the foil's row. place: the row of every cell (layer × column), or
    ``len(rows)`` for a cell that has no score.

    Cosines with an image x are computed as t·x = c·x + (t - c)·x with the correct caption's c. The first product is
    float64, and one column for all cells. The second is float64 too for fewer than ``MANY`` images; from there on it is
    float32, which takes half as long and is wrong in proportion to |t - c|: a sum of n products with unit roundoff
    u = 2^-24 by about sqrt(n) u |t - c| |x| at most (Ipsen & Zhou 2020, arXiv 1906.10465), 1.3e-6 |t - c| at n = 512,
    and by a hundredth of that, 1.2e-8 |t - c|, where the direction of x is independent of t - c (measured, ViT-B/32's
    size). The numerator and the denominator of CTE are such differences themselves: theirs is a relative error, which
    does not grow as they become small.
    """

    rows: Float32[np.ndarray, "distinct embed"]
    foil: int
    place: Int[np.ndarray, "cell"]

    @classmethod
    def of(
        cls,
        correct: Float[np.ndarray, "embed"],
        foil: Float[np.ndarray, "embed"],
        cells: Float[np.ndarray, "layer own_column embed"],
        inside: Bool[np.ndarray, "column"],
    ) -> TextMap:
        """cells: of the columns that have scores, which are those where ``inside`` is True."""
        rows = np.concatenate([correct[None], foil[None], cells.reshape(-1, cells.shape[-1])])
        different, place = distinct(row.tobytes() for row in rows)
        everywhere = np.full((len(cells), len(inside)), len(different))
        everywhere[:, inside] = np.reshape(place[2:], cells.shape[:2])
        kept = rows[np.unique(place, return_index=True)[1]]
        return cls(kept, int(place[1]), everywhere.reshape(-1))

    def steps(self, dtype: type[np.floating]) -> Float[np.ndarray, "embed further"]:
        """What the further rows add to the first."""
        return np.ascontiguousarray((self.rows[1:].astype(np.float64) - self.rows[0]).T, dtype=dtype)


class PairScores:
    """Scores of all pairs, filled one or several text pairs at a time.

    images, image: distinct images of length 1, and which of them judges each pair. What a pair is scored is decided by
    its text pair's embeddings and its images in order, not by what else is scored along with them.
    scorer: makes other scores of the cosines; None: the cosines themselves.

    >>> texts = np.eye(2, dtype=np.float32)
    >>> scores = PairScores(texts, np.array([0, 1]), np.array([0, 0]), n_layers=1, n_columns=2)
    >>> scores.fill({0: TextMap.of(texts[0], texts[1], texts[None, :1], np.array([True, False]))})
    >>> scores.correct, scores.foil, scores.patched[:, 0]
    (array([1., 0.], dtype=float32), array([0., 1.], dtype=float32), array([[ 1., nan],
           [ 0., nan]], dtype=float32))
    """

    def __init__(
        self,
        images: Float32[np.ndarray, "image embed"],
        image: Int[np.ndarray, "pair"],
        text_pair: Int[np.ndarray, "pair"],
        n_layers: int,
        n_columns: int,
        scorer: Scorer | None = None,
    ) -> None:
        self._images, self._image, self._pairs, self._scorer = images, image, pairs_of(text_pair), scorer
        self.correct = np.empty(len(text_pair), dtype=np.float32)
        self.foil = np.empty(len(text_pair), dtype=np.float32)
        self.patched = np.empty((len(text_pair), n_layers, n_columns), dtype=np.float32)

    @property
    def texts(self) -> list[int]:
        """The text pairs that pairs have."""
        return list(self._pairs)

    def fill(self, maps: Mapping[int, TextMap]) -> None:
        """Score the pairs of these text pairs; those that are judged by the same images share the images' passage."""
        shared: dict[Any, tuple[Any, list[int]]] = {}
        for text in maps:
            where = side_by_side(self._image[self._pairs[text]])
            same = (where.start, where.stop) if isinstance(where, slice) else text
            shared.setdefault(same, (where, []))[1].append(text)
        for where, texts in shared.values():
            images = self._images[where]
            size = max(1, MAP_BYTES // max(maps[text].rows.nbytes for text in texts))
            for at in range(0, len(texts), size):
                some = texts[at : at + size]
                self._fill(images, [maps[text] for text in some], [self._pairs[text] for text in some])

    def _fill(
        self,
        images: Float32[np.ndarray, "image embed"],
        maps: list[TextMap],
        pairs: list[Int[np.ndarray, "_image"] | slice],
    ) -> None:
        cells = self.patched.reshape(len(self.patched), -1)
        many = len(images) >= MANY
        anchors = np.stack([one.rows[0] for one in maps]).astype(np.float64)
        steps = [one.steps(np.float32 if many else np.float64) for one in maps]
        for at in range(0, len(images), _TILE):
            single = images[at : at + _TILE]
            double = single.astype(np.float64)
            anchored = double @ anchors.T
            for one, step, members, anchor in zip(maps, steps, pairs, anchored.T, strict=True):
                here: Any = (
                    slice(members.start + at, members.start + at + len(single))
                    if isinstance(members, slice)
                    else members[at : at + _TILE]
                )
                scores = np.empty((len(single), len(one.rows) + 1), dtype=np.float32)
                scores[:, -1] = np.nan
                product = (single if many else double) @ step
                if self._scorer is None:
                    scores[:, 0] = anchor
                    np.add(anchor[:, None], product, out=scores[:, 1:-1], casting="same_kind")
                else:
                    cosines = np.column_stack([anchor, anchor[:, None] + product])
                    members = np.arange(here.start, here.stop) if isinstance(here, slice) else here
                    scores[:, :-1] = self._scorer(one.rows, one.foil, single, cosines, members)
                if isinstance(here, slice):
                    np.take(scores, one.place, axis=1, out=cells[here], mode="clip")
                else:
                    cells[here] = np.take(scores, one.place, axis=1)
                self.correct[here], self.foil[here] = scores[:, 0], scores[:, one.foil]


def score_maps(
    images: Float32[np.ndarray, "image embed"],
    image: Int[np.ndarray, "pair"],
    text_pair: Int[np.ndarray, "pair"],
    correct: Float32[np.ndarray, "text_pair embed"],
    foil: Float32[np.ndarray, "text_pair embed"],
    cells: Float32[np.ndarray, "text_pair layer column embed"],
    inside: Bool[np.ndarray, "text_pair column"],
    scorer: Scorer | None = None,
) -> PairScores:
    """Scores of all pairs from all embeddings; of ``cells``, which may be gigabytes or on disk, a few at a time.

    inside: the columns of each text pair that have scores.
    """
    scores = PairScores(images, image, text_pair, cells.shape[1], cells.shape[2], scorer)
    size = max(1, MAP_BYTES // max(1, cells[0].nbytes))
    for at in range(0, len(scores.texts), size):
        some = scores.texts[at : at + size]
        scores.fill({n: TextMap.of(correct[n], foil[n], cells[n][:, inside[n]], inside[n]) for n in some})
    return scores


def pairs_of(text_pair: Int[np.ndarray, "pair"]) -> dict[int, Int[np.ndarray, "chosen"] | slice]:
    """The pairs of each text pair, in order.

    >>> pairs_of(np.array([0, 2, 0, 3, 3]))
    {0: array([0, 2]), 2: slice(1, 2, None), 3: slice(3, 5, None)}
    """
    order = np.argsort(text_pair, kind="stable")
    texts, starts = np.unique(text_pair[order], return_index=True)
    return dict(zip(texts.tolist(), map(side_by_side, np.split(order, starts[1:])), strict=True))

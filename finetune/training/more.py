"""What some losses read of the captions besides the captions: with or without negations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ...benchmark import CaptionRecord, ClaimRecord

NAMES = ("negated", "originals", "negations", "negatives")


class More:
    """Collects it record by record; of what is not in ``needs`` nothing is kept.

    A caption includes a negation where its negation-free form (``affirmative``) is known and another text.
    """

    def __init__(self, needs: Collection[str]) -> None:
        self._needs = [name for name in NAMES if name in needs]
        self._originals: list[str | None] = []
        self._negated: list[bool] = []
        self._false: list[tuple[str, ...]] = []
        self._claims: dict[int, list[str]] = defaultdict(list)  # true negated claims about each image

    def add_caption(self, record: CaptionRecord) -> None:
        if "originals" in self._needs:
            self._originals.append(record.affirmative)
        if "negated" in self._needs:
            self._negated.append(record.affirmative not in (None, record.caption))
        if "negatives" in self._needs:
            self._false.append(record.neg_captions)

    def add_claims(self, record: ClaimRecord, image: int) -> None:
        if "negations" in self._needs and record.polarity == "negated":
            self._claims[image].append(record.correct)

    def numbers(
        self, captions: Sequence[int], images: Sequence[int], add: Callable[[str, str], int]
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The fields of TrainingData that were asked for. captions, images: of each caption; add: numbers a text."""
        found: dict[str, np.ndarray[Any, Any]] = {}
        if "negated" in self._needs:
            found["negated"] = np.array(self._negated)
        if "originals" in self._needs:
            found["original"] = np.array([-1 if text is None else add(text, text) for text in self._originals])
        if "negations" in self._needs:
            each = [self._claims.get(image, []) for image in images]  # several captions of an image take turns
            chosen = [texts[number % len(texts)] if texts else None for number, texts in enumerate(each)]
            found["negation"] = np.array([-1 if text is None else add(text, text) for text in chosen])
        most = max(map(len, self._false), default=0)
        if most:
            found["false"] = np.full((len(captions), most), -1)
            for row, texts in zip(found["false"], self._false, strict=True):
                row[: len(texts)] = [add(text, text) for text in texts]
        return found

"""Options scored by a dual encoder: each text and image encoded once, hits with ties in expectation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float32, Int

from ..errors import DataFormatError, NonFiniteError
from .metrics import expected_hits, negator_count
from .records import Record

__all__ = ["Choice", "Encoder", "Images", "Texts", "as_array"]


class Encoder(Protocol):
    """What evaluation needs of a model; every `DualEncoder` has it."""

    def encode_images(self, images: Any) -> Any:
        """Normalised image embeddings [n, embed]."""

    def encode_texts(self, texts: Any) -> Any:
        """Normalised text embeddings [n, embed]."""


class Texts:
    """Encodes each different text once and hands out rows."""

    def __init__(self, model: Encoder, texts: list[str]) -> None:
        different = list(dict.fromkeys(texts))
        self._row = {text: i for i, text in enumerate(different)}
        self._rows = as_array(model.encode_texts(different), "text") if different else np.zeros((0, 1), np.float32)

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "text embed"]:
        return self._rows[[self._row[t] for t in texts]]


class Images:
    """Image vectors of records, from the caller's or encoded once."""

    def __init__(self, model: Encoder, records: Sequence[Record], given: Mapping[str, Any] | None) -> None:
        self._row: dict[Any, int] = {}
        different: list[Any] = []
        for record in records:
            if _key(record) not in self._row:
                self._row[_key(record)] = len(different)
                different.append(record.image)
        if given is None:
            self._rows = as_array(model.encode_images(different), "image")
        else:
            missing = [str(image) for image in different if str(image) not in given]
            if missing:
                raise DataFormatError(
                    f"image_embeddings lacks {len(missing)} of {len(different)} images, first {missing[0]!r}"
                )
            self._rows = np.stack([as_array(given[str(image)], "image") for image in different])

    def __call__(self, records: Sequence[Record]) -> Float32[np.ndarray, "item embed"]:
        return self._rows[[self._row[_key(r)] for r in records]]

    def __len__(self) -> int:
        return len(self._rows)

    def mean(self) -> Float32[np.ndarray, "embed"]:
        return self._rows.mean(axis=0)


@dataclass(frozen=True)
class Choice:
    """Items with options: scores each option against one vector an item."""

    options: Sequence[Sequence[str]]
    gold: Int[np.ndarray, "item"]
    records: Sequence[Record]

    def hits(
        self, images: Images, texts: Texts, vectors: Float[np.ndarray, "item embed"] | None = None
    ) -> Float[np.ndarray, "item"]:
        if not self.records:
            return np.zeros(0)
        rows = images(self.records) if vectors is None else vectors
        scores = np.full((len(self.options), max(map(len, self.options))), -np.inf)
        for i, options in enumerate(self.options):
            scores[i, : len(options)] = texts(options) @ rows[i]
        return expected_hits(scores, self.gold)

    def by_negators(self, sign: int) -> Float[np.ndarray, "item"]:
        scores = np.full((len(self.options), max(map(len, self.options), default=1)), -np.inf)
        for i, options in enumerate(self.options):
            scores[i, : len(options)] = [sign * negator_count(text) for text in options]
        return expected_hits(scores, self.gold)


def as_array(values: Any, what: str) -> Float32[np.ndarray, "*shape"]:
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    out = np.asarray(values, dtype=np.float32)
    if not np.isfinite(out).all():
        raise NonFiniteError(f"the model's {what} embeddings hold NaN or infinity; check its weights and inputs")
    return out


def _key(record: Record) -> Any:
    # Paths repeat among records; image objects are told apart by identity.
    return str(record.image) if isinstance(record.image, str | os.PathLike) else id(record.image)

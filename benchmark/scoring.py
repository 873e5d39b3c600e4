"""Embeddings of a dual encoder, each text and image encoded once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float32

from ..errors import DataFormatError, NonFiniteError
from ..io.quoting import shown
from .tasks import Questions

__all__ = ["Encoder", "Images", "Texts", "as_array", "encoded", "scores_of"]


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
        self._rows = _rows(model.encode_texts(different), "text", len(different)) if different else _NO_ROWS

    def check_width(self, images: Images) -> None:
        """Refuse text embeddings that are not as long as those of images."""
        (n_texts, width), (n_images, other) = self._rows.shape, images.shape
        if n_texts and n_images and width != other:
            raise DataFormatError(f"the model's image embeddings have {other} numbers and its text embeddings {width}")

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "text embed"]:
        return self._rows[[self._row[t] for t in texts]]


class Images:
    """Image vectors, from the caller's or encoded once."""

    def __init__(self, model: Encoder, images: Sequence[Any], given: Mapping[str, Any] | None) -> None:
        self._row: dict[Any, int] = {}
        different: list[Any] = []
        for image in images:
            if _key(image) not in self._row:
                self._row[_key(image)] = len(different)
                different.append(image)
        if given is None:
            self._rows = encoded(model, different)
        else:
            missing = [str(image) for image in different if str(image) not in given]
            if missing:
                raise DataFormatError(
                    f"image_embeddings lacks {len(missing)} of {len(different)} images, first {missing[0]!r}"
                )
            self._rows = _rows([as_array(given[str(image)], "image") for image in different], "image", len(different))

    def __call__(self, images: Sequence[Any]) -> Float32[np.ndarray, "item embed"]:
        return self._rows[[self._row[_key(image)] for image in images]]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of images, and of the numbers of each embedding."""
        return len(self._rows), int(self._rows.shape[1])

    def mean(self) -> Float32[np.ndarray, "embed"]:
        return self._rows.mean(axis=0)


def encoded(model: Encoder, images: Sequence[Any]) -> Float32[np.ndarray, "image embed"]:
    """Embeddings of images; that of a tuple, the frames of a video, is the normalised mean of its frames'."""
    if not images:
        return _NO_ROWS
    frames = [image if isinstance(image, tuple) else (image,) for image in images]
    flat = [frame for video in frames for frame in video]
    rows = _rows(model.encode_images(flat), "image", len(flat))
    if all(len(video) == 1 for video in frames):
        return rows
    starts = np.cumsum([0, *(len(video) for video in frames[:-1])])
    mean = np.add.reduceat(rows, starts, axis=0)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12), dtype=np.float32)


def as_array(values: Any, what: str) -> Float32[np.ndarray, "*shape"]:
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    try:
        out = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):  # texts, or rows of several lengths
        raise DataFormatError(f"the model's {what} embeddings are no table of numbers, but {shown(values)}") from None
    if not np.isfinite(out).all():
        raise NonFiniteError(f"the model's {what} embeddings hold NaN or infinity; check its weights and inputs")
    return out


_NO_ROWS = np.zeros((0, 1), np.float32)


def _rows(values: Any, what: str, n: int) -> Float32[np.ndarray, "row embed"]:
    """Embeddings of n texts or images.

    Raises:
        DataFormatError: they are something else than n vectors of one length.
    """
    if values is None:
        raise DataFormatError(f"the model returned no {what} embeddings, but None")
    out = as_array(values, what)
    if out.ndim != 2 or len(out) != n or not out.shape[1]:
        raise DataFormatError(f"the model's {what} embeddings have the shape {out.shape}, and {n} vectors are needed")
    return out


def scores_of(
    questions: Questions, vectors: Float[np.ndarray, "item embed"], texts: Texts
) -> Float[np.ndarray, "item option"]:
    """Cosine of every option with its item's vector; -inf where an item has no such option."""
    return questions.padded(lambda item, options: (texts(options) @ vectors[item]).tolist())


def _key(image: Any) -> Any:
    # Paths repeat among records; image objects are told apart by identity.
    return str(image) if isinstance(image, str | os.PathLike | tuple) else id(image)

"""What captions are judged by: a text, a phantom film, an image file or a dropped one; each with a small picture."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ...errors import DataFormatError, UnsupportedTowerError
from ...io.quoting import shown
from ...tracer.pairs.pairs import Pair, Text
from ..figure_data.labels import shorten

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["Pictures", "Target", "dropped", "film", "image_file", "of_object", "of_pair", "text", "thumbnail"]

_EDGE = 160  # pixels of a small picture


@dataclass(frozen=True, eq=False)
class Target:
    """A target of captions.

    kind: "text", "film", "file", "dropped" or "pair". label: how it is named. value: what the user entered.
    content: a :class:`Text`, an embedding, or what ``model.encode_images`` takes. code: Python that binds ``target``.
    picture: PNG, small; empty for texts and embeddings.
    """

    kind: str
    label: str
    value: str
    content: Any
    code: tuple[str, ...]
    picture: bytes = b""
    _embeddings: WeakKeyDictionary[DualEncoder, Any] = field(default_factory=WeakKeyDictionary)

    def of(self, model: DualEncoder) -> Any:
        """What a Pair takes as its image: the text, or the image's embedding."""
        return self.content if isinstance(self.content, Text) else self.embedding(model)

    def embedding(self, model: DualEncoder) -> Any:
        """The target's embedding, which is computed once for each model.

        Raises:
            UnsupportedTowerError: the model encodes no images.
        """
        if _is_row(self.content):
            return self.content
        if model not in self._embeddings:
            of_text = isinstance(self.content, Text)
            try:
                found = model.encode_texts([self.content.text]) if of_text else model.encode_images([self.content])
            except UnsupportedTowerError as error:
                raise UnsupportedTowerError(f"{error}. A text as the target needs no image encoder") from None
            self._embeddings[model] = found[0]
        return self._embeddings[model]


def _is_row(content: Any) -> bool:
    return getattr(content, "ndim", None) == 1


def text(words: str) -> Target:
    """A text as the target.

    Raises:
        DataFormatError: it is empty.

    >>> text("The lungs are clear.").code
    ("target = ts.Text('The lungs are clear.')",)
    """
    if not words.strip():
        raise DataFormatError("the target text is empty")
    return Target("text", shorten(words, 60), words, Text(words), (f"target = ts.Text({words!r})",))


def film(number: Any) -> Target:
    """A phantom film by its number: findings and anatomy are drawn from it.

    Raises:
        DataFormatError: no whole number >= 0.
    """
    from ...benchmark.phantom import draw, sample_facts, to_uint8

    try:
        seed = int(str(number))
    except ValueError:
        seed = -1
    if not 0 <= seed < 10**9:
        raise DataFormatError(f"a phantom film has a whole number from 0 on, not {shown(number)}")
    facts = sample_facts(np.random.default_rng(seed))
    pixels = to_uint8(draw(facts, seed))
    found = ", ".join(facts.present) or "no finding"
    code = (
        "from tracescribe.benchmark.phantom import draw, sample_facts, to_uint8",
        f"film = to_uint8(draw(sample_facts(np.random.default_rng({seed})), {seed}))",
        "target = model.encode_images([film])[0]",
    )
    return Target("film", f"phantom film {seed}: {found}", str(seed), pixels, code, thumbnail(pixels))


def image_file(path: str) -> Target:
    """An image file.

    Raises:
        DataFormatError: there is none, or it cannot be read.
    """
    picture = thumbnail(path)  # reads it, and refuses what is no image
    code = (f"target = model.encode_images([{path!r}])[0]",)
    return Target("file", shorten(Path(path).name, 60), path, path, code, picture)


def dropped(name: str, content: bytes) -> Target:
    """An image that was dropped on the page, or chosen there: its bytes, and its name without a folder.

    Raises:
        DataFormatError: it cannot be read.
    """
    name = Path(name.replace("\\", "/")).name or "image"
    picture = thumbnail(content)
    code = (
        f"# the file that was dropped on the explorer ({len(content):,} bytes): say where it lies",
        f"target = model.encode_images([{name!r}])[0]",
    )
    return Target("dropped", shorten(name, 60), name, content, code, picture)


def of_pair(image: Any, number: int) -> Target:
    """The target of a pair of the data set.

    Raises:
        DataFormatError: the pair has none, or it cannot be read.
    """
    if image is None:
        raise DataFormatError(f"pair {number} has no image: choose a target")
    if isinstance(image, Text):
        return text(image.text)
    if isinstance(image, str | os.PathLike):
        code = (f"target = model.encode_images([pairs[{number}].image])[0]",)
        return replace(image_file(os.fspath(image)), code=code)
    return _of_object(image, f"the target of pair {number}", f"pairs[{number}].image")


def of_object(image: Any) -> Target:
    """What was given to ``explore`` as its target: an image, its path, an embedding or a text.

    Raises:
        DataFormatError: it cannot be read.
    """
    if isinstance(image, Text):
        return text(image.text)
    if isinstance(image, str | os.PathLike):
        return image_file(os.fspath(image))
    return _of_object(image, "the target that was given", "given")


def _of_object(image: Any, label: str, name: str) -> Target:
    about = () if name.startswith("pairs") else (f"# {name}: the target that was given to explore(..., target=)",)
    if isinstance(image, list | tuple) or _is_row(image):
        row = _as_row(image, label) if isinstance(image, list | tuple) else image
        return Target("pair", label, "", row, (*about, f"target = {name}"))
    code = (*about, f"target = model.encode_images([{name}])[0]")
    return Target("pair", label, "", image, code, thumbnail(image))


def _as_row(numbers: Sequence[Any], label: str) -> np.ndarray:
    try:
        row: np.ndarray = np.asarray(numbers, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        row = np.empty((0, 0))
    if row.ndim != 1:
        raise DataFormatError(f"{label} must be a list of numbers, an embedding, not {shown(numbers)}")
    return row


def thumbnail(image: Any, edge: int = _EDGE) -> bytes:
    """A small PNG of anything that is an image; nothing for preprocessed pixels.

    Raises:
        DataFormatError: it cannot be read.
    """
    from ...patching import read_image

    picture = read_image(image)
    if not hasattr(picture, "thumbnail"):
        return b""
    small = picture.copy()
    small.thumbnail((edge, edge))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return buffer.getvalue()


class Pictures:
    """Small pictures of a data set's images, each read once."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs
        self._known: dict[int, bytes] = {}

    def of(self, number: int) -> bytes:
        """The picture of a pair's image; nothing where it is no image, or cannot be read."""
        if number not in self._known:
            image = self._pairs[number].image
            none = image is None or isinstance(image, Text | list | tuple) or _is_row(image)
            try:
                self._known[number] = b"" if none else thumbnail(image, 64)
            except DataFormatError:
                self._known[number] = b""
        return self._known[number]

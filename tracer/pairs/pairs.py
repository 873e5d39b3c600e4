"""Caption pairs, from Python or from JSONL and CSV files whose mistakes are named by file, line and field."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, field_validator

from ...arguments import explains_arguments
from ...checked import Checked
from ...errors import DataFormatError
from ...io.json_lines import read_jsonl, shown
from ...io.tables import read_table
from .names import Name, WholeText, image_beside

__all__ = ["Pair", "Text", "read_pairs"]


@dataclass(frozen=True)
class Text:
    """A text as the target of a pair instead of an image.

    >>> Text("a chest film with an effusion")
    Text(text='a chest film with an effusion')
    """

    text: str


class Pair(Checked):
    """A correct caption and a foil of the same number of tokens, with the image they are judged by.

    image: a path, a PIL image, a 1-d array or tensor (a precomputed image embedding), or a :class:`Text` (or
        ``{"text": "..."}``, as files write it).
    id: name of the pair in results. group: cluster for the bootstrap, e.g. the patient; by default the pair itself.
    attribute: what was changed (existence, location, severity, ...). template: name of the sentence pattern.
    negation: which caption holds the negation. split: of the data set that the pair was made from. provenance: how a
    builder made it.

    >>> Pair(correct="There is no edema.", foil="There is severe edema.", image="film.png").foil
    'There is severe edema.'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    correct: WholeText
    foil: WholeText
    image: Any = None
    id: Name | None = None
    group: Name | None = None
    attribute: Name | None = None
    template: Name | None = None
    negation: Literal["correct", "foil"] | None = None
    split: Literal["train", "val", "test"] | None = None
    provenance: dict[str, Any] | None = None

    @field_validator("image", mode="before")
    @classmethod
    def _text_as_files_write_it(cls, image: Any) -> Any:
        return Text(image["text"]) if _is_text(image) else image

    @field_validator("correct", "foil")
    @classmethod
    def _not_blank(cls, caption: str) -> str:
        if not caption.strip():
            raise ValueError("the caption is empty")
        return caption


FIELDS = tuple(Pair.model_fields)


@explains_arguments
def read_pairs(
    path: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None, outside_images: bool = False
) -> list[Pair]:
    """Pairs from a ``.jsonl`` or ``.csv`` file with the fields of :class:`Pair`; blank lines are allowed.

    A table may be UTF-8 or UTF-16, with commas, semicolons or tabs.

    Image paths are relative to ``images``, by default the file's folder. In JSONL an image may also be an embedding, a
    list of numbers, or a target text, ``{"text": "..."}``.

    images: the folder that image paths are relative to.
    outside_images: accept image paths that are absolute or lead out of that folder; a file from elsewhere could name
        any image on this machine.

    Raises:
        DataFormatError: no such file, another kind of file, no pair in it, or a bad record; names file, line and field.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "pairs.csv")
    ...     _ = path.write_text("id,correct,foil\\np1,no edema,mild edema\\n")
    ...     read_pairs(path)
    [Pair(correct='no edema', foil='mild edema', image=None, id='p1', group=None, ...
    """
    file = Path(path)
    readers: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]]
    readers = {".jsonl": read_jsonl, ".csv": _csv_records}
    if file.suffix.lower() not in readers:
        raise DataFormatError(f"{str(file)!r} must end in .jsonl or .csv, which says how to read its pairs")
    records = readers[file.suffix.lower()](file)
    folder = file.parent if images is None else Path(images)
    pairs = [_pair(record, folder, f"{file}:{line}", outside_images) for line, record in records]
    if not pairs:
        raise DataFormatError(f"{str(file)!r} holds no pairs")
    return pairs


def _csv_records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, cells in read_table(file, _check_columns):
        # a table cannot say "nothing" otherwise than by an empty cell; an empty caption is refused by Pair
        yield line, {name: cell for name, cell in cells.items() if cell or name in ("correct", "foil")}


def _check_columns(names: list[str], where: str) -> None:
    for name in names:
        if name not in FIELDS:
            index = name.startswith("Unnamed:")
            hint = "; a column of this name is pandas' index: write the file with index=False" if index else ""
            raise DataFormatError(f"{where}: unknown column {shown(name)}; known are {', '.join(FIELDS)}{hint}")
    for name in ("correct", "foil"):
        if name not in names:
            raise DataFormatError(f"{where}: no column {name!r}; the first line must name the columns")


def _pair(record: dict[str, Any], folder: Path, place: str, outside_images: bool) -> Pair:
    image = _image(record.get("image"), folder, place, outside_images)
    try:
        return Pair(**{**record, "image": image})
    except DataFormatError as error:
        raise DataFormatError(f"{place}: {error}") from None


def _is_text(image: Any) -> bool:
    return isinstance(image, dict) and list(image) == ["text"] and isinstance(image["text"], str)


def _image(value: Any, folder: Path, place: str, outside: bool) -> Any:
    where = f"{place}: field 'image'"
    if value is None:
        return None
    if isinstance(value, str):
        return image_beside(folder, value, where, outside=outside)
    if _is_text(value):
        return value
    if isinstance(value, list) and value and all(type(number) in (int, float) for number in value):
        with np.errstate(over="ignore"), suppress(OverflowError):  # what becomes infinite is refused below
            embedding = np.array(value, dtype=np.float32)
            if np.isfinite(embedding).all():
                return embedding
    raise DataFormatError(
        f'{where}: expected a path, a list of finite numbers (an embedding) or {{"text": "..."}}, not {shown(value)}'
    )

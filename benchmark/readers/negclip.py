"""NegCLIP's training table (Yuksekgonul et al. 2023): captions with hard negative captions and images."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ...errors import DataFormatError
from ...io.quoting import shown
from ..records import CaptionRecord
from . import fields
from .images import ImageFolder
from .registry import Reader
from .source import Source

NEEDS = ("title", "filepath", "neg_caption")


def _matches(source: Source) -> bool:
    return source.kind == "table" and source.fields >= set(NEEDS)


def _records(source: Source, folder: ImageFolder) -> Iterator[CaptionRecord]:
    for number, (where, row) in enumerate(source.records()):
        path = fields.text(row, "filepath", where)
        with fields.checked(where):
            yield CaptionRecord(
                id=str(number),
                image=folder.find(path),
                group=path,
                caption=fields.text(row, "title", where),
                neg_captions=tuple(fields.text_list(row, "neg_caption", where)),
                neg_images=tuple(_row_numbers(row, where)),
            )


def _row_numbers(row: dict[str, str], where: str) -> list[str]:
    """Ids of the rows whose images are hard negatives; written as a list of numbers."""
    value = row.get("neg_image") or "[]"
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(type(item) is int and item >= 0 for item in found):
        raise DataFormatError(f"{where}: field 'neg_image': expected a list of row numbers, not {shown(value)}")
    return [str(item) for item in found]


READERS = (Reader("negclip", "NegCLIP: captions with hard negative captions and images", _matches, _records, NEEDS),)

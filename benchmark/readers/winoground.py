"""Winoground (Thrush et al. 2022): two images, two captions of the same words."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import DataFormatError
from ..records import WinogroundRecord
from . import fields
from .images import ImageFolder
from .registry import Reader
from .source import Source

NEEDS = ("image_0", "image_1", "caption_0", "caption_1")


def _matches(source: Source) -> bool:
    return source.fields >= set(NEEDS)


def _records(source: Source, folder: ImageFolder) -> Iterator[WinogroundRecord]:
    for number, (where, item) in enumerate(source.records()):
        if not isinstance(item, dict):
            raise DataFormatError(f"{where}: expected an object, not {type(item).__name__}")
        images = tuple(folder.find(_file(fields.image(item, f"image_{i}", where))) for i in range(2))
        with fields.checked(where):
            yield WinogroundRecord(
                id=fields.name(item, "id", where) if "id" in item else str(number),
                images=(images[0], images[1]),
                captions=(fields.text(item, "caption_0", where), fields.text(item, "caption_1", where)),
                tag=item.get("collapsed_tag") or item.get("tag") or None,
            )


def _file(name: str) -> str:
    """The published records name images without their ending."""
    return name if "." in name else f"{name}.png"


READERS = (
    Reader("winoground", "Winoground: two images and two captions of the same words", _matches, _records, NEEDS),
)

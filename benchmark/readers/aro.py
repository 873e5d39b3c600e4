"""ARO (Yuksekgonul et al. 2023): relation and attribution swaps on Visual Genome crops."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import DataFormatError
from ...tracer import Pair
from . import fields
from .images import ImageFolder
from .registry import Reader
from .source import Source


def _matches(source: Source) -> bool:
    return {"image_id", "true_caption", "false_caption"} <= source.fields


def _records(source: Source, folder: ImageFolder) -> Iterator[Pair]:
    """The image is the whole picture; ARO scores the box ``bbox_x, bbox_y, bbox_w, bbox_h`` cut out of it."""
    for number, (where, item) in enumerate(source.records()):
        if not isinstance(item, dict):
            raise DataFormatError(f"{where}: expected an object, not {type(item).__name__}")
        image = fields.name(item, "image_id", where)
        path = item.get("image_path")
        attribute = "attribution" if "attributes" in item else "relation"
        with fields.checked(where):
            yield Pair(
                correct=fields.text(item, "true_caption", where),
                foil=fields.text(item, "false_caption", where),
                image=folder.find(path if isinstance(path, str) and path else f"{image}.jpg"),
                id=str(number),
                group=image,
                attribute=attribute,
                template=item.get("relation_name") if attribute == "relation" else None,
            )


READERS = (Reader("aro", "ARO: relations and attributes with their arguments swapped", _matches, _records),)

"""ARO (Yuksekgonul et al. 2023): relation and attribution swaps on boxes of Visual Genome's images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import DataFormatError
from ...io.quoting import shown
from ...tracer import Pair
from . import fields
from .images import ImageFolder
from .registry import Reader
from .source import Source

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
MOST_PIXELS = 1_000_000  # of a side


def _matches(source: Source) -> bool:
    return {"image_id", "true_caption", "false_caption"} <= source.fields


def _records(source: Source, folder: ImageFolder) -> Iterator[Pair]:
    """The image is the box that ARO's own data set cuts out; a file without boxes is of images that are cut already.

    The template is what ARO averages its accuracy by: the relation, or the two attributes as "red_big".
    """
    from ...patching import ImageCrop

    for number, (where, item) in enumerate(source.records()):
        if not isinstance(item, dict):
            raise DataFormatError(f"{where}: expected an object, not {type(item).__name__}")
        image = fields.name(item, "image_id", where)
        given = item.get("image_path")
        found: Any = folder.find(given if isinstance(given, str) and given else f"{image}.jpg")
        box = _box(item, where)
        if found is not None and box is not None:
            found = ImageCrop(found, *box)
        attribute = "attribution" if "attributes" in item else "relation"
        with fields.checked(where):
            yield Pair(
                correct=fields.text(item, "true_caption", where),
                foil=fields.text(item, "false_caption", where),
                image=found,
                id=str(number),
                group=image,
                attribute=attribute,
                template=item.get("relation_name") if attribute == "relation" else _attributes(item, where),
            )


def _box(item: dict[str, Any], where: str) -> tuple[int, ...] | None:
    if not any(name in item for name in BOX):
        return None
    found = [fields.number(item, name, where) for name in BOX]
    for name, value in zip(BOX, found, strict=True):
        least = 1 if name in ("bbox_w", "bbox_h") else -MOST_PIXELS
        if value is None or not least <= value <= MOST_PIXELS:
            raise DataFormatError(f"{where}: field {name!r}: expected pixels of a box, not {shown(item[name])}")
    return tuple(round(value) for value in found if value is not None)


def _attributes(item: dict[str, Any], where: str) -> str:
    return "_".join(fields.text_list(item, "attributes", where))


READERS = (Reader("aro", "ARO: relations and attributes with their arguments swapped", _matches, _records),)

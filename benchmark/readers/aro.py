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
NOT_IN_MEAN = "left out of the mean"

_RELATIONS = """
adjusting, attached to, between, bigger than, biting, boarding, brushing, chewing, cleaning, climbing, close to,
coming from, coming out of, contain, crossing, dragging, draped over, drinking, drinking from, driving, driving
down, driving on, eating from, eating in, enclosing, exiting, facing, filled with, floating in, floating on,
flying, flying above, flying in, flying over, flying through, full of, going down, going into, going through,
grazing in, growing in, growing on, guiding, hanging from, hanging in, hanging off, hanging over, higher than,
holding onto, hugging, in between, jumping off, jumping on, jumping over, kept in, larger than, leading, leaning
over, leaving, licking, longer than, looking in, looking into, looking out, looking over, looking through, lying
next to, lying on top of, making, mixed with, mounted on, moving, on the back of, on the edge of, on the front
of, on the other side of, opening, painted on, parked at, parked beside, parked by, parked in, parked in front
of, parked near, parked next to, perched on, petting, piled on, playing, playing in, playing on, playing with,
pouring, reaching for, reading, reflected on, riding on, running in, running on, running through, seen through,
sitting behind, sitting beside, sitting by, sitting in front of, sitting near, sitting next to, sitting under,
skiing down, skiing on, sleeping in, sleeping on, smiling at, sniffing, splashing, sprinkled on, stacked on,
standing against, standing around, standing behind, standing beside, standing in front of, standing near,
standing next to, staring at, stuck in, surrounding, swimming in, swinging, talking to, topped with, touching,
traveling down, traveling on, tying, typing on, underneath, wading in, waiting for, walking across, walking by,
walking down, walking next to, walking through, working in, working on, worn on, wrapped around, wrapped in, by,
of, near, next to, with, beside, on the side of, around
"""
LEFT_OUT_OF_MEAN = frozenset(name.strip() for name in _RELATIONS.replace("\n", " ").split(","))
"""Relations of ARO's file that its authors leave out of their mean: the list `symmetric` of their notebook, which holds
others, too."""

NEEDS = ("image_id", "true_caption", "false_caption")


def _matches(source: Source) -> bool:
    return source.fields >= set(NEEDS)


def _records(source: Source, folder: ImageFolder) -> Iterator[Pair]:
    """The image is the box that ARO's own data set cuts out; a file without boxes is of images that are cut already.

    The template is what ARO averages its accuracy by: the relation, or the two attributes as "red_big". Relations that
    its mean leaves out are another attribute ("relation, left out of the mean").
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
        attribute = "attribution" if item.get("attributes") else "relation"
        relation = None if item.get("relation_name") is None else fields.text(item, "relation_name", where)
        with fields.checked(where):
            yield Pair(
                correct=fields.text(item, "true_caption", where),
                foil=fields.text(item, "false_caption", where),
                image=found,
                id=str(number),
                group=image,
                attribute=f"relation, {NOT_IN_MEAN}" if relation in LEFT_OUT_OF_MEAN else attribute,
                template=relation if attribute == "relation" else _attributes(item, where),
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


READERS = (Reader("aro", "ARO: relations and attributes with their arguments swapped", _matches, _records, NEEDS),)

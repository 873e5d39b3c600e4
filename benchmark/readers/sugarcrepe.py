"""SugarCrepe (Hsieh et al. 2023) and SugarCrepe++ (Dumpala et al. 2024): captions with a hard negative."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import DataFormatError
from ...tracer import Pair
from . import fields
from .images import ImageFolder
from .registry import Reader
from .source import Source

NEEDS = ("filename", "caption", "negative_caption")


def _is_sugarcrepe(source: Source) -> bool:
    return source.fields >= set(NEEDS) and "caption2" not in source.fields


def _is_plus_plus(source: Source) -> bool:
    return source.fields >= {*NEEDS, "caption2"}


def _sugarcrepe(source: Source, folder: ImageFolder) -> Iterator[Pair]:
    """The attribute is the file's name, which says what was changed (add_att, replace_obj, swap_obj, ...)."""
    yield from _pairs(source, folder, ("caption",))


def _plus_plus(source: Source, folder: ImageFolder) -> Iterator[Pair]:
    """Two captions of one meaning, each with the same negative: two pairs per item, told apart by their template."""
    yield from _pairs(source, folder, ("caption", "caption2"))


def _pairs(source: Source, folder: ImageFolder, captions: tuple[str, ...]) -> Iterator[Pair]:
    for number, (where, item) in enumerate(source.records()):
        if not isinstance(item, dict):
            raise DataFormatError(f"{where}: expected an object, not {type(item).__name__}")
        image = fields.image(item, "filename", where)
        key = where.item or str(number)
        for caption in captions:
            with fields.checked(where):
                yield Pair(
                    correct=fields.text(item, caption, where),
                    foil=fields.text(item, "negative_caption", where),
                    image=folder.find(image),
                    id=key if len(captions) == 1 else f"{key}-{caption}",
                    group=image,
                    attribute=source.path.name.partition(".")[0],
                    template=caption,
                )


READERS = (
    Reader("sugarcrepe", "SugarCrepe: caption and hard negative", _is_sugarcrepe, _sugarcrepe, NEEDS),
    Reader("sugarcrepe++", "SugarCrepe++: two captions of one meaning and a hard negative", _is_plus_plus, _plus_plus),
)

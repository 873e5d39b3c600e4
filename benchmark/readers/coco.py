"""COCO's caption files: one JSON object with ``images`` and ``annotations``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ...errors import DataFormatError
from ...io.quoting import shown
from ..records import RetrievalRecord
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source


def _matches(source: Source) -> bool:
    return source.kind == "object" and {"images", "annotations"} <= set(_parts(source, names_only=True))


def _parts(source: Source, names_only: bool = False) -> dict[str, Any]:
    """The file's parts by name. ``names_only``: stops as soon as both lists have been named."""
    found: dict[str, Any] = {}
    for where, value in source.records():
        name = where.item
        if name not in ("images", "annotations", "info", "licenses", "categories", "type"):
            break  # another format's object of items
        found[name] = None if names_only else value
        if {"images", "annotations"} <= set(found):
            break
    return found


def _records(source: Source, folder: ImageFolder) -> Iterator[RetrievalRecord | LeftOut]:
    parts = _parts(source)
    captions: dict[str, list[str]] = defaultdict(list)
    for number, item in enumerate(_objects(parts, "annotations", source)):
        where = f"{source.path}, annotation {number}"
        captions[fields.name(item, "image_id", where)].append(fields.text(item, "caption", where))
    for number, item in enumerate(_objects(parts, "images", source)):
        where = f"{source.path}, image {number}"
        name, path = fields.name(item, "id", where), fields.text(item, "file_name", where)
        if name not in captions:
            yield LeftOut(where, "the image has no caption")
            continue
        with fields.checked(where):
            yield RetrievalRecord(id=name, image=folder.find(path), group=path, captions=tuple(captions.pop(name)))
    if captions:
        raise DataFormatError(
            f"{source.path}: captions name the image {shown(next(iter(captions)))}, which is not listed"
        )


def _objects(parts: dict[str, Any], name: str, source: Source) -> list[dict[str, Any]]:
    value = parts.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataFormatError(f"{source.path}: field {name!r}: expected a list of objects")
    return value


READERS = (Reader("coco", "COCO captions: images with all their captions", _matches, _records),)

"""The files of tracescribe itself: pairs, claims, captions (docs/files.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ...checked import Checked
from ...errors import DataFormatError
from ...io.quoting import shown
from ...tracer import Pair, Text
from ..records import CaptionRecord, ClaimRecord, FactsRecord, RetrievalRecord
from . import fields
from .images import ImageFolder
from .registry import Reader
from .source import Source

R = TypeVar("R", bound=Checked)


def _needed(kind: type[Checked]) -> list[str]:
    return [name for name, info in kind.model_fields.items() if info.is_required() and name != "image"]


def _matches(kind: type[Checked]) -> Callable[[Source], bool]:
    def matches(source: Source) -> bool:
        return source.kind in ("lines", "table", "array") and set(_needed(kind)) <= source.fields <= set(
            kind.model_fields
        )

    return matches


def _records(kind: type[R]) -> Callable[[Source, ImageFolder], Iterator[R]]:
    def records(source: Source, folder: ImageFolder) -> Iterator[R]:
        for where, value in source.records():
            given: dict[str, Any] = {key: cell for key, cell in value.items() if cell != ""}
            image = given.get("image")
            if isinstance(image, str):
                given["image"] = folder.find(image)
            elif isinstance(image, dict) and list(image) == ["text"] and isinstance(image["text"], str):
                given["image"] = Text(image["text"])
            elif image is not None:
                raise DataFormatError(
                    f"{where}: field 'image': expected a path, {{\"text\": ...}} or nothing, not {shown(image)}"
                )
            with fields.checked(where):
                yield kind.model_validate({"image": None, **given})

    return records


READERS = tuple(
    Reader(name, holds, _matches(kind), _records(kind), _needed(kind))
    for name, holds, kind in (
        ("pairs", "tracescribe's caption pairs", Pair),
        ("claims", "tracescribe's claim sets", ClaimRecord),
        ("captions", "tracescribe's captions", CaptionRecord),
        ("retrieval", "tracescribe's images with all their captions", RetrievalRecord),
        ("facts", "tracescribe's labels by condition", FactsRecord),
    )
)

"""VALSE (Parcalabescu et al. 2022): one JSON object of items by id, the same for all eleven phenomena."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ...errors import DataFormatError
from ...tracer import Pair
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source

MIN_VOTES = 2  # of 3 annotators who found that the caption, not the foil, describes the image


def _matches(source: Source) -> bool:
    return source.kind in ("object", "array", "lines") and {"caption", "foil", "image_file", "mturk"} <= source.fields


def _records(source: Source, folder: ImageFolder) -> Iterator[Pair | LeftOut]:
    """Pairs that at least 2 of 3 annotators found valid, worded as published.

    ``read_valse`` rephrases existence items so that both captions have as many tokens, as Quantmeyer et al. 2024 did.
    """
    for where, item in source.records():
        if not isinstance(item, dict) or not isinstance(item.get("mturk"), dict):
            raise DataFormatError(f"{where}: field 'mturk': expected an object of votes")
        votes = fields.number(item["mturk"], "caption", where)
        if votes is None or votes < MIN_VOTES:
            yield LeftOut(where, f"fewer than {MIN_VOTES} annotators found the caption valid (mturk.caption)")
            continue
        image = fields.image(item, "image_file", where)
        with fields.checked(where):
            yield Pair(
                correct=fields.text(item, "caption", where),
                foil=fields.text(item, "foil", where),
                image=folder.find(image),
                id=where.item or None,
                group=image,
                attribute=str(item.get("linguistic_phenomena") or "valse"),
                template=item.get("foil_method"),
                negation=_negated(item),
            )


def _negated(item: dict[str, object]) -> Literal["correct", "foil"] | None:
    """Which caption is negated, for existence items, whose provenance says it."""
    provenance = item.get("provenance_of_foils")
    if item.get("linguistic_phenomena") != "existence" or provenance is None:
        return None
    return "correct" if provenance == "zero_to_something" else "foil"


READERS = (Reader("valse", "VALSE: caption and foil, all eleven phenomena", _matches, _records),)

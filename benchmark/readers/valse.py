"""VALSE (Parcalabescu et al. 2022): one JSON object of items by id, the same for all eleven phenomena."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from ...errors import DataFormatError
from ...io.quoting import shown
from ...tracer import Pair
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source

MIN_VOTES, MAX_VOTES = 2, 3  # annotators who found that the caption, not the foil, describes the image

NEEDS = ("caption", "foil", "image_file", "mturk")


def _matches(source: Source) -> bool:
    return source.kind in ("object", "array", "lines") and source.fields >= set(NEEDS)


def _records(source: Source, folder: ImageFolder) -> Iterator[Pair | LeftOut]:
    """Pairs that at least 2 of 3 annotators found valid, worded as published.

    ``read_valse`` rephrases existence items so that both captions have as many tokens, as Quantmeyer et al. 2024 did.
    """
    for where, item in source.records():
        if not isinstance(item, dict) or not isinstance(item.get("mturk"), dict):
            raise DataFormatError(f"{where}: field 'mturk': expected an object of votes")
        votes = fields.number(item["mturk"], "caption", where)
        if votes is not None and votes not in range(MAX_VOTES + 1):
            raise DataFormatError(f"{where}: field 'mturk.caption': expected 0 to {MAX_VOTES} votes, not {votes:g}")
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
                attribute=fields.text_or(item, "linguistic_phenomena", where, "valse"),
                template=fields.text_or(item, "foil_method", where, "") or None,
                negation=_negated(item, where),
            )


NEGATED: Mapping[str, Literal["correct", "foil"]] = {"zero_to_something": "correct", "something_to_zero": "foil"}


def _negated(item: dict[str, object], where: str) -> Literal["correct", "foil"] | None:
    """Which caption is negated, for existence items, whose provenance says it."""
    provenance = item.get("provenance_of_foils")
    if item.get("linguistic_phenomena") != "existence" or provenance is None:
        return None
    if str(provenance) not in NEGATED:
        raise DataFormatError(
            f"{where}: field 'provenance_of_foils': expected {' or '.join(NEGATED)}, not {shown(provenance)}"
        )
    return NEGATED[str(provenance)]


READERS = (Reader("valse", "VALSE: caption and foil, all eleven phenomena", _matches, _records, NEEDS),)

"""CAD-Chest (Zhang et al. 2023): diseases of MIMIC-CXR reports with location, severity and probability."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from ...errors import DataFormatError
from ...io.quoting import shown
from ..records import Fact, FactsRecord
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source
from .studies import Studies

CERTAIN = 3  # probability_score: 3 present, -3 absent, between them uncertain
SEVERITIES: dict[str, Literal[1, 2, 3]] = {
    **dict.fromkeys(("mild", "minimal", "small", "subtle", "trace", "minor", "mildly", "minimally", "slight"), 1),
    **dict.fromkeys(("moderate", "moderately"), 2),
    **dict.fromkeys(("severe", "large", "massive", "marked", "severely"), 3),
}

NEEDS = ("study_id", "subject_id", "entity")


def _matches(source: Source) -> bool:
    return source.kind in ("array", "lines") and source.fields >= set(NEEDS)


def _records(source: Source, folder: ImageFolder) -> Iterator[FactsRecord | LeftOut]:
    studies = Studies(source, folder)
    for where, item in source.records():
        if not isinstance(item, dict):
            raise DataFormatError(f"{where}: expected an object, not {type(item).__name__}")
        subject, study = fields.name(item, "subject_id", where), fields.name(item, "study_id", where)
        entities = fields.field(item, "entity", where)
        if not isinstance(entities, dict):
            raise DataFormatError(f"{where}: field 'entity': expected an object of diseases")
        facts = {str(name): _fact(value, where, str(name)) for name, value in entities.items()}
        if not facts:
            yield LeftOut(where, "the report names no disease")
            continue
        named = item.get("dicom_id")
        image = studies.image(subject, study, named if isinstance(named, str) and named.strip() else None)
        with fields.checked(where):
            yield FactsRecord(id=study, image=image, group=subject, facts=facts)


def _fact(value: Any, where: str, name: str) -> Fact:
    if not isinstance(value, dict):
        raise DataFormatError(f"{where}: disease {shown(name)}: expected an object")
    given = {"probability_score": CERTAIN, **value}  # a disease that is named without a degree of certainty is present
    score = fields.number(given, "probability_score", f"{where}, disease {shown(name)}")
    if score is None or not -CERTAIN <= score <= CERTAIN:
        raise DataFormatError(
            f"{where}, disease {shown(name)}: field 'probability_score': expected -3 to 3, not {score!r}"
        )
    state: Literal["present", "absent", "uncertain"] = (
        "present" if score == CERTAIN else "absent" if score == -CERTAIN else "uncertain"
    )
    place = f"{where}, disease {shown(name)}"
    graded = [*_texts(value, "level", place), *_texts(value, "level2", place)]
    words = [word for level in graded for word in level.lower().split()]
    if state == "absent" and graded:
        state = "uncertain"  # "no large effusion" does not say that there is none
    levels = {SEVERITIES[word] for word in words if word in SEVERITIES}
    places = [found for key in ("location", "post_location", "location2") for found in _texts(value, key, place)]
    return Fact(state=state, location=tuple(places), severity=levels.pop() if len(levels) == 1 else None)


def _texts(value: dict[str, Any], key: str, where: str) -> list[str]:
    """The words of a field: a list of them, or one; none where it is null or not there."""
    found = value.get(key) or []
    return fields.text_list({key: [found] if isinstance(found, str) else found}, key, where)


READERS = (Reader("cad-chest", "CAD-Chest: diseases with location, severity and certainty", _matches, _records, NEEDS),)

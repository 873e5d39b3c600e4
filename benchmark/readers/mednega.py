"""MedNega-CXR as NAST publishes it: a JSON array of multiple-choice items with integer ids and no image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import DataFormatError
from ..records import McqRecord
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source
from .studies import Studies

CHOICES = range(1, 5)
OPTIONS = ("binary_raw_choice", "negation_mcq_choice", "affirmative_mcq_choice")
FIELDS = frozenset(
    ["subject_id", "study_id", "question", "correct_answer"] + [f"{name}_{i}" for name in OPTIONS for i in CHOICES]
)


def _matches(source: Source) -> bool:
    return source.kind in ("array", "lines") and source.fields >= FIELDS


def _records(source: Source, folder: ImageFolder) -> Iterator[McqRecord | LeftOut]:
    studies = Studies(source, folder)
    for where, value in source.records():
        yield _item(value, where, folder, studies)


def _item(value: Any, where: str, folder: ImageFolder, studies: Studies) -> McqRecord | LeftOut:
    """One item. An option whose text the published builder failed to write is empty there: such items are left out.

    The image is that of the study, as tables or the layout of MIMIC-CXR-JPG say, unless the item names one (``image``).
    """
    if not isinstance(value, dict):
        raise DataFormatError(f"{where}: expected an object, not {type(value).__name__}")
    subject, study = fields.name(value, "subject_id", where), fields.name(value, "study_id", where)
    known = {key: fields.field(value, key, where) for key in FIELDS}
    options = [known[f"{kind}_mcq_choice_{i}"] for kind in ("negation", "affirmative") for i in CHOICES]
    if any(isinstance(option, str) and not option.strip() for option in options):
        return LeftOut(where, "an option is empty")
    named = value.get("image")
    image = folder.find(named) if isinstance(named, str) else studies.image(subject, study)
    for name in (f"binary_raw_choice_{i}" for i in CHOICES):
        known[name] = _whole_numbers(known[name])
    known |= {"subject_id": subject, "study_id": study, "image": image, "split": value.get("split")}
    try:
        return McqRecord(**known, group=str(value.get("group", subject)))
    except DataFormatError as error:
        problem = str(error)
        if "same text" in problem:  # published items whose affirmative wordings collide
            return LeftOut(where, problem)
        raise DataFormatError(f"{where}: {problem}") from None


def _whole_numbers(states: Any) -> Any:
    """The states with 1.0 as 1, which is what pandas makes of a column of numbers."""
    if not isinstance(states, dict):
        return states
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in states.items()
    }


READERS = (Reader("mednega", "MedNega-CXR: multiple choice in both wordings", _matches, _records, sorted(FIELDS)),)

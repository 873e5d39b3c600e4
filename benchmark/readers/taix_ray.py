"""TAIX-Ray: bedside chest radiographs graded by side: 0 none, 1 doubtful, 2 mild, 3 moderate, 4 severe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from ...errors import DataFormatError
from ...io.quoting import shown
from ..records import Fact, FactsRecord, Split
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source

# column: (condition, side)
COLUMNS: Mapping[str, tuple[str, str | None]] = {
    "HeartSize": ("Cardiomegaly", None),
    "PulmonaryCongestion": ("Pulmonary Congestion", None),
    **{
        f"{column}_{side}": (condition, side.lower())
        for column, condition in (
            ("PleuralEffusion", "Pleural Effusion"),
            ("PulmonaryOpacities", "Pulmonary Opacities"),
            ("Atelectasis", "Atelectasis"),
        )
        for side in ("Right", "Left")
    },
}
GRADES: Mapping[float, tuple[Literal["present", "absent", "uncertain"], Literal[1, 2, 3] | None]] = {
    0: ("absent", None),
    1: ("uncertain", None),
    2: ("present", 1),
    3: ("present", 2),
    4: ("present", 3),
}
_SPLITS: Mapping[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_NAMES = ("UID", "ImageID", "image_id", "id")
_PATIENTS = ("PatientID", "patient_id", "Patient")


def _matches(source: Source) -> bool:
    return source.kind == "table" and set(COLUMNS) <= source.fields


def _records(source: Source, folder: ImageFolder) -> Iterator[FactsRecord | LeftOut]:
    """Facts are named by condition, or by condition and side where both sides are graded ("Atelectasis, left")."""
    names = [name for name in _NAMES if name in source.fields]
    patients = [name for name in _PATIENTS if name in source.fields]
    if not names or not patients:
        raise DataFormatError(
            f"{source.path}: no column names the image ({', '.join(_NAMES)}) or the patient ({', '.join(_PATIENTS)})"
        )
    for where, row in source.records():
        facts: dict[str, Fact] = {}
        for column, (condition, side) in COLUMNS.items():
            grade = fields.number(row, column, where)
            if grade is None:
                continue
            if grade not in GRADES:
                raise DataFormatError(
                    f"{where}: field {column!r}: expected a grade of 0 to 4, not {shown(row[column])}"
                )
            state, severity = GRADES[grade]
            location = () if side is None else (side,)
            name = condition if side is None else f"{condition}, {side}"
            facts[name] = Fact(state=state, severity=severity, location=location)
        if not facts:
            yield LeftOut(where, "nothing is graded")
            continue
        image = fields.name(row, names[0], where)
        split = (row.get("Split") or row.get("split") or "").lower()
        with fields.checked(where):
            yield FactsRecord(
                id=image,
                image=folder.find(image if "." in image else f"{image}.png"),
                group=fields.name(row, patients[0], where),
                split=_SPLITS.get(split),
                facts=facts,
            )


READERS = (Reader("taix-ray", "TAIX-Ray: findings graded by side and severity", _matches, _records),)

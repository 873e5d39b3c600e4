"""TAIX-Ray: bedside chest radiographs graded by side: 0 none, 1 questionable, 2 mild, 3 moderate, 4 severe.

The size of the heart has a scale of its own: 0 normal, 1 borderline, 2 enlarged, 3 massively enlarged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from ...errors import DataFormatError
from ...io.quoting import shown
from ...io.tables import read_table
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
HEART_GRADES: Mapping[float, tuple[Literal["present", "absent", "uncertain"], Literal[1, 2, 3] | None]] = {
    0: ("absent", None),
    1: ("uncertain", None),
    2: ("present", None),
    3: ("present", 3),
}
_SPLITS: Mapping[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_NAMES = ("UID", "ImageID", "image_id", "id")
_PATIENTS = ("PatientID", "patient_id", "Patient")


def _matches(source: Source) -> bool:
    return source.kind == "table" and source.has_most_of(COLUMNS)


def _records(source: Source, folder: ImageFolder) -> Iterator[FactsRecord | LeftOut]:
    """Facts are named by condition, or by condition and side where both sides are graded ("Atelectasis, left").

    The split is that of the table, or of ``split.csv`` beside it (fold 0), where the download script leaves it; the
    script writes images into a folder ``data`` beside that of the tables.
    """
    source.check_columns(COLUMNS)
    names = [name for name in _NAMES if name in source.fields]
    patients = [name for name in _PATIENTS if name in source.fields]
    if not names or not patients:
        raise DataFormatError(
            f"{source.path}: no column names the image ({', '.join(_NAMES)}) or the patient ({', '.join(_PATIENTS)})"
        )
    splits = {} if "Split" in source.fields or "split" in source.fields else _splits(source.path.parent)
    for where, row in source.records():
        facts: dict[str, Fact] = {}
        for column, (condition, side) in COLUMNS.items():
            grade = fields.number(row, column, where)
            if grade is None:
                continue
            grades = HEART_GRADES if column == "HeartSize" else GRADES
            if grade not in grades:
                raise DataFormatError(
                    f"{where}: field {column!r}: expected a grade of 0 to {max(grades)}, not {shown(row[column])}"
                )
            state, severity = grades[grade]
            location = () if side is None else (side,)
            name = condition if side is None else f"{condition}, {side}"
            facts[name] = Fact(state=state, severity=severity, location=location)
        if not facts:
            yield LeftOut(where, "nothing is graded")
            continue
        image = fields.name(row, names[0], where)
        split = fields.text_or(row, "Split" if "Split" in row else "split", where, splits.get(image, "")).lower()
        if split and split not in _SPLITS:
            raise DataFormatError(f"{where}: split: expected {', '.join(_SPLITS)}, not {shown(split)}")
        with fields.checked(where):
            yield FactsRecord(
                id=image,
                image=folder.find(f"data/{image}" if "." in image else f"data/{image}.png"),
                group=fields.name(row, patients[0], where),
                split=_SPLITS.get(split),
                facts=facts,
            )


def _splits(folder: Path) -> dict[str, str]:
    """The split of every image in fold 0 of ``split.csv``; nothing where there is no such file."""
    path, found = folder / "split.csv", dict[str, str]()
    for line, row in read_table(path) if path.is_file() else ():
        where = f"{path}:{line}"
        if "Fold" not in row or fields.number(row, "Fold", where) == 0:
            found[fields.name(row, "UID", where)] = fields.text(row, "Split", where)
    return found


READERS = (Reader("taix-ray", "TAIX-Ray: findings graded by side and severity", _matches, _records, [*COLUMNS]),)

"""CheXpert labels: of CheXpert and CheXpert Plus (by image, of the test set by study), and MIMIC-CXR-JPG (by study)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ...errors import DataFormatError
from ...io.quoting import shown
from ..records import Fact, FactsRecord, Split
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source
from .studies import SPLITS, Studies

CONDITIONS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
STATES: Mapping[float, Literal["present", "absent", "uncertain"]] = {1: "present", 0: "absent", -1: "uncertain"}
STUDY = "Study"  # a column of folders, .../patient64741/study1, in the test set's labels by radiologists
FRONTAL = "view1_frontal.jpg"
FACTS = {value: Fact(state=state) for value, state in STATES.items()}  # made once: a file has millions of labels
PATIENT = re.compile(r"(patient\d+)/(study\d+)")
RENAMED: Mapping[str, str] = {"Airspace Opacity": "Lung Opacity"}  # in MIMIC-CXR-JPG's labels by radiologists


def _is_chexpert(source: Source) -> bool:
    return source.kind in ("table", "lines") and source.has_most_of(CONDITIONS) and _path_field(source) is not None


def _path_field(source: Source) -> str | None:
    """The field that names the image (CheXpert's, or CheXpert Plus's), or the study (of the test set's labels)."""
    return next((name for name in ("Path", "path_to_image", STUDY) if name in source.fields), None)


def _is_mimic(source: Source) -> bool:
    return source.kind == "table" and "study_id" in source.fields and source.has_most_of(_mimic_columns(source))


def _mimic_columns(source: Source) -> list[str]:
    """The conditions by the names that the table gives them."""
    names = {RENAMED[name]: name for name in RENAMED if name in source.fields}
    return [names.get(condition, condition) for condition in CONDITIONS]


def _chexpert(source: Source, folder: ImageFolder) -> Iterator[FactsRecord | LeftOut]:
    """One record per frontal image; the patient is the cluster, and the split is the folder (train, valid, test).

    Of labels by study it is one per study, with its first frontal image.
    """
    column = _path_field(source) or "Path"
    source.check_columns(CONDITIONS)
    for where, row in source.records():
        path = fields.text(row, column, where)
        found = PATIENT.search(path)
        if found is None:
            raise DataFormatError(
                f"{where}: field {column!r}: expected .../patient00001/study1/..., not {shown(path)}; labels of other "
                "studies are named by the columns 'subject_id' and 'study_id'"
            )
        image = f"{path}/{FRONTAL}" if column == STUDY else path
        view = fields.text_or(row, "Frontal/Lateral", where, image.rpartition("_")[2].partition(".")[0])
        if view.lower() == "lateral":
            yield LeftOut(where, "a lateral view")
            continue
        split = next((SPLITS[part] for part in Path(path).parts if part in SPLITS), None)
        yield _labelled(row, where, path, found[1], folder.find(image), split)


def _mimic(source: Source, folder: ImageFolder) -> Iterator[FactsRecord | LeftOut]:
    """One record per study, with the split that ``mimic-cxr-*-split.csv(.gz)`` states, see `Studies`.

    The labels that radiologists gave (``mimic-cxr-*-test-set-labeled.csv``) name no patient: the split or metadata file
    does.
    """
    source.check_columns(_mimic_columns(source))
    studies = Studies(source, folder)
    splits, subjects = studies.splits, {} if "subject_id" in source.fields else studies.subjects
    for where, given in source.records():
        row = {RENAMED.get(name, name): value for name, value in given.items()}
        study = fields.name(row, "study_id", where)
        if "subject_id" not in row and study not in subjects:
            raise DataFormatError(
                f"{where}: no column names the patient ('subject_id'), and no mimic-cxr-*-split.csv(.gz) or -metadata "
                f"file beside it lists the study {shown(study)}"
            )
        subject = subjects[study] if "subject_id" not in row else fields.name(row, "subject_id", where)
        if splits and study not in splits:
            yield LeftOut(where, "the study is not in the split file")
            continue
        yield _labelled(row, where, study, subject, studies.image(subject, study), splits.get(study))


def _labelled(
    row: dict[str, Any], where: str, name: str, group: str, image: Any, split: Split | None
) -> FactsRecord | LeftOut:
    facts = {}
    for condition in CONDITIONS:
        value = fields.number(row, condition, where)
        if value is None:
            continue
        if value not in STATES:
            raise DataFormatError(
                f"{where}: field {condition!r}: expected 1, 0, -1 or nothing, not {shown(row[condition])}"
            )
        facts[condition] = FACTS[value]
    if not facts:
        return LeftOut(where, "no condition is labelled")
    return FactsRecord(id=name, image=image, group=group, split=split, facts=facts)


READERS = (
    Reader(
        "chexpert",
        "CheXpert, CheXpert Plus: labels of 13 conditions by image or study",
        _is_chexpert,
        _chexpert,
        ("Path", *CONDITIONS),
    ),
    Reader(
        "mimic-cxr",
        "MIMIC-CXR-JPG: CheXpert labels by study",
        _is_mimic,
        _mimic,
        ("subject_id", "study_id", *CONDITIONS),
    ),
)

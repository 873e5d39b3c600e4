"""Files that name studies get the image, split and patient that tables say, wherever the tables lie."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from test_readers_formats import CONDITIONS, MEDNEGA, film, written

import tracescribe as ts
from tracescribe.errors import DataFormatError

STUDY = Path("files", "p10", "p10000032", "s50414267")
MIMIC = f"subject_id,study_id,{','.join(CONDITIONS)}\n10000032,50414267,1.0{',' * 12}\n"
CAD = {"study_id": 50414267, "subject_id": 10000032, "entity": {"edema": {"probability_score": 3}}}


def metadata(*views: tuple[str, str]) -> str:
    rows = "".join(f"{name},10000032,50414267,{view}\n" for name, view in views)
    return f"dicom_id,subject_id,study_id,ViewPosition\n{rows}"


@pytest.fixture(params=["mednega", "mimic-cxr", "cad-chest"])
def labels(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that names a study and no image of it, away from the images a, b and c."""
    for name in "abc":
        film(tmp_path / "mimic-cxr-jpg" / STUDY / f"{name}.jpg")
    name, value = {
        "mednega": ("mednega.json", [MEDNEGA]),
        "mimic-cxr": ("mimic-cxr-2.0.0-chexpert.csv", MIMIC),
        "cad-chest": ("cad_disease.json", [CAD]),
    }[request.param]
    (tmp_path / "labels").mkdir()
    return written(tmp_path / "labels" / name, value)


@pytest.mark.parametrize(
    ("views", "chosen"),
    [
        (None, "a"),  # no table: the first in alphabetical order
        ([("a", "LATERAL"), ("b", "AP"), ("c", "PA")], "c"),
        ([("a", "LL"), ("b", "AP AXIAL"), ("c", "lateral")], "b"),
        ([("a", "LATERAL"), ("b", ""), ("c", "AP")], "c"),
        ([("a", "LATERAL"), ("b", "XTABLE LATERAL"), ("c", "LL")], None),
    ],
)
@pytest.mark.parametrize("place", ["labels", "mimic-cxr-jpg"])
def test_the_image_is_the_frontal_one(
    tmp_path: Path, labels: Path, place: str, views: list[tuple[str, str]] | None, chosen: str | None
) -> None:
    """Not the lateral one, whichever file names the study, and whether the table lies beside it or by the images."""
    if views is not None:
        table = tmp_path / place / "mimic-cxr-2.0.0-metadata.csv.gz"
        table.write_bytes(gzip.compress(metadata(*views).encode()))
    data = ts.read(labels, images=tmp_path / "mimic-cxr-jpg")
    expected = None if chosen is None else str(tmp_path / "mimic-cxr-jpg" / STUDY / f"{chosen}.jpg")
    assert data.records[0].image == expected
    assert len(data.missing_images) == (chosen is None)
    if chosen is None:
        with pytest.raises(DataFormatError, match="the image 'p10/p10000032/s50414267' is not in"):
            ts.read(labels, images=tmp_path / "mimic-cxr-jpg", strict=True)


def test_a_table_of_the_users_own_names_images_of_any_layout(tmp_path: Path, labels: Path) -> None:
    film(tmp_path / "flat" / "scan 7.png")
    written(
        tmp_path / "labels" / "study_images.csv", "study_id;image\n50414267.0;D:\\scans\\flat\\scan 7.png\n9;x.png\n"
    )
    written(tmp_path / "mimic-cxr-jpg" / "study_images.csv", "study_id,image\n50414267,files/b.jpg\n")
    assert ts.read(labels, images=tmp_path).records[0].image == str(tmp_path / "flat" / "scan 7.png")
    missing = ts.read(labels, images=tmp_path / "mimic-cxr-jpg")
    assert (missing.records[0].image, missing.missing_images) == (None, ("D:\\scans\\flat\\scan 7.png",))
    (tmp_path / "labels" / "study_images.csv").write_text("study_id,file\n50414267,a.png\n")
    with pytest.raises(DataFormatError, match=r"study_images.csv:2: field 'image' is missing"):
        ts.read(labels, images=tmp_path)


def test_split_and_patient_are_looked_up_by_the_images_too(tmp_path: Path) -> None:
    rows = f"study_id,{','.join(CONDITIONS)}\n50414267,1.0{',' * 12}\n"
    labels = written(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv", rows)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataFormatError, match="no column names the patient"):
        ts.read(labels, images=tmp_path / "images")
    table = "dicom_id,study_id,subject_id,split\na,50414267,10000032,test\n"
    written(tmp_path / "images" / "mimic-cxr-2.1.0-split.csv", table)
    record: Any = ts.read(labels, images=tmp_path / "images").records[0]
    assert (record.group, record.split) == ("10000032", "test")
    written(tmp_path / "mimic-cxr-2.1.0-split.csv", table.replace("test", "train"))  # beside the labels comes first
    assert ts.read(labels, images=tmp_path / "images").facts[0].split == "train"

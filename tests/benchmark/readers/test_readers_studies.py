"""Files that name studies get the image, split and patient that tables say, wherever the tables lie."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from test_readers_formats import CONDITIONS, MEDNEGA, film, written

import tracescribe as ts
from tracescribe.benchmark.readers import studies
from tracescribe.errors import DataFormatError
from tracescribe.io.tables import read_table

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


@pytest.mark.parametrize("splits", [True, False])
def test_each_table_of_mimic_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: bool) -> None:
    """Also where the patient is looked up in it; the metadata name the patient where no split file does."""
    rows = "".join(f"{study},1.0{',' * 12}\n" for study in (50414267, 50414268))
    labels = written(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv", f"study_id,{','.join(CONDITIONS)}\n{rows}")
    columns = "dicom_id,subject_id,study_id,ViewPosition"
    lines = "a,10000032,50414267,LATERAL\nb,10000032,50414267,PA\nc,10000033,50414268,AP\n"
    written(tmp_path / "mimic-cxr-2.0.0-metadata.csv", f"{columns}\n{lines}")
    if splits:
        written(tmp_path / "mimic-cxr-2.0.0-split.csv", "study_id,split\n50414267,test\n50414268,train\n")
    opened = []
    monkeypatch.setattr(studies, "read_table", lambda path: opened.append(path.name) or read_table(path))
    data = ts.read(labels)
    assert [record.group for record in data.facts] == ["10000032", "10000033"]
    assert [record.split for record in data.facts] == (["test", "train"] if splits else [None, None])
    assert sorted(opened) == ["mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv"][: 1 + splits]

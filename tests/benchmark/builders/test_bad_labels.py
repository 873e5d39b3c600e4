"""Labels that are not as they should be: what is refused, in which sentence, and what is counted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tracescribe as ts
from tracescribe.benchmark.builders import build_contextual, build_mednega, write_pairs
from tracescribe.benchmark.readers.chexpert import CONDITIONS
from tracescribe.benchmark.readers.images import ImageFolder
from tracescribe.benchmark.readers.taix_ray import COLUMNS
from tracescribe.errors import DataFormatError


def mimic(path: Path, values: tuple[str, ...], n: int = 60) -> Path:
    """MIMIC-CXR-JPG's table of labels, drawn from the values."""
    drawn = np.random.default_rng(0).choice(values, (n, len(CONDITIONS)))
    rows = (f"{10_000_000 + i // 3},{50_000_000 + i},{','.join(row)}\n" for i, row in enumerate(drawn))
    path.write_text(f"subject_id,study_id,{','.join(CONDITIONS)}\n" + "".join(rows))
    return path


def made(labels: Path) -> list[bytes]:
    """Claims, captions and pairs from the labels."""
    out = labels.parent / labels.stem
    build_contextual(labels, out)
    write_pairs(labels, out / "pairs.jsonl", lambda text: len(text.split()))
    return [(out / f"{name}.jsonl").read_bytes() for name in ("claims", "captions", "pairs")]


def test_a_study_that_is_given_twice_is_taken_once_or_refused(tmp_path: Path) -> None:
    labels = mimic(tmp_path / "labels.csv", ("1.0", "0.0", "-1.0", ""), 120)
    header, first, *rest = labels.read_text().splitlines(keepends=True)
    again = tmp_path / "again.csv"
    again.write_text("".join([header, first, *rest, first]))
    assert made(again) == made(labels)
    report = write_pairs(again, tmp_path / "pairs.jsonl", lambda text: len(text.split()))
    assert report["given twice, with the same labels"] == 1
    other = first.replace("1.0", "0.0")
    assert other != first
    again.write_text("".join([header, first, *rest, other]))
    with pytest.raises(DataFormatError, match=r"again.csv: '50000000' is given twice, with different labels"):
        build_mednega(again, tmp_path / "mcq")
    assert not (tmp_path / "mcq").exists() and not (tmp_path / "mcq.part").exists()


@pytest.mark.parametrize(
    ("build", "values", "why"),
    [
        (build_mednega, ("nan", ""), r"mcq.jsonl .* \(no condition is labelled: 60\)"),
        (build_contextual, ("nan", ""), r"claims.jsonl .* \(no condition is labelled: 60\)"),
        (build_mednega, ("-1.0",), r"mcq.jsonl .* \(fewer than 2 present or 3 absent conditions: 60\)"),
        (build_contextual, ("-1.0",), r"claims.jsonl .* \(no attribute is known for certain: 60\)"),
    ],
)
def test_labels_of_which_nothing_follows_say_so(
    tmp_path: Path, build: Callable[..., Path], values: tuple[str, ...], why: str
) -> None:
    with pytest.raises(DataFormatError, match=f"nothing for {why}"):
        build(mimic(tmp_path / "labels.csv", values), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_pairs_say_that_nothing_is_known_for_certain(tmp_path: Path) -> None:
    labels = mimic(tmp_path / "labels.csv", ("-1.0",))
    with pytest.raises(DataFormatError, match=r"nothing for pairs .*\(no attribute is known for certain: 60\)"):
        write_pairs(labels, tmp_path / "pairs.jsonl", lambda text: len(text.split()), with_test=True)


@pytest.mark.parametrize(
    ("first", "columns"),
    [
        ("Path", CONDITIONS),
        ("subject_id,study_id", CONDITIONS),
        ("study_id", tuple(name.replace("Lung Opacity", "Airspace Opacity") for name in CONDITIONS)),
        ("UID,PatientID", tuple(COLUMNS)),
    ],
)
def test_a_column_of_labels_that_is_not_there_is_named(tmp_path: Path, first: str, columns: tuple[str, ...]) -> None:
    """A column that is spelt otherwise would be read as one in which nothing is known."""
    path = tmp_path / "labels.csv"
    missing, spelt = columns[1], columns[-1].replace(" ", "_").lower()
    names = [spelt if name == columns[-1] else name for name in columns if name != missing]
    path.write_text(f"{first},{','.join(names)}\n{',' * (len(names) + first.count(','))}\n")
    path.write_text(path.read_text().replace("\n,", "\n1,"))
    message = rf"labels.csv: no columns '{missing}', '{columns[-1]}'; name them so, or add them, empty where"
    with pytest.raises(DataFormatError, match=message):
        ts.read(path)
    few = tmp_path / "few.csv"
    few.write_text(f"{first},{','.join(columns[:3])}\n1{',0' * (3 + first.count(','))}\n")
    with pytest.raises(DataFormatError, match="of no known format"):
        ts.read(few)


def test_an_empty_table_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"labels.csv: the file is empty$"):
        ts.read(tmp_path / "labels.csv")


def test_nothing_is_remembered_of_the_images_that_labels_name(tmp_path: Path) -> None:
    """Of a million studies whose images are not there, that would be several hundred MiB."""
    images = ImageFolder(tmp_path, keep_missing=True)
    assert images.find("train/p1/view1_frontal.jpg") == str(tmp_path / "train/p1/view1_frontal.jpg")
    size = len(pickle.dumps(vars(images)))
    for number in range(50):
        images.find(f"train/p{number}/view1_frontal.jpg")
        images.find_study("10000032", str(number), "a")
        images.find_study("10000032", str(number))
    assert len(pickle.dumps(vars(images))) == size


def test_a_study_that_no_open_question_fits_is_not_called_uncertain(tmp_path: Path) -> None:
    """Of films that show the same two findings four wait per split; there is no place for the others."""
    path = mimic(tmp_path / "labels.csv", ("",))
    path.write_text(path.read_text().replace(",,,,,,,,,,,,,", ",1.0,,,1.0,,,,,,,,,"))
    with pytest.raises(DataFormatError, match=r"\(no open question fits the study: 49; .* not all found: 11\)"):
        build_contextual(path, tmp_path / "out")

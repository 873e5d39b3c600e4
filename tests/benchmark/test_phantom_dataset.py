"""A phantom data set: reproducible bytes, whole or not at all, patients on one side of a split."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom, dataset, draw, to_uint8
from tracescribe.errors import OutputError, TraceError


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_phantom(tmp_path_factory.mktemp("phantom") / "set", n=60, seed=3)


def test_manifest_hashes_every_file(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert files == set(manifest["sha256"])
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert (manifest["n"], manifest["seed"], manifest["size"]) == (60, 3, 64)
    assert manifest["counts"] == {name: len(lines(folder / name)) for name in dataset.FILES}


def test_same_arguments_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    again = build_phantom(tmp_path / "again", n=60, seed=3)
    other = build_phantom(tmp_path / "other", n=60, seed=4)
    assert (again / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    hashes = [json.loads((f / "manifest.json").read_text())["sha256"] for f in (folder, other)]
    assert not set(hashes[0].values()) & set(hashes[1].values())


def test_images_are_the_films_of_their_facts(folder: Path) -> None:
    for study in dataset.studies(60, 3)[::13]:
        film = to_uint8(draw(study.facts, study.seed, patient=study.patient_seed))
        with Image.open(folder / study.image) as image:
            assert np.array_equal(np.asarray(image), film)


def test_a_patient_is_in_one_split_only_and_test_films_are_in_no_pair(folder: Path) -> None:
    splits = defaultdict(set)
    for name in ("claims.jsonl", "mcq.jsonl", "captions.jsonl"):
        for row in lines(folder / name):
            splits[row["group"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    tested = {row["image"] for row in lines(folder / "captions.jsonl") if row["split"] == "test"}
    assert tested and not tested & {row["image"] for row in lines(folder / "pairs.jsonl")}


def test_splits_are_as_large_as_stated() -> None:
    found = [study.split for study in dataset.studies(4000, 0)]
    for split, share in dataset.SPLITS.items():
        assert abs(found.count(split) / 4000 - share) < 0.05


def test_a_longer_data_set_begins_with_the_shorter_one() -> None:
    assert dataset.studies(80, 1)[:50] == dataset.studies(50, 1)


def test_files_are_what_the_readers_expect(folder: Path) -> None:
    from tracescribe.benchmark import read_captions, read_claims, read_mcq

    pairs = ts.read_pairs(folder / "pairs.jsonl")
    assert {p.attribute for p in pairs} == {"existence", "severity", "location", "condition"}
    assert len(read_captions(folder / "captions.jsonl")) == 60
    assert len(read_claims(folder / "claims.jsonl")) > 60
    assert len(read_mcq(folder / "mcq.jsonl")) > 30


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="not an earlier result"):
        build_phantom(tmp_path, n=2)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_and_a_larger_film_are_fine(tmp_path: Path) -> None:
    target = tmp_path / "empty"
    target.mkdir()
    build_phantom(target, n=1, size=128)
    with Image.open(target / "images" / "film00000.png") as image:
        assert image.size == (128, 128) and image.mode == "L"


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_phantom(tmp_path / "set", n=5, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_folders_above_are_made(tmp_path: Path) -> None:
    assert (build_phantom(tmp_path / "no" / "such" / "set", n=1) / "manifest.json").is_file()


def test_an_earlier_set_is_replaced_when_asked_and_notes_beside_it_are_kept(tmp_path: Path) -> None:
    target = build_phantom(tmp_path / "set", n=1)
    with pytest.raises(OutputError, match="holds an earlier result"):
        build_phantom(target, n=2)
    build_phantom(target, n=2, overwrite=True)
    assert len(list((target / "images").iterdir())) == 2
    (target / "images" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"images/notes\.txt"):
        build_phantom(target, n=1, overwrite=True)
    assert len(list((target / "images").iterdir())) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n must be a whole number >= 1, not 0"),
        ({"n": 1.5}, r"n must be a whole number >= 1, not 1\.5"),
        ({"n": 1, "size": 8}, "size must be a whole number from 16 to 4096, not 8"),
        ({"n": 1, "size": 10**6}, "size must be a whole number from 16 to 4096, not 1000000"),
        ({"n": 1, "seed": -1}, "seed must be a whole number >= 0, not -1"),
    ],
)
def test_sizes_without_sense_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        build_phantom(tmp_path / "set", **given)
    assert list(tmp_path.iterdir()) == []

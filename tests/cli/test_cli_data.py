"""From labels to tables by the command line: build, evaluate a published file, compare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import Run, refused
from PIL import Image

import tracescribe as ts
from tracescribe.benchmark.readers.chexpert import CONDITIONS

pytestmark = pytest.mark.filterwarnings("default:the phantom miniature does not know")  # words of real reports


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MIMIC-CXR-JPG's labels of 400 studies, with an image for every other study."""
    folder = tmp_path_factory.mktemp("mimic")
    rng = np.random.default_rng(0)
    rows = ["subject_id,study_id," + ",".join(CONDITIONS)]
    for study in range(400):
        values = rng.choice(["", "1.0", "0.0", "-1.0"], p=[0.25, 0.3, 0.4, 0.05], size=len(CONDITIONS))
        rows.append(f"{10_000_000 + study // 2},{study},{','.join(values)}")
        if study % 2:
            image = folder / "files" / "p10" / f"p{10_000_000 + study // 2}" / f"s{study}" / "view.png"
            image.parent.mkdir(parents=True)
            Image.new("L", (8, 8), int(rng.integers(256))).save(image)
    path = folder / "mimic-cxr-2.0.0-chexpert.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_from_labels_to_a_table(run: Run, labels: Path, tmp_path: Path) -> None:
    built = run("build", "mednega", labels, "-o", tmp_path / "mednega", "--seed", 1)
    assert built.code == 0, built.err
    assert "DATASHEET.md" in built.out
    item = json.loads((tmp_path / "mednega" / "mcq.jsonl").read_text().splitlines()[0])
    assert item["image"] is None or item["image"].startswith("files/p10/")
    again = run("build", "mednega", labels, "-o", tmp_path / "mednega", "--seed", 1)
    assert (again.code, "--overwrite" in again.err) == (2, True)
    options = ("--images", labels.parent, "--split", "all")
    for name, seed in (("a", 0), ("b", 0)):
        items = ("--items", tmp_path / f"{name}.csv", "--seed", seed)
        scored = run("evaluate", "phantom", tmp_path / "mednega", *options, *items)
        assert scored.code == 0, scored.err
    assert "records whose image is missing" in scored.out
    assert "bag_of_words" in scored.out
    strict = run("evaluate", "phantom", tmp_path / "mednega", *options, "--strict")
    assert strict.code == 2
    assert re.search(r"the image 'p10/p100000\d\d/s\d+' is not in", strict.err)
    compared = run("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--table", "markdown", "-o", tmp_path / "d.csv")
    assert compared.code == 0, compared.err
    lines = compared.out.splitlines()
    assert lines[0].startswith("| model | mcq_affirmative | mcq_negated | gap |")
    assert lines[2].replace("| a |", "") == lines[3].replace("| b |", "")  # the same model twice
    assert (tmp_path / "d.csv").read_text().startswith("task,subset,value,model,n,accuracy")
    document = json.loads(run("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--json").out)
    assert document["models"] == ["a", "b"]
    assert document["unpaired"] == 0


def test_two_traces_are_compared(run: Run, traced: Path, tmp_path: Path) -> None:
    trace = ts.load_trace(traced)
    twice = trace.with_floor(0).select(range(len(trace) - 1))
    twice.save(tmp_path / "fewer.safetensors")
    files = (traced, tmp_path / "fewer.safetensors")
    done = run("compare", *files, "-o", tmp_path / "d.csv")
    assert done.code == 0, done.err
    assert done.out.startswith("fewer less trace: paired: ") and "layers: largest difference +0.00" in done.out
    expected = ts.compare(*files)
    lines = (tmp_path / "d.csv").read_text().splitlines()
    assert lines[0] == "quantity,layer,depth,row,first,second,difference,lo,hi,p,q"
    assert len(lines) == 1 + len(expected.to_frame())
    document = json.loads(run("compare", *files, "--pairing", "none", "-o", tmp_path / "d.svg", "--json").out)
    assert document["paired"] is False and document["names"] == ["trace", "fewer"]
    assert document["differences"][0]["quantity"] == "cte"
    assert (tmp_path / "d.svg").read_text().startswith("<?xml")


def test_traces_and_items_are_not_compared_with_each_other(run: Run, traced: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("task,id\n")
    refused(run("compare", traced, tmp_path / "items.csv"), "1 of 2 are traces")
    refused(run("compare", traced, traced, traced), "compare takes two traces")
    refused(run("compare", traced, traced, "--table", "latex"), "--table latex is of items")
    refused(
        run("compare", tmp_path / "items.csv", tmp_path / "items.csv", "--pairing", "id"), "--pairing id is of traces"
    )


def test_contextual_claims_and_pairs(run: Run, labels: Path, tmp_path: Path) -> None:
    built = json.loads(run("build", "contextual", labels, "-o", tmp_path / "set", "--limit", 40, "--json").out)
    assert built["counts"]["claims.jsonl"]["records"] == 40
    assert (tmp_path / "set" / "captions.jsonl").is_file()
    pairs = run("build", "pairs", "phantom", labels, "-o", tmp_path / "pairs.jsonl", "--limit", 8)
    assert pairs.code == 0, pairs.err
    traced = run("trace", "phantom", tmp_path / "pairs.jsonl", "-o", tmp_path / "t.safetensors")
    assert "image" in traced.err  # half of the pairs have none, and that is said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "mednega", "{labels}", "-o", "{tmp}/no/x.txt/..", "--limit", 3), "limit"),
        (("build", "mednega", "{tmp}/empty.csv", "-o", "{tmp}/out"), "must name every column"),
        (("build", "contextual", "{tmp}/pairs.jsonl", "-o", "{tmp}/out"), "holds Pair, no labels by condition"),
        (("build", "mednega", "{labels}", "-o", "{tmp}/out", "--format", "vqa"), "unknown format 'vqa'"),
        (("build", "pairs", "phantom", "{labels}", "-o", "{tmp}/out.txt"), "jsonl"),
        (("evaluate", "phantom", "{tmp}/pairs.jsonl"), "none of 1 records has its image"),
        (("evaluate", "phantom", "{tmp}/pairs.jsonl", "--items", "{tmp}/a.txt"), "csv"),
        (("compare", "{tmp}/pairs.jsonl"), "two models or more"),
        (("compare", "{tmp}/empty.csv", "{tmp}/empty.csv"), "need as many different names"),
        (("compare", "{tmp}/empty.csv", "{tmp}/pairs.jsonl"), "no column|cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run, labels: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "pairs.jsonl").write_text('{"correct": "a", "foil": "b", "image": "a.png"}\n')
    done = run(*(str(word).format(labels=labels, tmp=tmp_path) for word in arguments))
    assert done.code == 2
    assert done.err.strip()

    assert re.search(message, done.err), done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "pairs.jsonl"]

"""From labels to tables by the command line: build, evaluate a published file, compare."""

from __future__ import annotations

import json
import re
from collections import Counter
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
    assert re.search(r"records whose image is missing \(the first: 'p10/p100000\d\d/s\d+'\)", scored.out)
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
    written = [json.loads(line) for line in (tmp_path / "set" / "claims.jsonl").read_text().splitlines()]
    assert 40 >= built["counts"]["claims.jsonl"]["records"] == len(written) > 36
    blocks = Counter((item["provenance"]["block"], len(item["claims"])) for item in written)
    assert all(items == claims for (_, claims), items in blocks.items())  # none is cut
    assert (tmp_path / "set" / "captions.jsonl").is_file()
    pairs = run("build", "pairs", "phantom", labels, "-o", tmp_path / "pairs.jsonl", "--limit", 8)
    assert pairs.code == 0, pairs.err
    traced = run("trace", "phantom", tmp_path / "pairs.jsonl", "-o", tmp_path / "t.safetensors")
    assert "image" in traced.err  # half of the pairs have none, and that is said


def test_what_is_built_without_images_is_used_where_they_are(run: Run, tmp_path: Path) -> None:
    """CheXpert's labels alone; later traced, evaluated and trained on with images that are in another folder."""
    rng = np.random.default_rng(0)
    rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding," + ",".join(CONDITIONS)]
    for study in range(120):
        name = f"{'valid' if study % 4 == 0 else 'train'}/patient{study:05d}/study1/view1_frontal.png"
        values = rng.choice(["", "1.0", "0.0"], p=[0.2, 0.4, 0.4], size=len(CONDITIONS))
        rows.append(f"CheXpert-v1.0-small/{name},F,60,Frontal,AP,,{','.join(values)}")
        image = tmp_path / "disk" / name  # as it is unpacked: without the first folder of the paths
        image.parent.mkdir(parents=True)
        Image.new("L", (8, 8), int(rng.integers(256))).save(image)
    (tmp_path / "labels").mkdir()
    labels = tmp_path / "labels" / "train.csv"
    labels.write_text("\n".join(rows) + "\n")
    made, pairs = tmp_path / "set", tmp_path / "made" / "pairs.jsonl"
    pairs.parent.mkdir()
    built = run("build", "contextual", labels, "-o", made, "--json")
    assert built.code == 0, built.err
    counts = built.document["counts"]["captions.jsonl"]
    assert counts["image missing"] == counts["records"]
    assert run("build", "pairs", "phantom", labels, "-o", pairs, "--limit", 8).code == 0
    names = {json.loads(line)["image"] for line in pairs.read_text().splitlines()}
    assert all(name.startswith("CheXpert-v1.0-small/") for name in names)

    refused(run("evaluate", "phantom", made, "--split", "val"), "there is no image file", "--images")
    scored = run("evaluate", "phantom", made, "--split", "val", "--images", tmp_path / "disk", "--strict")
    assert scored.code == 0, scored.err
    assert "image is missing" not in scored.out
    whole = tmp_path / "whole"
    whole.mkdir()
    (tmp_path / "disk").rename(whole / "CheXpert-v1.0-small")
    trace = ("trace", "phantom", pairs, "-o", tmp_path / "t.safetensors")
    refused(run(*trace), "there is no image file", "--images")
    traced = run(*trace, "--images", whole)
    assert traced.code == 0, traced.err
    steps = ("--steps", 2, "--evaluate-every", 1)
    trained = run("finetune", "phantom", made, "-o", tmp_path / "run", *steps, "--images", whole)
    assert trained.code == 0, trained.err
    refused(run("finetune", "phantom", made, "-o", tmp_path / "other", *steps), "there is no image file", "--images")


def test_aro_is_scored_on_its_boxes_by_the_command_too(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = []
    for number in range(6):
        picture = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        Image.fromarray(picture[5:25, 3:23]).save(tmp_path / f"{number}-cut.png")
        items.append(
            {
                "image_id": number,
                "image_path": f"{number}.png",
                "relation_name": "on",
                "true_caption": f"a on b {number}",
            }
            | {"false_caption": f"b on a {number}", "bbox_x": 3, "bbox_y": 5, "bbox_w": 20, "bbox_h": 20}
        )
    boxed, cut = tmp_path / "boxed.json", tmp_path / "cut.json"
    boxed.write_text(json.dumps(items))
    fields = ("image_id", "relation_name", "true_caption", "false_caption")
    cut.write_text(
        json.dumps([{k: item[k] for k in fields} | {"image_path": f"{item['image_id']}-cut.png"} for item in items])
    )
    scores = []
    for path in (boxed, cut):
        done = run("evaluate", "phantom", path, "--items", tmp_path / "items.csv")
        assert done.code == 0, done.err
        scores.append((tmp_path / "items.csv").read_text())
    assert scores[0] == scores[1]


def test_what_a_reader_leaves_out_and_a_split_without_records_are_said(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "mcq.csv"
    rows = ["image_path,correct_answer,caption_0,caption_1", "a.png,0,no edema,edema", "a.png,1,no edema,no edema"]
    table.write_text("\n".join(rows) + "\n")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    done = run("evaluate", "phantom", table)
    assert (done.code, done.out.splitlines()[-1]) == (0, "left out: 1 of the file (two options are the same text)")
    document = json.loads(run("evaluate", "phantom", table, "--json").out)
    assert document["left_out"] == {"two options are the same text": 1}
    claim = {"id": "1", "group": "p", "image": "a.png", "claims": ["a", "b"], "label": 0, "attribute": "side"}
    (tmp_path / "claims.jsonl").write_text(json.dumps(claim | {"split": "train"}) + "\n")
    for source in (tmp_path, tmp_path / "claims.jsonl"):
        for options in ((), ("--images", tmp_path)):
            refused(run("evaluate", "phantom", source, *options), "holds no records of the split 'test'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "mednega", "{labels}", "-o", "{tmp}/no/x.txt/..", "--limit", 3), "limit"),
        (("build", "mednega", "{tmp}/empty.csv", "-o", "{tmp}/out"), "the file is empty"),
        (("build", "contextual", "{tmp}/pairs.jsonl", "-o", "{tmp}/out"), "holds Pair, no labels by condition"),
        (("build", "mednega", "{labels}", "-o", "{tmp}/out", "--format", "vqa"), "unknown format 'vqa'"),
        (("build", "pairs", "phantom", "{labels}", "-o", "{tmp}/out.txt"), "jsonl"),
        (("evaluate", "phantom", "{tmp}/pairs.jsonl"), "none of 1 records has its image"),
        (("evaluate", "phantom", "{tmp}/pairs.jsonl", "--items", "{tmp}/a.txt"), "csv"),
        (("compare", "{tmp}/pairs.jsonl"), "two models or more"),
        (("compare", "{tmp}/empty.csv", "{tmp}/empty.csv"), "is given twice; each model has a file of its own"),
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


def test_words_that_the_phantom_does_not_know_are_named_three_times_at_most(run: Run, tmp_path: Path) -> None:
    """Once per text, they would hide what else is said."""
    claims = [
        {"id": str(i), "image": None, "claims": [f"a giraffe {i}", f"no giraffe {i}"], "label": 0} for i in range(9)
    ]
    (tmp_path / "claims.jsonl").write_text("".join(json.dumps(claim) + "\n" for claim in claims))
    done = run("build", "pairs", "phantom", tmp_path / "claims.jsonl", "-o", tmp_path / "pairs.jsonl")
    assert done.code == 2
    assert done.err.count("the phantom miniature does not know") == 3
    assert done.err.count("further ones of this kind are not shown") == 1

"""Every published format is recognised by its content, and its records say what the file says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from published import VALSE

import tracescribe as ts
from tracescribe.benchmark.records import Fact
from tracescribe.errors import DataFormatError

MEDNEGA = {
    "subject_id": 10000032,
    "study_id": 50414267,
    "question": "Which statement describes the image?",
    **{f"binary_raw_choice_{i}": {"Edema": int(i != 2), "Pneumonia": int(i != 3)} for i in range(1, 5)},
    **{f"negation_mcq_choice_{i}": f"No finding {i}." for i in range(1, 5)},
    **{f"affirmative_mcq_choice_{i}": f"Finding {i}." for i in range(1, 5)},
    "correct_answer": "B",
}
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CONDITIONS = CHEXPERT.split(",")[6:]


def written(path: Path, value: Any) -> Path:
    if isinstance(value, str):
        path.write_text(value, encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in value), encoding="utf-8")
    elif path.suffix == ".pt":
        torch.save(value, path)
    else:
        path.write_text(json.dumps(value), encoding="utf-8")
    return path


def film(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)
    return path


def test_mednega_as_published_finds_its_images_by_study(tmp_path: Path) -> None:
    image = film(tmp_path / "files" / "p10" / "p10000032" / "s50414267" / "a.jpg")
    data = ts.read(written(tmp_path / "mednega.json", [MEDNEGA, {**MEDNEGA, "negation_mcq_choice_3": ""}]))
    (record,) = data.mcq
    assert data.format == "mednega"
    assert (record.subject_id, record.study_id, record.group) == ("10000032", "50414267", "10000032")
    assert record.image == str(image)
    assert record.label == 1
    assert record.states[1] == {"Edema": 0, "Pneumonia": 1}
    assert data.left_out == {"an option is empty": 1}


def test_negbench_multiple_choice_keeps_the_template_of_the_right_answer(tmp_path: Path) -> None:
    film(tmp_path / "val2017" / "1.jpg")
    rows = (
        "image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template\n"
        '/data/coco/val2017/1.jpg,0,"a dog, no cat",a cat,no dog,a cat and a dog,hybrid\n'
        "/data/coco/val2017/2.jpg,2.0,a,b,c,d,negative\n"
    )
    data = ts.read(written(tmp_path / "COCO_val_mcq.csv", rows))
    assert data.format == "negbench-mcq"
    first, second = data.claims
    assert first.correct == "a dog, no cat"
    assert first.image == str(tmp_path / "val2017" / "1.jpg")  # another machine's root
    assert (first.attribute, second.attribute, second.label) == ("hybrid", "negative", 2)
    assert second.image is None
    assert data.missing_images == ("/data/coco/val2017/2.jpg",)
    assert [pair.foil for pair in data.pairs[:3]] == ["a cat", "no dog", "a cat and a dog"]


def test_negbench_retrieval_reads_lists_without_evaluating_them(tmp_path: Path) -> None:
    head = "positive_objects,negative_objects,filepath,image_id,captions\n"
    row = "\"['dog']\",\"['cat']\",val2017/1.jpg,397133.0,\"['a dog', 'no cat']\"\n"
    data = ts.read(written(tmp_path / "retrieval.csv", head + row))
    (record,) = data.retrieval
    assert (record.id, record.captions, record.present, record.absent) == (
        "397133",
        ("a dog", "no cat"),
        ("dog",),
        ("cat",),
    )
    trap = written(tmp_path / "trap.csv", head + f"[],[],a.jpg,1,\"__import__('os').mkdir('{tmp_path / 'x'}')\"\n")
    with pytest.raises(DataFormatError, match=r"trap.csv:2: field 'captions': expected a list of texts"):
        ts.read(trap)
    assert not (tmp_path / "x").exists()


def test_valse_keeps_what_two_annotators_found_valid(tmp_path: Path) -> None:
    other = {**VALSE, "linguistic_phenomena": "plurals", "mturk": {"caption": 1}}
    data = ts.read(written(tmp_path / "existence.json", {"a": VALSE, "b": other}))
    (pair,) = data.pairs
    assert (pair.id, pair.negation, pair.attribute, pair.group) == ("a", "correct", "existence", "v7w_1.jpg")
    assert list(data.left_out.values()) == [1]


def test_sugarcrepe_and_plus_plus(tmp_path: Path) -> None:
    item = {"filename": "1.jpg", "caption": "a red car", "negative_caption": "a blue car"}
    data = ts.read(written(tmp_path / "add_att.json", {"0": item, "7": {**item, "filename": "2.jpg"}}))
    assert [(pair.id, pair.attribute) for pair in data.pairs] == [("0", "add_att"), ("7", "add_att")]
    double = ts.read(written(tmp_path / "swap_obj.json", [{**item, "id": 3, "caption2": "the car is red"}]))
    assert double.format == "sugarcrepe++"
    assert [pair.correct for pair in double.pairs] == ["a red car", "the car is red"]
    assert {pair.group for pair in double.pairs} == {"1.jpg"}


def test_aro(tmp_path: Path) -> None:
    item = {"image_id": 2, "true_caption": "a on b", "false_caption": "b on a", "bbox_x": 1, "relation_name": "on"}
    relation = ts.read(written(tmp_path / "visual_genome_relation.json", [item]))
    assert (relation.pairs[0].attribute, relation.pairs[0].template) == ("relation", "on")
    item = {"image_id": 2, "true_caption": "x", "false_caption": "y", "attributes": ["red", "big"]}
    assert ts.read(written(tmp_path / "attribution.json", [item])).pairs[0].attribute == "attribution"


def test_winoground(tmp_path: Path) -> None:
    film(tmp_path / "ex_0_img_0.png")
    item = {
        "id": 0,
        "image_0": "ex_0_img_0",
        "image_1": "ex_0_img_1",
        "caption_0": "an old person kisses a young person",
        "caption_1": "a young person kisses an old person",
        "tag": "Adjective-Age",
        "collapsed_tag": "Object",
    }
    data = ts.read(written(tmp_path / "examples.jsonl", [item]))
    (record,) = data.winoground
    assert record.images == (str(tmp_path / "ex_0_img_0.png"), None)
    assert (record.id, record.tag) == ("0", "Object")


def test_cc_neg_is_read_and_what_would_run_code_is_not(tmp_path: Path) -> None:
    content = {
        "image_paths": ["a/1.jpg"],
        "annotations": [{"json": {"caption": "a dog"}, "sop_data": {"negative-prompt": "no dog"}}],
    }
    data = ts.read(written(tmp_path / "ccneg_preprocessed.pt", content))
    assert [(pair.correct, pair.foil, pair.negation) for pair in data.pairs] == [("a dog", "no dog", "foil")]

    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path.mkdir, (Path(tmp_path / "x"),)  # type: ignore[return-value]

    torch.save({"image_paths": [], "annotations": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(DataFormatError, match="not executed"):
        ts.read(tmp_path / "trap.pt")
    assert not (tmp_path / "x").exists()


def test_negclip(tmp_path: Path) -> None:
    rows = 'title\tfilepath\tneg_caption\tneg_image\na dog\t1.jpg\t"[\'a cat\']"\t"[4, 7]"\n'
    (record,) = ts.read(written(tmp_path / "train_neg_clip.tsv", rows)).captions
    assert (record.caption, record.neg_captions, record.neg_images) == ("a dog", ("a cat",), ("4", "7"))


def test_coco_captions(tmp_path: Path) -> None:
    content = {
        "info": {"year": 2017},
        "images": [{"id": 9, "file_name": "9.jpg"}, {"id": 8, "file_name": "8.jpg"}],
        "annotations": [
            {"image_id": 9, "id": 1, "caption": "A dog. "},
            {"image_id": 9, "id": 2, "caption": "One dog."},
        ],
    }
    data = ts.read(written(tmp_path / "captions_val2017.json", content))
    assert [(r.id, r.captions) for r in data.retrieval] == [("9", ("A dog.", "One dog."))]
    assert data.left_out == {"the image has no caption": 1}


def test_chexpert_labels_by_image(tmp_path: Path) -> None:
    row = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0" + "," * 13
    labelled = row[: -len(",,,")] + ",1.0,0.0,-1.0"
    data = ts.read(written(tmp_path / "train.csv", f"{CHEXPERT}\n{labelled}\n{row}\n"))
    (record,) = data.facts
    assert (record.group, record.split) == ("patient00001", "train")
    assert record.facts == {
        "Pleural Other": Fact(state="present"),
        "Fracture": Fact(state="absent"),
        "Support Devices": Fact(state="uncertain"),
    }
    assert data.left_out == {"no condition is labelled": 1}
    wrong = written(tmp_path / "wrong.csv", f"{CHEXPERT}\n{labelled.replace('-1.0', '2')}\n")
    with pytest.raises(DataFormatError, match=r"wrong.csv:2: field 'Support Devices': expected 1, 0, -1 or nothing"):
        ts.read(wrong)


def test_mimic_labels_by_study_with_the_split_file_beside_them(tmp_path: Path) -> None:
    image = film(tmp_path / "images" / "p10" / "p10000032" / "s50414267" / "view.jpg")
    head = "subject_id,study_id," + ",".join(CONDITIONS)
    text = f"{head}\n10000032,50414267,1.0{',' * 12}\n10000032,53189527,0.0{',' * 12}\n"
    path = tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    split = "dicom_id,study_id,subject_id,split\nx,50414267,10000032,validate\ny,50414267,10000032,validate\n"
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(gzip.compress(split.encode()))
    data = ts.read(path, images=tmp_path / "images")
    (record,) = data.facts
    assert (record.id, record.group, record.split, record.image) == ("50414267", "10000032", "val", str(image))
    assert record.facts == {CONDITIONS[0]: Fact(state="present")}
    assert data.left_out == {"the study is not in the split file": 1}


def test_cad_chest(tmp_path: Path) -> None:
    def entity(score: int, level: list[str] | None, location: list[str] | None) -> dict[str, Any]:
        return {"entity_name": "x", "location": location, "level": level, "probability_score": score}

    item = {
        "study_id": 1,
        "subject_id": 2,
        "entity": {
            "pleural effusion": entity(3, ["small"], ["left"]),
            "pneumothorax": entity(-3, None, None),
            "edema": entity(1, ["mild", "severe"], None),
        },
    }
    (record,) = ts.read(written(tmp_path / "cad_disease.json", [item])).facts
    assert record.facts == {
        "pleural effusion": Fact(state="present", location=("left",), severity=1),
        "pneumothorax": Fact(state="absent"),
        "edema": Fact(state="uncertain"),  # two severities: neither is stated
    }


def test_taix_ray(tmp_path: Path) -> None:
    head = "UID,PatientID,Split,HeartSize,PulmonaryCongestion,PleuralEffusion_Right,PleuralEffusion_Left,"
    head += "PulmonaryOpacities_Right,PulmonaryOpacities_Left,Atelectasis_Right,Atelectasis_Left"
    data = ts.read(written(tmp_path / "annotation.csv", f"{head}\nabc,p1,val,4,1,0,2,,,,\n"))
    (record,) = data.facts
    assert (record.id, record.group, record.split) == ("abc", "p1", "val")
    assert record.facts == {
        "Cardiomegaly": Fact(state="present", severity=3),
        "Pulmonary Congestion": Fact(state="uncertain"),
        "Pleural Effusion, right": Fact(state="absent", location=("right",)),
        "Pleural Effusion, left": Fact(state="present", severity=1, location=("left",)),
    }


def test_open_i(tmp_path: Path) -> None:
    film(tmp_path / "images" / "1.png")
    written(tmp_path / "indiana_projections.csv", "uid,filename,projection\n1,1.png,Frontal\n1,2.png,Lateral\n")
    reports = "uid,MeSH,Problems\n1,Pleural Effusion/bilateral/small;Cardiomegaly/mild,x\n2,normal,normal\n"
    data = ts.read(written(tmp_path / "indiana_reports.csv", reports), images=tmp_path / "images")
    (record,) = data.facts
    assert record.image == str(tmp_path / "images" / "1.png")
    assert record.facts == {
        "Pleural Effusion": Fact(state="present", location=("bilateral",), severity=1),
        "Cardiomegaly": Fact(state="present", severity=1),
    }
    assert data.left_out == {"the report names no finding": 1}


def test_our_own_files(tmp_path: Path) -> None:
    pair = {"correct": "no edema", "foil": "mild edema", "id": 4, "attribute": "existence"}
    assert ts.read(written(tmp_path / "pairs.jsonl", [pair])).pairs[0].id == "4"
    claim = {"id": "1", "group": "p", "claims": ["a", "b"], "label": 1, "attribute": "side"}
    data = ts.read(written(tmp_path / "claims.jsonl", [claim]))
    assert (data.format, data.claims[0].correct) == ("claims", "b")

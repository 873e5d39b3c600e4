"""Every published format is recognised by its content, and its records say what the file says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from published import ARO, VALSE, WINOGROUND

import tracescribe as ts
from tracescribe.benchmark.builders.lexicon import term_of
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
    assert list(data.candidates) == [pair.id for pair in data.pairs]
    assert data.candidates["1-3"] == ["a", "b", "c", "d"]


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
    """The picture is the box, as in ARO's own data set: PIL's crop of x, y, x + w, y + h."""
    picture = np.zeros((9, 12, 3), dtype=np.uint8)
    picture[0:7, 2:7] = (10, 200, 30)  # the box of the record
    Image.fromarray(picture).save(tmp_path / "7.png")
    item = {**{k: v for k, v in ARO.items() if k != "attributes"}, "relation_name": "on", "image_path": "images/7.png"}
    (pair,) = ts.read(written(tmp_path / "visual_genome_relation.json", [item])).pairs
    assert (pair.attribute, pair.template, pair.group) == ("relation", "on", "2")
    assert pair.image == ts.patching.ImageCrop(str(tmp_path / "7.png"), 2, 0, 5, 7)
    seen = np.asarray(ts.patching.read_image(pair.image))
    assert seen.shape == (7, 5, 3) and (seen == (10, 200, 30)).all()
    (pair,) = ts.read(written(tmp_path / "attribution.json", [ARO])).pairs
    assert (pair.attribute, pair.template, pair.image) == ("attribution", "red_big", None)
    cut = {key: value for key, value in ARO.items() if not key.startswith("bbox")}
    film(tmp_path / "2.jpg")
    assert ts.read(written(tmp_path / "cut.json", [cut])).pairs[0].image == str(tmp_path / "2.jpg")


@pytest.mark.parametrize(("name", "value"), [("bbox_w", 0), ("bbox_x", "left"), ("bbox_y", 1e9), ("bbox_h", None)])
def test_a_box_that_is_none_names_the_field(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(DataFormatError, match=rf"item '0'?: field '{name}'"):
        ts.read(written(tmp_path / "attribution.json", [{**ARO, name: value}]))
    missing = {key: entry for key, entry in ARO.items() if key != name}
    with pytest.raises(DataFormatError, match=f"field '{name}' is missing"):
        ts.read(written(tmp_path / "attribution.json", [missing]))


def test_winoground(tmp_path: Path) -> None:
    film(tmp_path / "ex_0_img_0.png")
    data = ts.read(written(tmp_path / "examples.jsonl", [WINOGROUND]))
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
    assert data.pairs[0].split == "test"

    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path.mkdir, (Path(tmp_path / "x"),)  # type: ignore[return-value]

    torch.save({"image_paths": [], "annotations": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(DataFormatError, match="not executed"):
        ts.read(tmp_path / "trap.pt")
    assert not (tmp_path / "x").exists()


def test_cc_negs_last_40000_are_its_test_split_and_commas_go_from_negated_captions(tmp_path: Path) -> None:
    caption = {"json": {"caption": "a dog, asleep"}, "sop_data": {"negative-prompt": "a dog, not, asleep"}}
    content = {"image_paths": [f"{i}.jpg" for i in range(40_002)], "annotations": [caption] * 40_002}
    pairs = ts.read(written(tmp_path / "ccneg_preprocessed.pt", content)).pairs
    assert [pair.split for pair in pairs[:3]] == ["train", "train", "test"]
    assert {pair.split for pair in pairs[2:]} == {"test"}
    assert (pairs[0].correct, pairs[0].foil) == ("a dog, asleep", "a dog not asleep")


def test_cad_chests_image_is_the_one_that_it_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        film(tmp_path / "files" / "p2" / "p2" / "s1" / f"{name}.jpg")
    item = {"study_id": 1, "subject_id": 2, "dicom_id": "b", "entity": {"edema": {"probability_score": 3}}}
    found = [
        ts.read(written(tmp_path / "cad.json", [{**item, **more}])).facts[0].image
        for more in ({}, {"dicom_id": None}, {"dicom_id": "c"})
    ]
    folder = tmp_path / "files" / "p2" / "p2" / "s1"
    assert found == [str(folder / "b.jpg"), str(folder / "a.jpg"), None]


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
            "pneumonia": {"location": ["right"], "location2": ["left"], "level": None, "level2": ["mild"]},
            "consolidation": entity(-3, ["moderate to large"], None),
        },
    }
    (record,) = ts.read(written(tmp_path / "cad_disease.json", [item])).facts
    assert record.facts == {
        "pleural effusion": Fact(state="present", location=("left",), severity=1),
        "pneumothorax": Fact(state="absent"),
        "edema": Fact(state="uncertain"),  # two severities: neither is stated
        "pneumonia": Fact(state="present", location=("right", "left"), severity=1),  # no degree of certainty is given
        "consolidation": Fact(state="uncertain"),  # "no moderate to large one" does not say that there is none
    }


def test_taix_ray(tmp_path: Path) -> None:
    head = "UID,PatientID,Split,HeartSize,PulmonaryCongestion,PleuralEffusion_Right,PleuralEffusion_Left,"
    head += "PulmonaryOpacities_Right,PulmonaryOpacities_Left,Atelectasis_Right,Atelectasis_Left"
    data = ts.read(written(tmp_path / "annotation.csv", f"{head}\nabc,p1,val,3,1,0,2,,,,\n"))
    (record,) = data.facts
    assert (record.id, record.group, record.split) == ("abc", "p1", "val")
    assert record.facts == {
        "Cardiomegaly": Fact(state="present", severity=3),  # the heart's own scale: 3 is the highest grade
        "Pulmonary Congestion": Fact(state="uncertain"),
        "Pleural Effusion, right": Fact(state="absent", location=("right",)),
        "Pleural Effusion, left": Fact(state="present", severity=1, location=("left",)),
    }


def test_taix_rays_heart_has_another_scale_and_its_split_is_beside_it(tmp_path: Path) -> None:
    """0 normal, 1 borderline, 2 enlarged, 3 massively enlarged; the download script writes no split into the table."""
    columns = "UID,PatientID,HeartSize,PulmonaryCongestion,PleuralEffusion_Right,PleuralEffusion_Left,"
    columns += "PulmonaryOpacities_Right,PulmonaryOpacities_Left,Atelectasis_Right,Atelectasis_Left"
    rows = "".join(f"u{grade},p,{grade},,,,,,,\n" for grade in range(4))
    written(tmp_path / "split.csv", "UID,Fold,Split\nu0,0,train\nu1,0,val\nu2,0,test\nu3,0,test\nu0,1,val\n")
    records = ts.read(written(tmp_path / "annotation.csv", f"{columns}\n{rows}")).facts
    assert [(record.facts["Cardiomegaly"].state, record.facts["Cardiomegaly"].severity) for record in records] == [
        ("absent", None),
        ("uncertain", None),
        ("present", None),
        ("present", 3),
    ]
    assert [record.split for record in records] == ["train", "val", "test", "test"]
    with pytest.raises(DataFormatError, match="field 'HeartSize': expected a grade of 0 to 3, not '4'"):
        ts.read(written(tmp_path / "annotation.csv", f"{columns}\nu,p,4,,,,,,,\n"))


def test_mimic_takes_the_frontal_image_that_the_metadata_names(tmp_path: Path) -> None:
    study = tmp_path / "files" / "p10" / "p10000032" / "s50414267"
    for name in ("a_lateral", "b_ap", "c_pa"):
        film(study / f"{name}.jpg")
    views = "dicom_id,subject_id,study_id,ViewPosition\n"
    views += "".join(
        f"{name},10000032,50414267,{view}\n"
        for name, view in (("a_lateral", "LATERAL"), ("b_ap", "AP"), ("c_pa", "PA"))
    )
    path = written(
        tmp_path / "mimic-cxr-2.0.0-chexpert.csv",
        f"subject_id,study_id,{','.join(CONDITIONS)}\n10000032,50414267,1.0{',' * 12}\n",
    )
    assert ts.read(path).facts[0].image == str(study / "a_lateral.jpg")  # nothing says which is frontal
    written(tmp_path / "mimic-cxr-2.0.0-metadata.csv", views)
    assert ts.read(path).facts[0].image == str(study / "c_pa.jpg")


def test_chexperts_lateral_views_are_left_out(tmp_path: Path) -> None:
    row = "CheXpert-v1.0/train/patient00001/study1/view2_lateral.jpg,Female,68,Lateral,,1.0" + "," * 11 + ",1.0,0.0"
    other = row.replace("Lateral", "Frontal").replace("view2_lateral", "view1_frontal")
    data = ts.read(written(tmp_path / "train.csv", f"{CHEXPERT}\n{row}\n{other}\n"))
    assert (len(data.facts), data.left_out) == (1, {"a lateral view": 1})


@pytest.mark.parametrize("name", ["chexpert_binary_mcq", "chexpert_binary_mcq_control"])
def test_negbenchs_chexpert_questions_have_two_options_and_the_patient_is_their_group(
    tmp_path: Path, name: str
) -> None:
    """Negation and its affirmation control are files of the same columns, without a template."""
    image = "valid/patient64541/study1/view1_frontal.jpg"
    film(tmp_path / "images" / "CheXpert-v1.0-small" / image)
    wrong = "does not show Atelectasis." if name == "chexpert_binary_mcq" else "shows Cardiomegaly."
    rows = (
        "image_path,caption_0,caption_1,correct_answer\n"
        f"/data/CheXpert-v1.0-small/{image},This image shows Atelectasis.,This image {wrong},0\n"
        f"/data/CheXpert-v1.0-small/valid/patient64541/study2/view1_frontal.jpg,A.,B.,1\n"
    )
    data = ts.read(written(tmp_path / f"{name}.csv", rows), images=tmp_path / "images")
    first, second = data.claims
    assert (first.correct, first.attribute) == ("This image shows Atelectasis.", "binary")
    assert (first.group, second.group, second.label) == ("patient64541", "patient64541", 1)
    assert first.image == str(tmp_path / "images" / "CheXpert-v1.0-small" / image)
    assert second.image is None


def test_a_video_of_negbench_is_a_folder_of_frames(tmp_path: Path) -> None:
    rows = "image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template\n"
    rows += "/data/MSRVTT/videos/video7020.mp4,0,a,b,c,d,positive\n/data/MSRVTT/videos/video7021.mp4,0,a,b,c,d,hybrid\n"
    path = written(tmp_path / "msr_vtt_mcq_rephrased_llama.csv", rows)
    for number in range(10):
        film(tmp_path / "frames" / "video7020" / f"{number:03}.png")
    data = ts.read(path, images=tmp_path / "frames")
    frames = tuple(str(tmp_path / "frames" / "video7020" / f"{number:03}.png") for number in (0, 3, 6, 9))
    assert [record.image for record in data.claims] == [frames, None]
    assert data.missing_images == ("/data/MSRVTT/videos/video7021.mp4",)
    retrieval = "video_path,captions\nvideos/video7020.mp4,\"['a dog']\"\n"
    assert ts.read(written(tmp_path / "r.csv", retrieval), images=tmp_path / "frames").retrieval[0].image == frames

    class Encoder:
        """Each frame's number is its direction."""

        def encode_images(self, images: Any) -> Any:
            angle = np.array([int(Path(image).stem) for image in images]) / 10
            return np.stack([np.cos(angle), np.sin(angle)], axis=1)

        def encode_texts(self, texts: Any) -> Any:
            return np.array([{"a": (np.cos(0.45), np.sin(0.45))}.get(text, (0.0, 0.1)) for text in texts])

    scores = ts.benchmark.evaluate(Encoder(), data, n_boot=20)
    assert (scores.claim_accuracy, scores.without_image) == (100.0, 1)
    assert scores.items["claims"].margin[0] == pytest.approx(1 - 0.1 * np.sin(0.45))  # of the normalised mean


def test_open_i(tmp_path: Path) -> None:
    film(tmp_path / "images" / "1.png")
    written(tmp_path / "indiana_projections.csv", "uid,filename,projection\n1,1.png,Frontal\n1,2.png,Lateral\n")
    reports = (
        "uid,MeSH,Problems\n1,Pleural Effusion/bilateral/small;Cardiomegaly/mild,x\n2,No Indexing,No Indexing\n"
        "3,Opacity/lung/base/left;Opacity/lung/base/right/mild;Cardiomegaly/borderline,x\n4,normal,normal\n"
        "5,Opacity/left/mild;Opacity/right/mild;Cardiomegaly/borderline;Cardiomegaly/mild,x\n"
    )
    data = ts.read(written(tmp_path / "indiana_reports.csv", reports), images=tmp_path / "images")
    record, twice, normal, alike = data.facts
    assert record.image == str(tmp_path / "images" / "1.png")
    assert record.facts == {
        "Pleural Effusion": Fact(state="present", location=("bilateral",), severity=1),
        "Cardiomegaly": Fact(state="present", severity=1),
    }
    assert twice.facts == {  # a finding that is named twice is one finding, on both sides; of one its severity is open
        "Opacity": Fact(state="present", location=("lung", "base", "left", "right")),
        "Cardiomegaly": Fact(state="uncertain"),
    }
    assert alike.facts == {
        "Opacity": Fact(state="present", location=("left", "right"), severity=1),
        "Cardiomegaly": Fact(state="present"),
    }
    assert {fact.state for fact in normal.facts.values()} == {"absent"}
    assert all(term_of(name) is not None for name in normal.facts)
    assert data.left_out == {"the report names no finding": 1}


def test_our_own_files(tmp_path: Path) -> None:
    pair = {"correct": "no edema", "foil": "mild edema", "id": 4, "attribute": "existence"}
    assert ts.read(written(tmp_path / "pairs.jsonl", [pair])).pairs[0].id == "4"
    claim = {"id": "1", "group": "p", "claims": ["a", "b"], "label": 1, "attribute": "side"}
    data = ts.read(written(tmp_path / "claims.jsonl", [claim]))
    assert (data.format, data.claims[0].correct) == ("claims", "b")

"""Other forms of the published sets: exports of the library `datasets`, later releases, the files behind a CSV."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published import ARO, CONDITIONS, KARPATHY, SUGARCREPE, VALSE, WINOGROUND
from test_readers_formats import film, written

import tracescribe as ts
from tracescribe.benchmark.readers.aro import LEFT_OUT_OF_MEAN
from tracescribe.benchmark.records import Fact
from tracescribe.errors import DataFormatError

NAMES = CONDITIONS.split(",")


def with_images(rows: list[dict[str, Any]], *columns: str) -> pa.Table:
    """Rows as `datasets` writes them to Parquet: images are structs of bytes and a file's name."""
    table = pa.Table.from_pylist(rows)
    for column in columns:
        images = [{"bytes": b"\x89PNG" * 1000, "path": row[column]} for row in rows]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(images, kind))
    return table


def test_winoground_as_the_hub_has_it(tmp_path: Path) -> None:
    """facebook/winoground: images inside the table, by their names in the folder of images beside it."""
    film(tmp_path / "images" / "ex_0_img_0.png")
    rows = [
        {
            **WINOGROUND,
            "image_0": "ex_0_img_0.png",
            "image_1": "ex_0_img_1.png",
            "num_main_preds": 1,
            "secondary_tag": "",
        }
    ]
    pq.write_table(with_images(rows, "image_0", "image_1"), tmp_path / "test-00000-of-00001.parquet")
    (record,) = ts.read(tmp_path / "test-00000-of-00001.parquet", images=tmp_path / "images").winoground
    assert record.images == (str(tmp_path / "images" / "ex_0_img_0.png"), None)
    assert (record.id, record.captions[1], record.tag) == ("0", WINOGROUND["caption_1"], "Object")
    lines = [{**row, **{name: {"bytes": None, "path": row[name]} for name in ("image_0", "image_1")}} for row in rows]
    assert ts.read(written(tmp_path / "w.jsonl", lines), images=tmp_path / "images").winoground == [record]


def test_taix_ray_as_the_hub_has_it(tmp_path: Path) -> None:
    """TLAIM/TAIX-Ray: the columns of its README, with the film inside; it is found as the download script names it."""
    grades = ("HeartSize", "PulmonaryCongestion", "PleuralEffusion_Right", "PleuralEffusion_Left")
    grades += ("PulmonaryOpacities_Right", "PulmonaryOpacities_Left", "Atelectasis_Right", "Atelectasis_Left")
    row = {"UID": "abc", "Fold": 0, "Split": "train", "PatientID": "p1", "PhysicianID": "d", "StudyDate": "2013-05-25"}
    row |= {"Age": 26647, "Sex": "M", **dict(zip(grades, (2, 0, 2, 2, 0, 0, 2, 0), strict=True)), "Image": "abc.png"}
    pq.write_table(with_images([row], "Image"), tmp_path / "train-00000-of-00001.parquet")
    film(tmp_path / "abc.png")
    (record,) = ts.read(tmp_path / "train-00000-of-00001.parquet").facts
    assert (record.id, record.group, record.split, record.image) == ("abc", "p1", "train", str(tmp_path / "abc.png"))
    assert record.facts["Atelectasis, right"] == Fact(state="present", severity=1, location=("right",))
    assert record.facts["Cardiomegaly"] == Fact(state="present")


def test_chexpert_plus_ships_its_labels_as_json_lines(tmp_path: Path) -> None:
    """report_fixed.json, impression_fixed.json, ...: one object per line, null where nothing is said."""
    image = "train/patient42142/study5/view1_frontal.jpg"
    blank = {"path_to_image": image, **dict.fromkeys(NAMES), "No Finding": None}
    lines = [
        {**blank, "Edema": 1.0, "Pneumothorax": 0.0, "Pneumonia": -1.0},
        {**blank, "path_to_image": image.replace("view1_frontal", "view2_lateral"), "Edema": 1.0},
        {**blank, "path_to_image": image.replace("study5", "study6"), "No Finding": 1.0},
    ]
    path = tmp_path / "impression_fixed.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    film(tmp_path / "PNG" / image)
    data = ts.read(path, images=tmp_path / "PNG")
    (record,) = data.facts
    assert (data.format, record.group, record.split) == ("chexpert", "patient42142", "train")
    assert record.image == str(tmp_path / "PNG" / image)
    assert {name: fact.state for name, fact in record.facts.items()} == {
        "Edema": "present",
        "Pneumothorax": "absent",
        "Pneumonia": "uncertain",
    }
    assert data.left_out == {"a lateral view": 1, "no condition is labelled": 1}


def test_chexperts_test_labels_have_no_column_of_views(tmp_path: Path) -> None:
    rows = f"Path,{CONDITIONS}\n"
    for name in ("view1_frontal.jpg", "view2_lateral.jpg"):
        rows += f"CheXpert-v1.0/test/patient64741/study1/{name},{','.join('01' * 6)},0\n"
    data = ts.read(written(tmp_path / "test_labels.csv", rows))
    assert [(record.id[-17:], record.split) for record in data.facts] == [("view1_frontal.jpg", "test")]


def test_mimics_labels_by_radiologists_name_no_patient(tmp_path: Path) -> None:
    """mimic-cxr-2.1.0-test-set-labeled.csv has study_id only, and "Airspace Opacity" for the opacity."""
    names = [name.replace("Lung Opacity", "Airspace Opacity") for name in NAMES]
    labels = dict.fromkeys(names, "") | {"Airspace Opacity": "1.0", "Edema": "0.0"}
    rows = f"study_id,{','.join(names)}\n50414267,{','.join(labels.values())}\n"
    path = written(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv", rows)
    with pytest.raises(DataFormatError, match=r"labeled.csv:2: no column names the patient .* the study '50414267'"):
        ts.read(path)
    split = "dicom_id,study_id,subject_id,split\nx,50414267,10000032,test\n"
    written(tmp_path / "mimic-cxr-2.0.0-split.csv", split)
    (record,) = ts.read(path).facts
    assert (record.id, record.group, record.split) == ("50414267", "10000032", "test")
    assert record.facts == {"Lung Opacity": Fact(state="present"), "Edema": Fact(state="absent")}


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
  <uId id="CXR{number}"/>
  <MedlineCitation><Article><Abstract><AbstractText Label="FINDINGS">Heart is big.</AbstractText></Abstract></Article>
  </MedlineCitation>
  <MeSH>{terms}<automatic>heart</automatic></MeSH>
  {images}
</eCitation>
"""


def report(number: int, terms: list[str], images: list[str]) -> str:
    return REPORT.format(
        number=number,
        terms="".join(f"<major>{term}</major>" for term in terms),
        images="".join(
            f'<parentImage id="{image}"><caption>Xray Chest PA and Lateral</caption></parentImage>' for image in images
        ),
    )


def test_open_i_as_the_library_of_medicine_ships_it(tmp_path: Path) -> None:
    """NLMCXR_reports.tgz: an XML file per report, named by number; the patient's words are not read."""
    reports = {
        "ecgen-radiology/1.xml": report(1, ["Cardiomegaly/mild ", "Pleural Effusion/left"], ["CXR1_1_IM-0001-3001"]),
        "ecgen-radiology/2.xml": report(2, ["normal"], ["CXR2_IM-0652-1001", "CXR2_IM-0652-2001"]),
        "ecgen-radiology/3.xml": report(3, [], []),
    }
    path = tmp_path / "NLMCXR_reports.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in reports.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    film(tmp_path / "png" / "CXR1_1_IM-0001-3001.png")
    data = ts.read(path, images=tmp_path / "png")
    first, normal = data.facts
    assert data.format == "open-i"
    assert (first.id, first.image) == ("1", str(tmp_path / "png" / "CXR1_1_IM-0001-3001.png"))
    assert first.facts["Cardiomegaly"] == Fact(state="present", severity=1)
    assert first.facts["Pleural Effusion"] == Fact(state="present", location=("left",))
    assert normal.image is None and {fact.state for fact in normal.facts.values()} == {"absent"}
    assert data.left_out == {"the report names no finding": 1}
    written(tmp_path / "indiana_projections.csv", "uid,filename,projection\n2,2_IM-0652-1001.dcm.png,Frontal\n")
    film(tmp_path / "png" / "2_IM-0652-1001.dcm.png")
    assert ts.read(path, images=tmp_path / "png").facts[1].image == str(tmp_path / "png" / "2_IM-0652-1001.dcm.png")
    single = ts.read(written(tmp_path / "1.xml", reports["ecgen-radiology/1.xml"]), images=tmp_path / "png")
    assert single.facts == [first]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<eCitation>", "not XML"),
        ("<a/>", "not a report of Open-i"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><eCitation><uId id="1"/></eCitation>', "defines entities"),
        ("<eCitation><uId id='1'/>" + " " * 2**20 + "</eCitation>", "more than 1,048,576 bytes"),
    ],
)
def test_xml_that_is_no_report_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataFormatError, match=message) as error:
        ts.read(written(tmp_path / "1.xml", text))
    assert str(tmp_path / "1.xml") in str(error.value)


def test_a_damaged_archive_of_reports_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reports.tgz"
    path.write_bytes(b"\x1f\x8b junk")
    with pytest.raises(DataFormatError, match="cannot read"):
        ts.read(path)


def test_karpathys_file_and_the_lists_made_of_it(tmp_path: Path) -> None:
    data = ts.read(written(tmp_path / "dataset_coco.json", KARPATHY))
    (record,) = data.retrieval
    assert (data.format, record.id, record.split) == ("karpathy", "391895", "test")
    assert record.captions == ("A man with a red helmet.", "A moped.")
    assert data.missing_images == ("val2014/COCO_val2014_000000391895.jpg",)
    flickr = {"images": [{**KARPATHY["images"][0], "split": "restval"}], "dataset": "flickr30k"}
    for key in ("filepath", "cocoid"):
        del flickr["images"][0][key]
    (record,) = ts.read(written(tmp_path / "dataset_flickr30k.json", flickr)).retrieval
    assert (record.id, record.split) == ("0", "train")
    wrong = {**KARPATHY, "images": [{**KARPATHY["images"][0], "split": "dev"}]}
    with pytest.raises(DataFormatError, match=r"field 'split': expected train, restval, val, test, not 'dev'"):
        ts.read(written(tmp_path / "wrong.json", wrong))
    train = [
        {"caption": "A dog.", "image": "train2014/1.jpg", "image_id": "coco_1"},
        {"caption": "A cat.", "image": "train2014/2.jpg", "image_id": "coco_2"},
        {"caption": "One dog.", "image": "train2014/1.jpg", "image_id": "coco_1"},
    ]
    records = ts.read(written(tmp_path / "coco_karpathy_train.json", train)).retrieval
    assert [(record.group, record.captions) for record in records] == [
        ("train2014/1.jpg", ("A dog.", "One dog.")),
        ("train2014/2.jpg", ("A cat.",)),
    ]


def test_pairs_exported_as_lines_or_tables_are_read_as_their_document(tmp_path: Path) -> None:
    plus = {"id": 3, **SUGARCREPE, "caption2": "the car is red"}
    for value, format in ((SUGARCREPE, "sugarcrepe"), (plus, "sugarcrepe++"), (ARO, "aro"), (VALSE, "valse")):
        data = ts.read(written(tmp_path / "replace_att.jsonl", [value]))
        assert data.format == format
        if format != "valse":  # whose votes are an object
            frame = pd.DataFrame([value])
            frame.to_csv(tmp_path / "replace_att.csv", index=False)
            frame.to_parquet(tmp_path / "replace_att.parquet")
            for ending in ("csv", "parquet"):
                assert ts.read(tmp_path / f"replace_att.{ending}").pairs == data.pairs, (format, ending)


def test_aros_relations_that_its_mean_leaves_out_are_an_attribute_of_their_own(tmp_path: Path) -> None:
    """The file holds 23,937 cases; the notebook leaves relations out of the mean, by a list."""
    relation = {key: value for key, value in ARO.items() if key != "attributes"}
    items = [
        {**relation, "image_id": str(number), "relation_name": name, "true_caption": f"the a is {name} the b {number}"}
        for number, name in enumerate(("on", "near", "to the left of", "riding on", "on"))
    ]
    data = ts.read(written(tmp_path / "visual_genome_relation.json", items))
    assert len(data.pairs) == 5 and data.left_out == {}
    assert [(pair.template, pair.attribute == "relation") for pair in data.pairs] == [
        ("on", True),
        ("near", False),
        ("to the left of", True),
        ("riding on", False),
        ("on", True),
    ]
    assert len(LEFT_OUT_OF_MEAN) == 157 and not LEFT_OUT_OF_MEAN & {"on", "in", "behind", "below", "above", "holding"}
    with pytest.raises(DataFormatError, match="field 'relation_name'"):
        ts.read(written(tmp_path / "r.json", [{**items[0], "relation_name": 3}]))


NEGCLIP = (
    "\ttitle\tfilepath\tneg_caption\tneg_image\n"
    "0\tA dog near a pond.\tcoco/val2014/COCO_val2014_000000000001.jpg\t"
    "['A pond near a dog .', 'A dog far from a pond .']\t[2, 15, 35]\n"
    "48\tA boy on his father's back.\tcoco/val2014/COCO_val2014_000000000002.jpg\t"
    '"[""A father on his boy \'s back .""]"\t[99, 58, 6]\n'
)


def test_negclips_table_as_its_repository_holds_it(tmp_path: Path) -> None:
    """The form of temp_data/valid_neg_clip.tsv: an index column, and lists quoted in two ways."""
    first, second = ts.read(written(tmp_path / "valid_neg_clip.tsv", NEGCLIP)).captions
    assert first.neg_captions == ("A pond near a dog .", "A dog far from a pond .")
    assert second.neg_captions == ("A father on his boy 's back .",)
    assert second.neg_images == ("99", "58", "6")


@pytest.mark.parametrize(
    ("kind", "values"), [("radiologists", "01" * 6 + "0"), ("labeler", ["1.0", "", "-1.0", *"0" * 10])]
)
def test_chexperts_test_labels_by_study(tmp_path: Path, kind: str, values: str) -> None:
    """groundtruth.csv and chexpert_labels.csv of its repository of labels: a column of studies, none of images."""
    study = "CheXpert-v1.0/test/patient64741/study1"
    rows = f"Study,No Finding,{CONDITIONS}\n{study},0,{','.join(values)}\n"
    film(tmp_path / "test/patient64741/study1/view1_frontal.jpg")
    film(tmp_path / "test/patient64741/study1/view2_lateral.jpg")
    data = ts.read(written(tmp_path / f"{kind}.csv", rows))
    (record,) = data.facts
    assert (data.format, record.id, record.group, record.split) == ("chexpert", study, "patient64741", "test")
    assert record.image == str(tmp_path / "test/patient64741/study1/view1_frontal.jpg")
    states = {"1": "present", "0": "absent", "-": "uncertain"}
    assert [record.facts[name].state for name, value in zip(NAMES, values, strict=True) if value] == [
        states[value[0]] for value in values if value
    ]


def test_an_image_in_another_format_than_its_path_says_is_found(tmp_path: Path) -> None:
    """CheXpert Plus lists .jpg and ships .png; the file that the path names comes first, a folder is no image."""
    image = "train/patient42142/study5/view1_frontal.jpg"
    path = tmp_path / "impression_fixed.json"
    path.write_text((json.dumps({"path_to_image": image, **dict.fromkeys(NAMES), "Edema": 1.0}) + "\n") * 2)
    png = tmp_path / "PNG" / image.replace(".jpg", ".png")
    film(png)
    (png.parent / "view1_frontal.jpeg").mkdir()
    assert ts.read(path, images=tmp_path / "PNG").facts[0].image == str(png)
    film(tmp_path / "PNG" / image)
    assert ts.read(path, images=tmp_path / "PNG").facts[0].image == str(tmp_path / "PNG" / image)
    data = ts.read(path)
    assert (data.facts[0].image, data.missing_images) == (None, (image,))


def test_an_image_in_another_format_is_not_taken_from_outside_the_folder(tmp_path: Path) -> None:
    film(tmp_path / "outside.png")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").symlink_to(tmp_path / "outside.png")
    data = ts.read(written(tmp_path / "a.json", {"0": {**SUGARCREPE, "filename": "1.jpg"}}), images=folder)
    assert (data.pairs[0].image, data.missing_images) == (None, ("1.jpg",))


def test_negbenchs_objects_may_be_none_and_videos_have_a_column_per_concept(tmp_path: Path) -> None:
    """As published: an image without an object of COCO has the list ``['']``; MSR-VTT's have concepts."""
    images = "positive_objects,negative_objects,filepath,image_id,captions\n"
    images += "[''],\"['clock', 'book']\",data/coco/images/val2017/000000000009.jpg,9,['A wall. There is no clock.']\n"
    (record,) = ts.read(written(tmp_path / "COCO_val_negated_retrieval.csv", images)).retrieval
    assert (record.id, record.present, record.absent) == ("9", (), ("clock", "book"))
    videos = "image_id,captions,filepath,all_captions,positive_concept1,positive_concept2,negative_concept\n"
    videos += (
        "video9,\"['A cat runs, and no dog.']\",data/video/all/video9.mp4,\"['a cat', 'it runs']\",cat,running,dog\n"
    )
    (record,) = ts.read(written(tmp_path / "msr_vtt_retrieval_rephrased_llama.csv", videos)).retrieval
    assert record.captions == ("A cat runs, and no dog.",)
    assert (record.id, record.present, record.absent) == ("video9", ("cat", "running"), ("dog",))


def test_taix_ray_as_its_download_script_leaves_it(tmp_path: Path) -> None:
    """metadata/annotation.csv and metadata/split.csv, with the images in data/ beside them."""
    grades = "HeartSize,PulmonaryCongestion,PleuralEffusion_Right,PleuralEffusion_Left,PulmonaryOpacities_Right,"
    grades += "PulmonaryOpacities_Left,Atelectasis_Right,Atelectasis_Left"
    (tmp_path / "metadata").mkdir()
    table = f"UID,PatientID,PhysicianID,StudyDate,Age,Sex,{grades}\nabc,p1,d1,2013-05-25,26647,M,3,0,1,2,0,0,4,1\n"
    path = written(tmp_path / "metadata" / "annotation.csv", table)
    written(tmp_path / "metadata" / "split.csv", "UID,Fold,Split\nabc,1,test\nabc,0,val\n")
    film(tmp_path / "data" / "abc.png")
    for images in (tmp_path, tmp_path / "data"):
        (record,) = ts.read(path, images=images).facts
        assert (record.image, record.split) == (str(tmp_path / "data" / "abc.png"), "val")

"""Every reader gives the same records however its file was saved: by an editor, a spreadsheet, pandas, elsewhere."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published import PUBLISHED
from test_readers_formats import film, written

import tracescribe as ts
from tracescribe.benchmark.readers.source import _Utf8
from tracescribe.errors import DataFormatError

TABLES = [name for name, (file, _) in PUBLISHED.items() if ".csv" in file or ".tsv" in file]
TEXTS = [name for name, (file, _) in PUBLISHED.items() if not file.endswith(".pt")]
PANDAS_ID = {"mimic-cxr": ["subject_id", "study_id"], "negbench-retrieval": ["image_id"], "open-i": ["uid"]}


def file_of(folder: Path, format: str) -> Path:
    """The file as published."""
    name, value = PUBLISHED[format]
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(value.encode()))
        return path
    return written(path, value)


def text_of(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def table_of(text: str, delimiter: str) -> str:
    """A table with another separator, quoted as needed."""
    first = text.partition("\n")[0]
    rows = list(csv.reader(io.StringIO(text), delimiter="\t" if "\t" in first else ","))
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue()


def records(path: Path, format: str | None = None) -> list[dict[str, Any]]:
    return [record.model_dump() for record in ts.read(path, format=format).records]


SAVED: dict[str, Callable[[str], bytes]] = {
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "no line end at the end": lambda text: text.rstrip("\n").encode(),
    "empty lines at the end": lambda text: (text.rstrip("\n") + "\n\n\n").encode(),
}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("format", TEXTS)
def test_an_editor_may_have_saved_it(tmp_path: Path, format: str, how: str) -> None:
    path = file_of(tmp_path, format)
    plain = records(path)
    assert ts.read(path).format == format
    assert records(saved(path, SAVED[how](text_of(path)))) == plain


@pytest.mark.parametrize("format", TEXTS)
def test_it_may_be_compressed(tmp_path: Path, format: str) -> None:
    path = file_of(tmp_path, format)
    packed = tmp_path / "packed" / (path.name.removesuffix(".gz") + ".gz")
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(text_of(path).encode("utf-8-sig")))
    assert records(packed) == records(path)


@pytest.mark.parametrize("format", TEXTS)
def test_it_may_be_a_zip_archive_of_the_file(tmp_path: Path, format: str) -> None:
    path = file_of(tmp_path, format)
    packed = tmp_path / "packed" / (path.name.removesuffix(".gz") + ".zip")
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.name.removesuffix(".gz"), text_of(path))
        archive.writestr(f"__MACOSX/._{path.name}", b"x")
    assert records(packed) == records(path)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("another.csv", "x")
    with pytest.raises(DataFormatError, match="a zip archive of 2 files"):
        ts.read(packed)
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(DataFormatError, match="cannot read"):
        ts.read(packed)


@pytest.mark.parametrize("format", TABLES)
def test_columns_may_be_in_another_order_beside_others(tmp_path: Path, format: str) -> None:
    path = file_of(tmp_path, format)
    plain = records(path)
    text = text_of(path)
    rows = list(csv.reader(io.StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ","))
    out = io.StringIO()
    csv.writer(out).writerows(
        [f"unused {number}", *row[::-1], ""] if number else ["more", *row[::-1], "unnamed"]
        for number, row in enumerate(rows)
    )
    assert records(saved(path, out.getvalue().encode())) == plain


@pytest.mark.parametrize("format", [name for name, (file, _) in PUBLISHED.items() if file.endswith(".jsonl")])
def test_lines_may_have_the_ending_of_a_document(tmp_path: Path, format: str) -> None:
    """As pandas and CheXpert Plus name JSON lines."""
    name, value = PUBLISHED[format]
    two = [value[0], {**value[0], "id": "2"}]
    plain = records(written(tmp_path / name, two))
    (tmp_path / name).rename(tmp_path / "renamed.json")
    assert records(tmp_path / "renamed.json") == plain


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
@pytest.mark.parametrize("format", TABLES)
def test_a_spreadsheet_may_have_saved_it(tmp_path: Path, format: str, delimiter: str) -> None:
    path = file_of(tmp_path, format)
    plain = records(path)
    assert records(saved(path, table_of(text_of(path), delimiter).encode("utf-8-sig"))) == plain


@pytest.mark.parametrize("format", TABLES)
def test_pandas_may_have_saved_it(tmp_path: Path, format: str) -> None:
    """An index column, NaN for what is empty, 7.0 for 7 in a column with gaps, and Parquet."""
    path = file_of(tmp_path, format)
    plain = records(path)
    frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    for column in PANDAS_ID.get(format, []):
        frame[column] = frame[column].astype(float)
    for na in ("", "nan", "NaN"):
        out = io.StringIO()
        frame.to_csv(out, na_rep=na)
        assert records(saved(path, out.getvalue().encode())) == plain, na
    parquet = tmp_path / "frame.parquet"
    frame.to_parquet(parquet)
    assert records(parquet) == plain


@pytest.mark.parametrize("format", TABLES)
def test_a_quoted_cell_may_hold_a_line_end(tmp_path: Path, format: str) -> None:
    """In a column that the format does not use, as the findings of Open-i's reports do."""
    path = file_of(tmp_path, format)
    plain = records(path)
    lines = text_of(path).splitlines()
    between = "\t" if "\t" in lines[0] else ","
    more = [lines[0] + between + "notes", *(line + between + '"two\nlines, ""quoted"""' for line in lines[1:])]
    assert records(saved(path, ("\n".join(more) + "\n").encode())) == plain


@pytest.mark.parametrize("format", [name for name, (_, value) in PUBLISHED.items() if isinstance(value, list)])
def test_numbers_in_json_may_be_floats(tmp_path: Path, format: str) -> None:
    """What pandas writes of whole numbers in a column with gaps."""
    strict = {"claims": "field 'label'"}  # our own files are written by this package: a float there is damage

    def floats(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: floats(item) for key, item in value.items()}
        if isinstance(value, list):
            return [floats(item) for item in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    name, value = PUBLISHED[format]
    plain = records(written(tmp_path / name, value))
    path = written(tmp_path / name, floats(value))
    if format in strict:
        with pytest.raises(DataFormatError, match=strict[format]):
            ts.read(path)
    else:
        assert records(path) == plain


@pytest.mark.parametrize("format", ["valse", "sugarcrepe"])
def test_keys_of_items_need_not_be_contiguous(tmp_path: Path, format: str) -> None:
    name, value = PUBLISHED[format]
    (item,) = value.values()
    path = written(tmp_path / name, {"7": item, "3": item, "1000": item})
    assert [pair.id for pair in ts.read(path).pairs] == ["7", "3", "1000"]


WITH_IDS = ["pairs", "claims", "captions", "retrieval", "facts", "mednega", "sugarcrepe++", "winoground"]


@pytest.mark.parametrize("format", [*WITH_IDS, "cad-chest"])
def test_a_record_that_is_given_twice_is_read_once(tmp_path: Path, format: str) -> None:
    name, value = PUBLISHED[format]
    data = ts.read(written(tmp_path / name, [*value, *value]))
    once = records(written(tmp_path / name, value))
    if format == "sugarcrepe++":  # no id of its own: the place in the file tells them apart
        assert len(data.records) == 2 * len(once)
    else:
        assert [record.model_dump() for record in data.records] == once
        assert data.left_out == {"given twice, word for word": len(once)}


@pytest.mark.parametrize("format", ["mimic-cxr", "open-i", "taix-ray"])
def test_two_different_records_of_one_name_are_refused(tmp_path: Path, format: str) -> None:
    path = file_of(tmp_path, format)
    head, row = text_of(path).splitlines()
    other = row.replace("1.0", "0.0").replace("mild", "severe").replace("4,1,0", "0,1,0").replace("3,1,0", "0,1,0")
    assert other != row
    with pytest.raises(DataFormatError, match="is given to more than one record"):
        ts.read(saved(path, f"{head}\n{row}\n{other}\n".encode()))


OUTSIDE: dict[str, tuple[str, str, str]] = {
    "negbench-mcq": ("val/1.jpg,0,", "val/1.jpg,7,", "field 'correct_answer'.*not '7'"),
    "chexpert": (",1.0,0.0,-1.0", ",1.0,0.5,-1.0", "field 'Fracture'.*not '0.5'"),
    "mimic-cxr": (",1.0,", ",3,", "field 'Enlarged Cardiomediastinum'.*not '3'"),
    "taix-ray": ("p1,val,3,", "p1,val,4,", "field 'HeartSize': expected a grade of 0 to 3, not '4'"),
    "cad-chest": ('"probability_score": 3', '"probability_score": 4', "field 'probability_score'"),
    "mednega": ('"correct_answer": "A"', '"correct_answer": "E"', "field 'correct_answer'"),
    "claims": ('"label": 0', '"label": 2', "label 2 is not the index"),
    "facts": ('"absent"', '"maybe"', "field 'facts.edema.state'"),
    "valse": ('"caption": 3', '"caption": "many"', "field 'caption': expected a number"),
    "negclip": ("[4, 7]", "[4, -7]", "field 'neg_image'"),
    "karpathy": ('"split": "test"', '"split": "dev"', "field 'split'"),
}


@pytest.mark.parametrize(
    ("format", "old", "new", "message"),
    [
        ("valse", '"caption": 3', '"caption": 4', "field 'mturk.caption': expected 0 to 3 votes, not 4"),
        ("valse", "zero_to_something", "sometimes", "field 'provenance_of_foils'.*not 'sometimes'"),
        ("valse", '"existence"', "[1]", "field 'linguistic_phenomena': expected a text"),
        ("taix-ray", ",p1,val,", ",p1,dev,", "split: expected train, val, .* not 'dev'"),
        ("cad-chest", '["left"]', '["left", 7]', "disease 'edema': field 'location': expected a list of texts"),
        ("negbench-mcq", ",a cat,", ",NaN,", "field 'caption_1': expected a text, not 'NaN'"),
        ("negclip", "a dog", "nan", "field 'title': expected a text, not 'nan'"),
        ("pairs", '"film.png"', "[null]", "field 'image': expected a path"),
        ("claims", '"film.png"', "7", "field 'image': expected a path"),
    ],
)
def test_a_field_that_says_something_else_is_named(
    tmp_path: Path, format: str, old: str, new: str, message: str
) -> None:
    path = file_of(tmp_path, format)
    text = text_of(path)
    assert old in text
    with pytest.raises(DataFormatError, match=message):
        ts.read(saved(path, text.replace(old, new, 1).encode()))


@pytest.mark.parametrize("key", ["caption", "negative-prompt"])
def test_half_of_a_character_is_named(tmp_path: Path, key: str) -> None:
    content = {"caption": "a", "negative-prompt": "b", key: "a \ud800"}
    annotation = {"json": {"caption": content["caption"]}, "sop_data": {"negative-prompt": content["negative-prompt"]}}
    with pytest.raises(DataFormatError, match=f"field '{key}': .*holds a lone surrogate"):
        ts.read(written(tmp_path / "ccneg.pt", {"image_paths": ["1.jpg"], "annotations": [annotation]}))


@pytest.mark.parametrize("empty", ["", "nan", "NaN", "None"])
def test_an_empty_cell_is_no_label(tmp_path: Path, empty: str) -> None:
    """As pandas may write it: of a template, of a split, of MeSH terms."""
    for format, cell, get in (
        ("negbench-mcq", "hybrid", lambda record: record.attribute == "binary"),
        ("taix-ray", "val", lambda record: record.split is None),
    ):
        path = file_of(tmp_path, format)
        (record,) = ts.read(saved(path, text_of(path).replace(f",{cell}", f",{empty}").encode())).records
        assert get(record)
    path = file_of(tmp_path, "open-i")
    reports = text_of(path) + f"2,{empty},x\n"
    assert ts.read(saved(path, reports.encode())).left_out == {"the report names no finding": 1}


def test_a_place_that_is_no_list_is_one_place(tmp_path: Path) -> None:
    path = file_of(tmp_path, "cad-chest")
    plain = records(path)
    assert records(saved(path, text_of(path).replace('["left"]', '"left"').encode())) == plain


@pytest.mark.parametrize("format", OUTSIDE)
def test_a_label_outside_the_code_is_named(tmp_path: Path, format: str) -> None:
    path = file_of(tmp_path, format)
    old, new, message = OUTSIDE[format]
    text = text_of(path)
    assert old in text
    with pytest.raises(DataFormatError, match=message) as error:
        ts.read(saved(path, text.replace(old, new, 1).encode()))
    assert path.name in str(error.value)


IMAGES: dict[str, list[str]] = {
    "negbench-mcq": ["val/1.jpg"],
    "negbench-retrieval": ["val/1.jpg"],
    "valse": ["v7w_1.jpg"],
    "sugarcrepe": ["1.jpg"],
    "sugarcrepe++": ["1.jpg"],
    "aro": ["2.jpg"],
    "winoground": ["ex_0_img_0.png", "ex_0_img_1.png"],
    "negclip": ["1.jpg"],
    "coco": ["9.jpg"],
    "karpathy": ["val2014/COCO_val2014_000000391895.jpg"],
    "karpathy-list": ["val2014/1.jpg"],
    "chexpert": ["train/patient1/study1/a.jpg"],
    "mimic-cxr": ["files/p10/p10000032/s50414267/a.jpg"],
    "mednega": ["files/p1/p1/s2/a.jpg"],
    "cad-chest": ["files/p2/p2/s1/a.jpg"],
    "taix-ray": ["abc.png"],
    "cc-neg": ["a/1.jpg"],
    **{name: ["film.png"] for name in ("pairs", "claims", "captions", "retrieval", "facts")},
}


@pytest.mark.parametrize("format", IMAGES)
def test_images_are_found_in_another_folder_and_counted_where_they_are_not(tmp_path: Path, format: str) -> None:
    path = file_of(tmp_path, format)
    assert ts.read(path).missing_images
    for name in IMAGES[format]:
        film(tmp_path / "elsewhere" / name)
    data = ts.read(path, images=tmp_path / "elsewhere", strict=True)
    assert data.missing_images == ()
    found = [image for record in data.records for image in getattr(record, "images", None) or [record.image]]
    found = [getattr(image, "image", image) for image in found]  # of a box, the picture that it is cut out of
    assert {Path(image) for image in found} == {tmp_path / "elsewhere" / name for name in IMAGES[format]}
    with pytest.raises(DataFormatError, match="is not in"):
        ts.read(path, strict=True)


ABSOLUTE = {
    "negbench-mcq": "val/1.jpg",
    "negbench-retrieval": "val/1.jpg",
    "valse": "v7w_1.jpg",
    "negclip": "1.jpg",
    "sugarcrepe": "1.jpg",
    "karpathy-list": "val2014/1.jpg",
    "chexpert": "train/patient1/study1/a.jpg",
}


@pytest.mark.parametrize("root", ["/mnt/author/data/", "D:\\data\\", "../../", "s3://bucket/"])
@pytest.mark.parametrize("format", ABSOLUTE)
def test_an_image_path_may_begin_on_another_machine(tmp_path: Path, format: str, root: str) -> None:
    path, name = file_of(tmp_path, format), ABSOLUTE[format]
    image = film(tmp_path / "images" / name)
    shown = json.dumps(root)[1:-1] if path.suffix == ".json" else root
    (record,) = ts.read(
        saved(path, text_of(path).replace(name, shown + name).encode()), images=tmp_path / "images"
    ).records
    assert record.image == str(image)


def test_every_format_is_among_those_tried_here() -> None:
    assert set(PUBLISHED) == {*TEXTS, "cc-neg"} == {*IMAGES, "open-i"}  # Open-i's images are in a table of their own


def test_cc_negs_file_of_another_torch_is_read(tmp_path: Path) -> None:
    path = file_of(tmp_path, "cc-neg")
    plain = records(path)
    torch.save(PUBLISHED["cc-neg"][1], path, _use_new_zipfile_serialization=False)
    assert records(path) == plain


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value holds another one, however deep."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*at, key)
        yield from places(entry, (*at, key))


@pytest.mark.parametrize("odd", [None, [], {"a": 1}, True, "", 10**400], ids=str)
@pytest.mark.parametrize("format", [name for name, (_, value) in PUBLISHED.items() if not isinstance(value, str)])
def test_any_field_may_be_of_another_type(tmp_path: Path, format: str, odd: Any) -> None:
    """It is refused in a sentence that names the file, or read as nothing; Python's own errors are neither."""
    name, value = PUBLISHED[format]
    for place in places(value):
        changed = copy.deepcopy(value)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
        path = written(tmp_path / name, changed)
        try:
            ts.read(path, format=format)
        except DataFormatError as error:
            assert str(path) in str(error) and len(str(error)) < 1000, place


OBJECTS = ["pairs", "claims", "captions", "retrieval", "facts", "mednega", "sugarcrepe++", "aro", "winoground"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("format", [*OBJECTS, "cad-chest", "valse", "sugarcrepe"])
def test_one_object_that_is_a_record_is_read_as_one_and_said(tmp_path: Path, format: str, indent: int | None) -> None:
    """JSON lines of one line in a .json file; the same object over several lines, too."""
    name, value = PUBLISHED[format]
    item = next(iter(value.values() if isinstance(value, dict) else value))
    listed = ts.read(written(tmp_path / name, [item])).records
    path = tmp_path / "one.json"
    path.write_text(json.dumps(item, indent=indent))
    with pytest.warns(UserWarning, match="holds one JSON object, which is read as one record of the format"):
        data = ts.read(path)
    unnamed = {"id", "attribute"} if format in ("valse", "sugarcrepe", "sugarcrepe++") else set()  # by key or file name
    assert data.format == format
    assert [one.model_dump(exclude=unnamed) for one in data.records] == [
        one.model_dump(exclude=unnamed) for one in listed
    ]


@pytest.mark.parametrize("format", ["coco", "karpathy"])
def test_an_object_of_lists_is_none(tmp_path: Path, format: str) -> None:
    """Beside their lists, published files have texts ("dataset": "coco", "type": "captions")."""
    name, value = PUBLISHED[format]
    assert ts.read(written(tmp_path / name, {"type": "captions", **value} if format == "coco" else value)).format


@pytest.mark.parametrize("format", [name for name, (_, value) in PUBLISHED.items() if isinstance(value, list)])
def test_our_lists_may_be_an_array_or_lines(tmp_path: Path, format: str) -> None:
    name, value = PUBLISHED[format]
    (tmp_path / "array.json").write_text(json.dumps(value))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, value)))
    if not name.startswith(("coco_", "swap")):  # one of which is an array by its rule, the other named by its file
        array, lines = (ts.read(tmp_path / file) for file in ("array.json", "lines.jsonl"))
        assert (array.format, len(array)) == (lines.format, len(lines)) == (format, len(value))


@pytest.mark.parametrize("how", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("format", TEXTS)
def test_utf_16_may_lack_its_mark(tmp_path: Path, format: str, how: str) -> None:
    path = file_of(tmp_path, format)
    plain = records(path)
    assert records(saved(path, text_of(path).encode(how))) == plain


@pytest.mark.parametrize("lines", [False, True])
def test_nan_in_json_is_an_empty_cell(tmp_path: Path, lines: bool) -> None:
    """What Python's json and pandas write of a cell that is empty."""
    label = {"study_id": 1, "subject_id": 2, "dicom_id": math.nan}
    value = [{**label, "entity": {"edema": {"level": math.nan, "location": ["the NaN lobe"], "x": "\\"}}}]
    path = tmp_path / ("cad.jsonl" if lines else "cad.json")
    path.write_text(json.dumps(value[0] if lines else value))
    fact = ts.read(path).facts[0].facts["edema"]
    assert (fact.severity, fact.location) == (None, ("the NaN lobe",))
    (tmp_path / "a.json").write_text(json.dumps({"7": {**PUBLISHED["sugarcrepe"][1]["0"], "caption": math.nan}}))
    with pytest.raises(DataFormatError, match=r"^\S+a.json, item '7': field 'caption': expected a text, not None$"):
        ts.read(tmp_path / "a.json")


@given(
    st.recursive(
        st.sampled_from([math.nan, "NaN", 'a"NaN"\\', "\\NaN", "N", "Na\n", 1, None, ""]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["NaN", 'a"', "\\"]), inner),
    ),
    st.sampled_from([1, 2, 3, 7, 64]),
)
def test_only_nan_itself_becomes_null_wherever_a_file_is_cut(value: Any, size: int) -> None:
    stream, found = _Utf8(io.StringIO(json.dumps(value))), b""
    while part := stream.read(size):
        found += part
    assert json.loads(found) == json.loads(json.dumps(value), parse_constant=lambda _: None)


@pytest.mark.parametrize("name", ["sugarcrepe", "aro"])
def test_a_document_that_is_cut_names_its_line(tmp_path: Path, name: str) -> None:
    file, value = PUBLISHED[name]
    text = json.dumps(value, indent=1)
    (tmp_path / file).write_text(text[:-5])
    with pytest.raises(DataFormatError, match=rf"{file}:\d+: not JSON: .* at column \d+$"):
        ts.read(tmp_path / file)

"""What readers survive, and what they refuse by file, record and field."""

from __future__ import annotations

import gzip
import os
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_readers_formats import film, written

import tracescribe as ts
from tracescribe.benchmark.readers import registry
from tracescribe.benchmark.readers.chexpert import CONDITIONS
from tracescribe.benchmark.readers.images import ImageFolder
from tracescribe.errors import DataFormatError, TracescribeError
from tracescribe.io import tables

MCQ = 'image_path,correct_answer,caption_0,caption_1\n1.jpg,0,"a, b",c\n'


@pytest.mark.parametrize(
    "content",
    [
        MCQ.encode("utf-8-sig"),
        MCQ.encode("utf-16"),
        MCQ.replace("\n", "\r\n").encode(),
        MCQ.replace("a, b", "a~ b").replace(",", ";").replace("~", ",").encode(),
        MCQ.replace(",", "\t").replace("a\t b", "a, b").encode(),
        MCQ.replace("1.jpg,", " 1.jpg ,").encode(),
        (",image_path,correct_answer,caption_0,caption_1\n" + '0,1.jpg,0,"a, b",c\n').encode(),  # pandas' index
    ],
    ids=["BOM", "UTF-16", "Windows line ends", "semicolons", "tabs", "spaces", "index column"],
)
def test_the_same_record_however_the_table_is_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    (record,) = ts.read(tmp_path / "a.csv").claims
    assert (record.claims, record.group) == (["a, b", "c"], "1.jpg")


def test_a_quoted_cell_may_span_lines_and_later_lines_keep_their_numbers(tmp_path: Path) -> None:
    rows = MCQ + '2.jpg,0,"a\nb",c\n3.jpg,nan,a,b\n'
    with pytest.raises(DataFormatError, match=r"a.csv:5: field 'correct_answer': expected the number of one of 2"):
        ts.read(written(tmp_path / "a.csv", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "the file is empty"),
        ("a.csv", "image_path,image_path\n", "given twice"),
        ("a.csv", MCQ + "2.jpg,0,a\n", r"a.csv:3: 3 cells for 4 columns"),
        ("a.csv", "x,y\n1,2\n", "of no known format"),
        ("a.csv", MCQ + "2.jpg,7,a,b\n", "not '7'"),
        ("a.csv", MCQ + "2.jpg,0,a,\n", "field 'caption_1': expected a text"),
        ("a.csv", "image_path,correct_answer,caption_0,caption_1\n1.jpg,1,a,\n", "field 'caption_1'"),
        (
            "a.jsonl",
            '{"image_0": "a", "image_1": "b", "caption_0": "x", "caption_1": "y", "tag": true}\n',
            r"a.jsonl:1: field 'tag': .*, not True",
        ),
        ("a.json", "[", "not JSON"),
        ("a.json", "[" * 5000, "nested deeper than 64 levels"),
        ("a.json", "7", "must hold an array or an object"),
        ("a.json", "[]", "holds no records"),
        ("a.json", '{"a": {"filename": "1.jpg", "caption": 3, "negative_caption": "x"}}', "item 'a': field 'caption'"),
        ("a.xlsx", "", "files end in"),
        ("a.pt", "junk", "was not executed"),
        ("a.jsonl", '{"correct": "x"}\n', "of no known format"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataFormatError, match=message) as error:
        ts.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert len(str(error.value)) < 600


LABELS = ",".join(CONDITIONS)


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        (
            "patient,study,Edema,Fracture",
            r"closest is mimic-cxr: it has 'subject_id', 'study_id', 'Atelectasis', 'Card",
        ),
        (
            f"Subject_ID,Study ID,{LABELS}",
            r"mimic-cxr: it writes 'Subject_ID' as 'subject_id', 'Study ID' as 'study_id'$",
        ),
        (f"StudyID,{LABELS}", r"mimic-cxr: it writes 'StudyID' as 'study_id', and it has 'subject_id' too$"),
        (f"path,{LABELS}", r"closest is chexpert: it writes 'path' as 'Path'$"),
        ("image,correct_answer,caption_0,caption_1", r"closest is negbench-mcq: it has 'image_path' too$"),
        ("x,y", r"known are pairs, claims, "),
    ],
)
def test_fields_that_are_spelt_otherwise_are_named_beside_the_closest_formats(
    tmp_path: Path, header: str, hint: str
) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{',' * header.count(',')}x\n")
    with pytest.raises(DataFormatError, match=f"of no known format; .*{hint}"):
        ts.read(tmp_path / "a.csv")


def test_a_spreadsheet_may_save_empty_columns_and_decimal_commas(tmp_path: Path) -> None:
    cells = ["1,0", "-1,0", "0,0", *[""] * 10]
    path = tmp_path / "a.csv"
    path.write_text(f"subject_id;study_id;{';'.join(CONDITIONS)};;\n1;2;{';'.join(cells)};;\n")
    facts = ts.read(path).facts[0].facts
    assert [fact.state for fact in facts.values()] == ["present", "uncertain", "absent"]
    path.write_text(path.read_text().rstrip("\n") + "note\n")
    with pytest.raises(DataFormatError, match=r"a.csv:2: 17 cells for 15 columns"):
        ts.read(path)
    path.write_text(path.read_text().replace("1,0;-1,0", "1,000;-1,0").replace("note", ""))
    with pytest.raises(DataFormatError, match=r"field 'Atelectasis': expected a number, not '1,000'"):
        ts.read(path)


def test_a_format_that_is_named_is_held_to_by_every_record(tmp_path: Path) -> None:
    """Found by fuzzing: records that the format's rules allow and the record's own do not."""
    one = "image_path,correct_answer,caption_0,baption_1\n1.jpg,0,a,b\n"
    with pytest.raises(DataFormatError, match=r"a.csv:2: .*claims must be two or more different texts"):
        ts.read(written(tmp_path / "a.csv", one), format="negbench-mcq")
    broken = {"image_paths": ["1.jpg"], "annotations": [{"json": None, "sop_data": {}}]}
    with pytest.raises(DataFormatError, match="annotation 0: expected an object of fields, not None"):
        ts.read(written(tmp_path / "a.pt", broken))
    with pytest.raises(DataFormatError, match="expected two lists"):
        ts.read(written(tmp_path / "b.pt", {**broken, "annotations": 3}))


def test_an_items_name_is_its_id_whatever_is_in_it(tmp_path: Path) -> None:
    item = {"filename": "1.jpg", "caption": "a red car", "negative_caption": "a blue car"}
    names = ["it's", '"a"', "a, item 'b'", "\\", "x" * 3000, "x" * 3001]
    data = ts.read(written(tmp_path / "add_att.json", dict.fromkeys(names, item)))
    assert [pair.id for pair in data.pairs] == names
    with pytest.raises(DataFormatError) as caught:
        ts.read(written(tmp_path / "swap.json", {"y": item, "x" * 3000: {**item, "caption": 3}}))
    assert "field 'caption'" in str(caught.value) and len(str(caught.value)) < 500


def test_a_broken_stream_and_an_endless_line_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = bytearray(gzip.compress(MCQ.encode() * 50, mtime=0))
    for at in range(12, len(packed), 3):
        path = tmp_path / "a.csv.gz"
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x5A]) + packed[at + 1 :])
        with pytest.raises(DataFormatError):
            ts.read(path)
    monkeypatch.setattr(tables, "LONGEST_LINE", 1000)
    for content in (f"a,{'b' * 2000}\n", MCQ + f'2.jpg,0,"{"c" * 2000}",d\n'):
        with pytest.raises(DataFormatError, match=r"a.csv:\d: a line of more than 1,000 characters"):
            ts.read(written(tmp_path / "a.csv", content), format="negbench-mcq")


def test_equal_ids_are_refused(tmp_path: Path) -> None:
    two = [{"correct": "a", "foil": "b", "id": "x"}, {"correct": "a", "foil": "c", "id": "x"}]
    with pytest.raises(DataFormatError, match="the id 'x' is given to more than one record"):
        ts.read(written(tmp_path / "pairs.jsonl", two))


def test_a_missing_image_is_counted_or_stops_the_run(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", MCQ)
    assert ts.read(path).missing_images == ("1.jpg",)
    assert "images missing: 1 files, 1 records without an image; the first is '1.jpg'" in ts.read(path).summary()
    with pytest.raises(DataFormatError, match=r"the image '1\.jpg' is not in"):
        ts.read(path, strict=True)


def test_nothing_outside_the_image_folder_is_found(tmp_path: Path) -> None:
    film(tmp_path / "secret.png")
    film(tmp_path / "images" / "deep" / "a.png")
    folder = ImageFolder(tmp_path / "images")
    for impossible in ("x" * 5000, "a\0b", "\ud800.png"):
        assert folder.find(impossible) is None
    assert folder.find("../secret.png") is None
    assert folder.find(str(tmp_path / "secret.png")) is None
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    assert folder.find("link.png") is None
    assert folder.find("C:\\data\\deep\\a.png") == str(tmp_path / "images" / "deep" / "a.png")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataFormatError, match="it is a pipe, and only regular files are read"):
        ts.read(tmp_path / "a.csv")


def test_a_format_may_be_named_and_an_unknown_one_lists_all(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", MCQ)
    assert ts.read(path, format="negbench-mcq").format == "negbench-mcq"
    with pytest.raises(DataFormatError, match="unknown format 'nebbench'; choose one of: pairs, claims"):
        ts.read(path, format="nebbench")


def test_a_broken_plugin_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "tracescribe_no_such_module:READER", registry.GROUP)
    monkeypatch.setattr(registry, "_READERS", {})
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    monkeypatch.setattr(registry, "_loaded", False)
    with pytest.warns(UserWarning, match="the reader 'mine' .* is left out"):
        assert "valse" in registry.formats()


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["a.csv", "a.json", "a.jsonl", "a.tsv", "a.csv.gz", "a.pt"]),
    content=st.one_of(
        st.binary(max_size=300),
        st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(alphabet='{}[]",:\\ntfu-0159 \n;\t', max_size=300).map(str.encode),
    ),
)
def test_any_bytes_give_records_or_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)
    try:
        ts.read(path)
    except TracescribeError as error:
        assert len(str(error)) < 1000

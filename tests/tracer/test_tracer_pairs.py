"""Reading pairs: every good file gives its pairs, every bad one names file, line and field."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import DataFormatError
from tracescribe.tracer.pairs.batch import as_pairs

captions = st.text(min_size=1, max_size=30).filter(lambda s: s.strip() and s.isprintable())
# U+2028 ends a line for str.splitlines but not in JSON; a quoted CSV cell may hold commas and line feeds.
awkward = st.sampled_from(["a\u2028b", 'say "no"', "left, not right", "mild\u00a0edema", "no 肺炎", "two\nlines"])


@settings(deadline=None)  # of a busy machine
@given(st.lists(st.tuples(captions | awkward, captions | awkward, captions), min_size=1, max_size=5))
def test_both_formats_give_back_what_was_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("pairs")
    expected = [ts.Pair(correct=c, foil=f, id=i) for c, f, i in rows]
    stripped = [ts.Pair(correct=c.strip(), foil=f.strip(), id=i.strip()) for c, f, i in rows]  # as CSV's headers are
    with (folder / "p.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"correct": c, "foil": f, "id": i}, ensure_ascii=False) + "\n" for c, f, i in rows)
    with (folder / "p.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("correct", "foil", "id"), *rows])
    assert ts.read_pairs(folder / "p.jsonl") == expected
    assert ts.read_pairs(folder / "p.csv") == stripped


GOOD = '{"correct": "no edema", "foil": "mild edema"}'


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_byte_order_mark_blank_lines_and_windows_line_ends(write):
    jsonl = write("p.jsonl", b"\xef\xbb\xbf" + f"\r\n{GOOD}\r\n\r\n  \r\n{GOOD}".encode())
    table = write("p.csv", b"\xef\xbb\xbfcorrect,foil\r\n\r\nno edema,mild edema\r\n,\r\nno edema,mild edema")
    assert ts.read_pairs(jsonl) == ts.read_pairs(table) == [ts.Pair(correct="no edema", foil="mild edema")] * 2


def test_numbers_are_names_and_empty_csv_cells_are_absent(write):
    (pair,) = ts.read_pairs(write("p.jsonl", '{"correct": "a", "foil": "b", "id": 7, "group": 12}'))
    assert (pair.id, pair.group) == ("7", "12")
    (pair,) = ts.read_pairs(write("p.csv", "correct,foil,group,negation\na,b,,foil"))
    assert (pair.group, pair.negation) == (None, "foil")


def test_images_are_found_beside_the_file(write, tmp_path, monkeypatch):
    write("film.png", b"")
    path = write("p.jsonl", '{"correct": "a", "foil": "b", "image": "film.png"}')
    monkeypatch.chdir("/")
    assert ts.read_pairs(path)[0].image == tmp_path / "film.png"


def test_a_target_text_may_be_given_as_files_write_it():
    pair = ts.Pair(correct="no edema", foil="an edema", image={"text": "Clear lungs."})
    assert pair.image == ts.Text("Clear lungs.")
    odd = ts.Pair(correct="no edema", foil="an edema", image={"text": 1})
    assert odd.image == {"text": 1}  # refused when it is encoded


def test_jsonl_images_may_be_embeddings_or_texts(write):
    path = write(
        "p.jsonl",
        '{"correct": "a", "foil": "b", "image": [1, 0.5]}\n{"correct": "a", "foil": "b", "image": {"text": "c"}}',
    )
    first, second = ts.read_pairs(path)
    np.testing.assert_array_equal(first.image, np.array([1, 0.5], dtype=np.float32))
    assert second.image == ts.Text("c")


def record(**fields):
    return json.dumps({"correct": "a", "foil": "c", **fields})


BAD = {
    "no such caption": ("p.jsonl", f"{GOOD}\n" + '{"correct": "a"}', 2, ["'foil'", "missing"]),
    "blank lines count": ("p.jsonl", f"\n\n{GOOD}\n\n" + '{"foil": "a"}', 5, ["'correct'"]),
    "broken json": ("p.jsonl", f"{GOOD}\n" + '{"correct": "a",', 2, ["not JSON", "column"]),
    "not an object": ("p.jsonl", f"{GOOD}\n[1]", 2, ["[1]"]),
    "unknown field": ("p.jsonl", '{"correct": "a", "foil": "b", "fiol": "c"}', 1, ["'fiol'", "correct, foil, image"]),
    "field twice": ("p.jsonl", '{"correct": "a", "correct": "b", "foil": "c"}', 1, ["'correct'", "twice"]),
    "empty caption": ("p.jsonl", '{"correct": " ", "foil": "c"}', 1, ["'correct'", "empty"]),
    "caption no text": ("p.jsonl", '{"correct": 5, "foil": "c"}', 1, ["'correct'", "5"]),
    "bad negation": ("p.jsonl", '{"correct": "a", "foil": "c", "negation": "both"}', 1, ["'negation'", "'both'"]),
    "not utf-8": ("p.jsonl", GOOD.encode() + b'\n{"correct": "\xff"}', 2, ["UTF-8", "0xff"]),
    "image missing": ("p.jsonl", '{"correct": "a", "foil": "c", "image": "gone.png"}', 1, ["'image'", "gone.png"]),
    "image a number": ("p.jsonl", '{"correct": "a", "foil": "c", "image": 3}', 1, ["'image'", "3"]),
    "image not finite": ("p.jsonl", '{"correct": "a", "foil": "c", "image": [NaN]}', 1, ["NaN"]),
    "csv row too long": ("p.csv", "correct,foil\na,b\nno, not a,b", 3, ["3 cells for 2 columns"]),
    "csv row too short": ("p.csv", "correct,foil\na", 2, ["1 cells for 2 columns"]),
    "csv after a long cell": ("p.csv", 'correct,foil\n"a\nb",c\n"d\ne",', 4, ["'foil'", "empty"]),
    "csv quote open": ("p.csv", 'correct,foil\na,b\n"c,d\n', 3, ["not a table", "unexpected end"]),
    "csv unknown column": ("p.csv", "correct,foil,fiol\na,b,c", 1, ["'fiol'", "correct, foil, image"]),
    "csv column twice": ("p.csv", "correct,foil,foil\na,b,c", 1, ["'foil'", "twice"]),
    "csv column missing": ("p.csv", "\ncorrect,id\na,b", 2, ["'foil'"]),
    "csv of pandas, read and written": ("p.csv", "Unnamed: 0,correct,foil\n0,a,b", 1, ["index=False"]),
    "image of Windows": ("p.jsonl", record(image="films\\a.png"), 1, ["separate folders by /"]),
    "image absolute": ("p.jsonl", record(image="/etc/passwd"), 1, ["leads out", "outside_images"]),
    "image of a drive": ("p.jsonl", record(image="C:/a.png"), 1, ["leads out"]),
    "image above": ("p.jsonl", record(image="x/../../a.png"), 1, ["leads out"]),
    "image with NUL": ("p.jsonl", record(image="\0"), 1, ["'image'", "no image file"]),
    "image of a long name": ("p.jsonl", record(image="x" * 5000), 1, ["no image file"]),
    "image of huge numbers": ("p.jsonl", record(image=[10**400]), 1, ["401 digits", "too large"]),
    "number of 5,000 digits": ("p.jsonl", record(id="")[:-3] + "9" * 5000 + "}", 1, ["digits"]),
    "half a character": ("p.jsonl", record(correct="a\ud800"), 1, ["half of a character"]),
    "half a character in a name": ("p.jsonl", record(id="\udfff"), 1, ["half of a character"]),
    "truth as a name": ("p.jsonl", '{"correct": "a", "foil": "c", "id": true}', 1, ["'id'", "True"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_names_file_line_and_field(write, case):
    name, content, line, words = BAD[case]
    path = write(name, content)
    with pytest.raises(DataFormatError) as caught:
        ts.read_pairs(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.jsonl", ""), ("p.jsonl", "\n \n"), ("p.csv", ""), ("p.csv", "correct,foil\n"), ("p.txt", GOOD)],
)
def test_files_without_pairs_are_refused(write, name, content):
    path = write(name, content)
    with pytest.raises(DataFormatError, match=name):
        ts.read_pairs(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "gone.jsonl", tmp_path / "folder.csv"):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(DataFormatError, match=path.name):
            ts.read_pairs(path)


def test_images_outside_the_folder_are_taken_when_asked(write, tmp_path):
    film = write("film.png", b"")
    (tmp_path / "data").mkdir()
    for name in ("../film.png", str(film)):
        path = write("data/p.jsonl", json.dumps({"correct": "a", "foil": "b", "image": name}))
        with pytest.raises(DataFormatError, match=r"leads out of the folder.*outside_images=True"):
            ts.read_pairs(path)
        assert ts.read_pairs(path, outside_images=True)[0].image.samefile(film)
    (tmp_path / "data" / "link").symlink_to(tmp_path)  # a link that the user made is part of the folder
    path = write("data/p.jsonl", '{"correct": "a", "foil": "b", "image": "link/film.png"}')
    assert ts.read_pairs(path)[0].image.samefile(film)
    path = write("data/p.jsonl", '{"correct": "a", "foil": "b", "image": "x/../link/film.png"}')
    with pytest.raises(DataFormatError, match="no image file"):
        ts.read_pairs(path)


def test_csv_cells_are_stripped_as_headers_are(write):
    (pair,) = ts.read_pairs(write("p.csv", " correct , foil, group ,id\n no edema , mild edema,  p1 ,   "))
    assert pair == ts.Pair(correct="no edema", foil="mild edema", group="p1")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_of_spreadsheets_and_of_pandas_are_read(write, mark, encoding):
    rows = [["", "correct", "foil", "id"], ["0", '"no œdema"', '"mild\nœdema"', "p1"], ["1", "a", "b", ""]]
    text = "\r\n".join(mark.join(row) for row in rows)
    first, second = ts.read_pairs(write("p.csv", text.encode(encoding)))
    assert (first.correct, first.foil, first.id, second.id) == ("no œdema", "mild\nœdema", "p1", None)


def test_whole_numbers_are_names_in_every_record():
    for number in (7, np.int64(7), np.uint8(7)):
        pair = ts.Pair(correct="a", foil="b", id=number, group=number, template=number)
        image = ts.ImagePair(image="a.png", counterfactual="b.png", caption="c", id=number, group=number)
        assert (pair.id, pair.group, pair.template, image.id, image.group) == ("7",) * 5
        claim = ClaimRecord(id=number, image="a", claims=["a", "b"], label=0, attribute="c", group=number)
        caption = CaptionRecord(id=number, image="a", caption="c", group=number)
        assert (claim.id, claim.group, caption.id, caption.group) == ("7",) * 4


NOT_PAIRS = {
    "a tuple": (
        [("no edema", "edema")],
        r"pair 0 is a tuple, not a Pair: \('no edema'.*; give ts\.Pair\(correct=",
    ),
    "a pair of texts": (("no edema", "edema"), r"pair 0 is a str, not a Pair"),
    "another name": ([{"correct": "a", "fiol": "b"}], "pair 0: field 'foil': it is missing"),
    "a fraction as a name": ([{"correct": "a", "foil": "b", "id": 1.5}], "pair 0: field 'id'.*not 1.5"),
    "missing in pandas": ([{"correct": "a", "foil": "b", "id": float("nan")}], "'id'.*give None where"),
    "a path": ("pairs.jsonl", "read a file with read_pairs"),
    "nothing": ([], "the list is empty"),
}


@pytest.mark.parametrize("case", NOT_PAIRS)
def test_what_is_no_list_of_pairs_is_refused_in_a_sentence(case):
    given, message = NOT_PAIRS[case]
    with pytest.raises(DataFormatError, match=message) as caught:
        as_pairs(given)
    assert "\n" not in str(caught.value)


def test_a_table_of_pandas_is_given_as_records():
    import pandas as pd

    table = pd.DataFrame([{"correct": "a", "foil": "b", "group": 3}])
    with pytest.raises(DataFormatError, match=r'got a table: give table.to_dict\("records"\)'):
        as_pairs(table)
    assert as_pairs(table.to_dict("records")) == [ts.Pair(correct="a", foil="b", group="3")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_pipes_devices_and_folders_are_refused_without_waiting(tmp_path, ending):
    pipe, device, folder = (tmp_path / f"{name}.{ending}" for name in ("pipe", "zero", "folder"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    for path, kind in ((pipe, "a pipe"), (device, "a device"), (folder, "a folder")):
        with pytest.raises(DataFormatError, match=f"it is {kind}, and only regular files are read"):
            ts.read_pairs(path)

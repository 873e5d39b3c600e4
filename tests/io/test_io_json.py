"""JSON is read strictly, and a file to read cannot hang, fill the memory or crash its reader."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracescribe.errors import DataFormatError
from tracescribe.io import json_lines, reading
from tracescribe.io.json_lines import MAX_DEPTH, MAX_LINE, parse_json, read_json, read_jsonl
from tracescribe.io.reading import open_regular, read_text

REFUSED = {
    "twice": ('{"a": 1, "a": 2}', "field 'a' is given twice"),
    "NaN": ('{"a": NaN}', "NaN is not a number"),
    "infinity": ('{"a": -Infinity}', "-Infinity is not a number"),
    "overflow": ('{"a": 1e999}', "1e999' is too large"),
    "digits": ('{"a": ' + "9" * 5000 + "}", "an integer of 5,000 digits is too large"),
    "negative digits": ('{"a": -' + "9" * 400 + "}", "an integer of 400 digits is too large"),
    "deep": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 64 levels"),
    "a little deep": ('{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "nested deeper than 64 levels"),
    "surrogate": ('{"a": "\\ud800"}', "half of a character"),
    "surrogate in a name": ('{"\\uDFFF": 1}', "half of a character"),
    "cut short": ('{"a": 1', "not JSON"),
    "nothing": ("nul", "not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_names_file_and_line(tmp_path: Path, case: str) -> None:
    text, reason = REFUSED[case]
    lines, document = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text('{"good": 1}\n\n' + text + "\n")
    document.write_text("\n\n" + text)
    with pytest.raises(DataFormatError) as caught:
        list(read_jsonl(lines))
    assert str(caught.value).startswith(f"{lines}:3: ") and reason in str(caught.value)
    with pytest.raises(DataFormatError) as caught:
        read_json(document)
    assert str(caught.value).startswith(str(document)) and reason in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(document))


def test_what_is_accepted(tmp_path: Path) -> None:
    deepest = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + f'{{"a": {deepest}, "b": "[[[[{"[" * 200}", "c": -9223372036854775808, "d": 1e-400}}\r\n'.encode()
        + '{"e": "\\ud83d\\ude00\u2028severe → no"}'.encode()
    )
    (_, first), (number, second) = read_jsonl(path)
    assert first["c"] == -(2**63) and first["d"] == 0.0
    assert number == 2 and second == {"e": "😀\u2028severe → no"}
    assert parse_json('"\\ud800"', "x", lone_surrogates=True) == "\ud800"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:0123456789eE+-.NaInfity \\ud8\n', max_size=40).map(str.encode))
@example(b'{"a":' * 3000)
def test_any_bytes_are_records_or_one_of_our_errors(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(raw)
    for read in (lambda: list(read_jsonl(path)), lambda: read_json(path)):
        try:
            found = read()
        except DataFormatError:
            continue
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()  # what is read can be written


def test_a_line_of_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as handle:
        handle.write(b'{"a": 1}\n')
        handle.truncate(2**30)  # zeros without end
    tracemalloc.start()
    with pytest.raises(DataFormatError, match=r"long\.jsonl:2: a line of more than 4,194,304 bytes"):
        list(read_jsonl(path))
    assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE
    tracemalloc.stop()


def test_files_over_the_limit_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    with path.open("wb") as handle:
        handle.truncate(2**40)
    for read in (read_text, read_json, lambda path: list(read_jsonl(path))):
        with pytest.raises(DataFormatError, match="it has 1,099,511,627,776 bytes, and at most"):
            read(path)
    monkeypatch.setattr(json_lines, "MAX_LINES", 20)
    path.write_text('{"a": 1}\n' * 2)
    with open_regular(path) as grown:
        monkeypatch.setattr(json_lines, "open_regular", lambda *_: grown)
        with path.open("a") as handle:
            handle.write('{"a": 1}\n' * 2)
        with pytest.raises(DataFormatError, match="more than 20 bytes"):
            list(read_jsonl(path))
    monkeypatch.setattr(reading.os, "fstat", lambda _: os.stat_result((0o100644, *[0] * 9)))
    with pytest.raises(DataFormatError, match="more than the 30 bytes"):  # as of files of /proc, which state no size
        read_text(path, 30)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        tmp_path / "pipe": "it is a pipe",
        "/dev/zero": "it is a device",
        tmp_path: "it is a folder",
        tmp_path / "none": "No such file",
        tmp_path / "loop": "symbolic links",
        "a\0b": "null byte",
        "half \ud800": "no file can have this name",
        "x" * 300: "File name too long",
    }
    for path, reason in cases.items():
        for read in (read_text, read_json, lambda path: list(read_jsonl(path))):
            with pytest.raises(DataFormatError, match=reason) as caught:
                read(path)
            assert len(str(caught.value)) < 500
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "text"

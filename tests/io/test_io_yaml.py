"""YAML is read in time that grows with its length, and holds nothing but plain values of a plain size."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.guard import limited

from tracescribe.errors import DataFormatError
from tracescribe.io.yaml_files import MAX_BYTES, parse_yaml, read_yaml

NESTED = "nested deeper than 64 levels"
REFUSED = {
    "brackets": ("[" * 100_000, NESTED),
    "brackets that close": ("[" * 1000 + "]" * 1000, NESTED),
    "mappings": ("{a: " * 30_000, NESTED),
    "dashes": ("- " * 30_000, NESTED),
    "keys of keys": ("? " * 30_000, NESTED),
    "indentation": ("\n".join(" " * level + "a:" for level in range(400)), NESTED),
    "an alias": ("a: &a 1\nb: *a", "aliases"),
    "a Python object": ("!!python/object/apply:os.system ['touch hacked']", "could not determine a constructor"),
    "digits": ("a: " + "9" * 5000, "4300 digits"),
    "digits that Python reads": ("a: 1" + "0" * 20, "an integer is too large (line 1)"),
    "a time of day that never ends": ("a: 1\nb: 190:20" + ":59" * 5000, "an integer is too large (line 2)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_take_long_or_mean_more_than_values_is_refused(name: str) -> None:
    text, reason = REFUSED[name]
    with limited(2), pytest.raises(DataFormatError) as caught:  # 4,000 brackets took 11 s
        parse_yaml(text, "study.yaml: not YAML")
    assert str(caught.value).startswith("study.yaml: not YAML: ")
    assert reason in str(caught.value)


def test_nesting_up_to_the_limit_is_read() -> None:
    found = parse_yaml("[" * 64 + "]" * 64, "")
    for _ in range(63):
        (found,) = found
    assert found == []
    assert parse_yaml("\n".join(["- [1, {a: 2}]"] * 100), "") == [[1, {"a": 2}]] * 100


def test_a_file_of_megabytes_is_none_that_a_person_wrote(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a: 1\n" + "#" * MAX_BYTES)
    with pytest.raises(DataFormatError, match=r"run\.yaml.*at most 131,072 are read"):
        read_yaml(path)

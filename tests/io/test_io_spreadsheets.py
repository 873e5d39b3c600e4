"""A CSV file that tracescribe writes runs no formula in a spreadsheet, and says the same when it is read back."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracescribe.benchmark.tables import as_table
from tracescribe.io.spreadsheets import guarded, unguarded
from tracescribe.io.tables import write_csv

FORMULAS = ("=1+1", '=HYPERLINK("http://a.b")', "+x", "-2+3|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "--")
PLAIN = ("a=b", "-", "=", "x", "", "'tis", "-1.5", "+3", "1e-5", "-3.2 [-4.0, 1.5]", "-3.2*", "[0.1, -0.2]", "–")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_stands_after_an_apostrophe(text: str) -> None:
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_none_stays_as_it_is(text: str) -> None:
    assert guarded(text) == text


@given(st.text("'=+-@\t\r＝a1. [,]", max_size=8))
def test_every_text_comes_back(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert unguarded(text) == text or guarded(unguarded(text)) == text


def test_tables_of_every_kind_are_guarded(tmp_path: Path) -> None:
    frame = pd.DataFrame({"=name": ["=1+1", None, "a\rb"], "n": [-1.5, float("nan"), 2.0]})
    write_csv(frame, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["'=name", "n"], ["'=1+1", "-1.5"], ["", ""], ["a\rb", "2.0"]]
    table = as_table(["model", "+gap"], [["=cmd", "-1.0 [-2.0, 0.5]"]], "csv")
    assert table == "model,'+gap\n'=cmd,\"-1.0 [-2.0, 0.5]\""

"""Comparisons and circuits as files: what is read is what was written, and damage is refused; their pages."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import synthetic_trace

import tracescribe as ts
from tracescribe.errors import DataFormatError, OutputError, TraceError
from tracescribe.io.records import read_record, write_record
from tracescribe.io.tensors import CHECKSUM, read_tensors, write_tensors
from tracescribe.tracer import Circuit, TraceComparison, load_circuit, load_comparison

EVIL = "<script>alert(1)</script>"


def a_comparison(ci: float | None = 0.95, layers: int = 8) -> TraceComparison:
    first, second = (synthetic_trace(n_pairs=12, seed=seed, share_inverted=0) for seed in (0, 1))
    if layers < 8:
        patched = second.scores.patched[:, : layers + 1]
        second = replace(second, scores=replace(second.scores, patched=patched))
    return ts.compare(first, second, names=(EVIL, "after"), ci=ci, n_boot=50)


def a_circuit(**changes: Any) -> Circuit:
    given: dict[str, Any] = {
        "layer": np.array([2, 5]),
        "rows": (EVIL, "[end]"),
        "alone": np.array([0.6, 0.3]),
        "shares": np.array([0.6, 0.91]),
        "stability": np.array([1.0, 0.4]),
        "n_cells": 40,
        "method": "greedy",
        "wanted": 0.9,
        "whole": 1.0,
        "n_layers": 8,
        "n_pairs": 12,
        "lo": 0.8,
        "hi": 0.95,
        "ci": 0.95,
        "provenance": {"model": EVIL},
    }
    return Circuit(**given | changes)


def test_a_layer_whose_cells_lessen_the_share_gets_what_one_without_a_cell_gets() -> None:
    plan = ts.prescribe(a_circuit(shares=np.array([0.95, 0.91])))
    assert plan.alpha.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def same(one: Any, two: Any) -> None:
    """All fields are equal, bit for bit."""
    assert type(one) is type(two)
    for entry in fields(one):
        ours, theirs = getattr(one, entry.name), getattr(two, entry.name)
        if hasattr(ours, "difference"):
            same(ours, theirs)
        elif isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), entry.name
        else:
            assert ours == theirs, entry.name


@pytest.mark.parametrize("made", [a_comparison(), a_comparison(ci=None), a_comparison(layers=5)], ids=range(3))
def test_a_comparison_is_read_as_it_was_written(made: TraceComparison, tmp_path: Path) -> None:
    made.save(tmp_path / "c.safetensors")
    found = load_comparison(tmp_path / "c.safetensors")
    same(made, found)
    assert found.summary() == made.summary() and found.cells.rank_agreement == made.cells.rank_agreement
    assert found.provenance["first"]["site"] == "resid"
    found.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    with pytest.raises(ValueError, match="read-only"):
        found.cells.difference[0] = 1


WITHOUT_DRAWS = {"lo": None, "hi": None, "ci": None, "stability": np.full(2, np.nan)}  # all pairs of one cluster


@pytest.mark.parametrize("changes", [{}, {"lo": None, "hi": None, "ci": None}, WITHOUT_DRAWS], ids=range(3))
def test_a_circuit_is_read_as_it_was_written(changes: dict[str, Any], tmp_path: Path) -> None:
    made = a_circuit(**changes)
    made.save(tmp_path / "c.json")
    found = load_circuit(tmp_path / "c.json")
    same(made, found)
    np.testing.assert_array_equal(ts.prescribe(found).alpha, ts.prescribe(made).alpha)


def test_a_damaged_comparison_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    a_comparison().save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(DataFormatError):
            load_comparison(path)
    path.write_bytes(whole)
    file = read_tensors(path)
    tensors = {key: np.array(array) for key, array in file.tensors.items()}  # the file is written again below
    metadata = {key: text for key, text in file.metadata.items() if key != CHECKSUM}

    def sealed(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
        buffer = io.BytesIO()
        write_tensors(buffer, tensors, metadata)
        path.write_bytes(buffer.getvalue())

    facts = json.loads(metadata["facts"])
    bad_facts = [{"ci": 95.0}, {"n_pairs": [1]}, {"reduce": "sum"}, {"paired": 1}, {"other": 1}, {"matching": None}]
    for change in bad_facts:
        sealed(tensors, {**metadata, "facts": json.dumps({**facts, **change})})
        with pytest.raises(DataFormatError, match="is damaged"):
            load_comparison(path)
    wrong = {
        "cells.p": tensors["cells.p"][:-1],
        "profile.lo": tensors["profile.lo"].astype(np.float32),
        "layers": tensors["layers"][::-1].copy(),
        "depth": tensors["depth"][:-1],
    }
    for name, array in wrong.items():
        sealed({**tensors, name: array}, metadata)
        with pytest.raises(DataFormatError, match="is damaged"):
            load_comparison(path)
    sealed({name: array for name, array in tensors.items() if name != "alpha.q"}, metadata)
    with pytest.raises(DataFormatError, match=r"has no 'alpha\.q'"):
        load_comparison(path)
    synthetic_trace(4).save(path)
    with pytest.raises(DataFormatError, match=r"has format 'tracescribe\.trace/2'"):
        load_comparison(path)


def test_a_damaged_circuit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    a_circuit().save(path)
    path.write_text(path.read_text().replace("0.91", "0.92"))
    with pytest.raises(DataFormatError, match="changed or damaged"):
        load_circuit(path)
    a_circuit().save(path)
    record = read_record(path)
    for change in (
        {"layer": [2, 99]},
        {"rows": ["a"]},
        {"alone": ["x", 1]},
        {"n_pairs": 0},
        {"extra": 1},
        {"format": "x"},
    ):
        write_record(path, {**record, **change})
        with pytest.raises(DataFormatError, match=r"is damaged|has format"):
            load_circuit(path)
    with pytest.raises(TraceError, match="at least one cell"):
        a_circuit(layer=np.array([], dtype=int), rows=(), alone=np.zeros(0), shares=np.zeros(0), stability=np.zeros(0))
    with pytest.raises(OutputError, match="not JSON"):
        a_circuit(provenance={"a": {1, 2}}).save(tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_pages_say_the_numbers_and_keep_text_as_text(tmp_path: Path) -> None:
    found = a_comparison()
    found.report(tmp_path / "c.html")
    said = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<script>alert" not in said and "&lt;script&gt;alert(1)" in said
    page = ts.viz.comparison_page(found)
    tables = {section.heading: section.tables for section in page.sections}
    by_layer = tables["By layer"][0].rows
    np.testing.assert_array_equal([row[3] for row in by_layer], found.profile.difference)
    listed = tables["Where they differ"][0].rows
    assert listed[0][4] == found.to_frame().query("quantity == 'cte'").sort_values("q").iloc[0]["difference"]
    assert len(tables["How it came about"]) == 2
    circuit = a_circuit()
    circuit.report(tmp_path / "k.html")
    assert "<script>alert" not in (tmp_path / "k.html").read_text(encoding="utf-8")
    page = ts.viz.circuit_page(circuit)
    assert page.lead.startswith("2 cells of 40 carry 0.91 (interval 0.80 … 0.95)")
    assert "1 cell would be chosen again in less than half" in str(page.sections[0].notes)
    # without intervals
    ts.viz.report(tmp_path / "n.html", ts.viz.comparison_page(a_comparison(ci=None), title="mine"))
    assert "<title>mine" in (tmp_path / "n.html").read_text(encoding="utf-8")

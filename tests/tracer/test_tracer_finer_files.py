"""Results of finer cells as files: what is read is what was written; damage is refused; pages."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    synthetic_head_edges,
    synthetic_knock_out,
    synthetic_negator_attention,
    synthetic_neurons,
    synthetic_trace,
)

import tracescribe as ts
from tracescribe.errors import DataFormatError, OutputError, TraceError
from tracescribe.io.tensors import CHECKSUM, read_tensors, write_tensors
from tracescribe.tracer import load_head_edges, load_knock_out, load_negator_attention, load_neurons

EVIL = "<script>alert(1)</script>"
KINDS: dict[str, tuple[Callable[..., Any], Callable[[Path], Any]]] = {
    "neurons": (synthetic_neurons, load_neurons),
    "head_edges": (synthetic_head_edges, load_head_edges),
    "knock_out": (synthetic_knock_out, load_knock_out),
    "negator_attention": (synthetic_negator_attention, load_negator_attention),
}


def same(one: Any, two: Any) -> None:
    """All fields are equal, bit for bit."""
    assert type(one) is type(two)
    for entry in fields(one):
        ours, theirs = getattr(one, entry.name), getattr(two, entry.name)
        if entry.name == "traces":
            assert list(ours) == list(theirs)
            for query in ours:
                same(ours[query], theirs[query])
        elif hasattr(ours, "patched"):
            same(ours, theirs)
        elif isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), entry.name
        else:
            assert ours == theirs, entry.name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_written(kind: str, tmp_path: Path) -> None:
    make, load = KINDS[kind]
    made = make()
    made.save(tmp_path / "a.safetensors")
    found = load(tmp_path / "a.safetensors")
    same(made, found)
    assert found.summary() == made.summary() and found.to_frame().equals(made.to_frame())
    found.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_names_that_few_files_can_hold_come_back(tmp_path: Path) -> None:
    """Rows by position are tokens, and some tokenizers have halves of characters."""
    rows = ("\ud83e", "[end]")
    made = synthetic_neurons(rows=rows, row=tuple(rows[name == "[end]"] for name in synthetic_neurons().row))
    made.save(tmp_path / "n.safetensors")
    assert load_neurons(tmp_path / "n.safetensors").rows == rows
    attending = synthetic_negator_attention(
        negators=(("\ud83e", ""),) * 6, ids=("a\nb",) * 6, ci=None, lo=None, hi=None
    )
    attending.save(tmp_path / "a.safetensors")
    same(attending, load_negator_attention(tmp_path / "a.safetensors"))
    cut = synthetic_knock_out()
    ts.tracer.KnockOut({"\ud83e": cut.traces["[end]"]}, "position").save(tmp_path / "k.safetensors")
    assert load_knock_out(tmp_path / "k.safetensors").queries == ("\ud83e",)


def test_arrays_cannot_be_changed_and_others_types_are_taken() -> None:
    layers = np.array([1, 2, 1, 3, 2], dtype=np.int32)
    found = synthetic_neurons(layer=layers)
    assert found.layer.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        found.effects[0, 0] = 1


def sealed(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A file whose checksum fits what it holds."""
    buffer = io.BytesIO()
    write_tensors(buffer, tensors, metadata)
    path.write_bytes(buffer.getvalue())


def content(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    file = read_tensors(path)
    tensors = {key: np.array(array) for key, array in file.tensors.items()}
    return tensors, {key: text for key, text in file.metadata.items() if key != CHECKSUM}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_changed_or_cut_or_is_another_is_refused(kind: str, tmp_path: Path) -> None:
    make, load = KINDS[kind]
    path = tmp_path / "a.safetensors"
    make().save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:40], b"", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(DataFormatError):
            load(path)
    synthetic_trace(4).save(path)
    with pytest.raises(DataFormatError, match=rf"has format 'tracescribe\.trace/2', expected 'tracescribe\.{kind}/1'"):
        load(path)
    make().save(path)
    for other, (_, read) in KINDS.items():
        if other != kind:
            with pytest.raises(DataFormatError, match=f"expected 'tracescribe.{other}/1'"):
                read(path)
    with pytest.raises(DataFormatError, match=f"has format 'tracescribe.{kind}/1'"):
        ts.load_trace(path)
    with pytest.raises(DataFormatError, match="No such file"):
        load(tmp_path / "none.safetensors")


WRONG: dict[tuple[str, str], tuple[np.ndarray, str]] = {
    ("neurons", "layer"): (np.array([1, 2, 1, 4, 2]), "within 1 to 3"),
    ("neurons", "neuron"): (np.array([3, 0, -1, 2, 2]), "within 0 to 3"),
    ("neurons", "estimate"): (np.array([0.1, np.nan, 0, 0, 0]), "finite"),
    ("neurons", "chosen"): (np.zeros(5, dtype=bool), "a chosen cell"),
    ("neurons", "effects"): (np.full((5, 6), 3.0), "effects holds 3, but differences of cosines"),
    ("neurons", "together"): (np.full(6, np.nan), "together holds nan"),
    ("neurons", "denominator"): (np.array([0.0, *[0.1] * 5]), "are not 0"),
    ("neurons", "clusters"): (np.arange(5), "clusters has shape"),
    ("neurons", "texts"): (np.arange(12).reshape(6, 2), "texts must have 1 axes"),
    ("negator_attention", "negated"): (np.full((6, 3, 2), 1.1, np.float32), r"holds 1\.1, but it lies between 0 and 1"),
    ("negator_attention", "affirmative"): (np.full((6, 3, 2), np.nan, np.float32), "affirmative holds nan"),
    ("negator_attention", "selectivity"): (np.full((6, 3, 2), 0.95, np.float32), "does not fit the attentions"),
    ("negator_attention", "texts"): (np.arange(5), "texts has shape"),
    ("negator_attention", "lo"): (np.full((3, 2), 0.95), "must not lie above hi"),
    ("negator_attention", "hi"): (np.full((3, 2), np.nan), "must not lie above hi"),
}


@pytest.mark.parametrize(("kind", "name"), WRONG, ids=" ".join)
def test_arrays_that_cannot_be_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    (make, load), (wrong, sentence) = KINDS[kind], WRONG[kind, name]
    with pytest.raises(TraceError, match=sentence):
        make(**{name: wrong})
    path = tmp_path / "n.safetensors"
    make().save(path)
    tensors, metadata = content(path)
    sealed(path, {**tensors, name: wrong}, metadata)
    with pytest.raises(DataFormatError, match=f"is damaged.*{sentence}"):
        load(path)
    sealed(path, {**tensors, name: tensors[name].astype(np.float16)}, metadata)
    with pytest.raises(DataFormatError, match=f"'{name}' holds float16 numbers"):
        load(path)
    sealed(path, {key: array for key, array in tensors.items() if key != name}, metadata)
    with pytest.raises(DataFormatError, match="has lo, hi and a ci" if name in ("lo", "hi") else f"has no '{name}'"):
        load(path)


def test_facts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for kind, changes in (
        ("neurons", ({"n_cells": 25}, {"n_layers": 2}, {"n_neurons": 0}, {"segment": 1}, {"more": 1})),
        ("head_edges", ({"inputs": "z"}, {"provenance": []}, {"segment": None})),
        ("negator_attention", ({"ci": 2.0}, {"ci": None}, {"ci": "0.95"}, {"more": 1}, {"provenance": 3})),
    ):
        make, load = KINDS[kind]
        make().save(path)
        tensors, metadata = content(path)
        for change in changes:
            sealed(path, tensors, {**metadata, "facts": json.dumps({**json.loads(metadata["facts"]), **change})})
            with pytest.raises(DataFormatError, match="is damaged"):
                load(path)
    for wrong in ({"row": ("[end]",) * 4}, {"row": ("x",) * 5}, {"rows": ("before", "[end]", "more")}):
        with pytest.raises(TraceError, match=r"a row that a pair has|are not 24 cells"):
            synthetic_neurons(**wrong)


def test_edges_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    made = synthetic_head_edges()
    made.save(path)
    tensors, metadata = content(path)
    back, missing, large = (made.effects.copy() for _ in range(3))
    back[:, 1, 0, 0, 0], missing[2, 0, 0, 1, 1], large[0, 0, 0, 1, 0] = 0.1, np.nan, -2.5
    for wrong, sentence in (
        (back, "leads to a later layer"),
        (missing, "holds nan"),
        (large, r"holds -2\.5"),
        (made.effects[:, :, :, :2], "has shape"),
        (made.effects[:, :1, :, :1], "need 2 layers"),
        (made.effects[:0], "has shape"),
        (made.effects[..., 0], "must have 5 axes"),
    ):
        sealed(path, {**tensors, "effects": wrong}, metadata)
        with pytest.raises(DataFormatError, match=f"is damaged.*{sentence}"):
            load_head_edges(path)


def test_knock_outs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.safetensors"
    synthetic_knock_out().save(path)
    tensors, metadata = content(path)
    told = json.loads(metadata["traces"])
    other = [told[0], {**told[1], "provenance": json.dumps({"site": "mlp"})}]
    for change in (
        {"align": "word"},
        {"traces": "[]"},
        {"traces": "{}"},
        {"traces": json.dumps(told[:1])},
        {"traces": json.dumps([told[0], 3])},
        {"traces": json.dumps(other)},
    ):
        sealed(path, tensors, {**metadata, **change})
        with pytest.raises(DataFormatError, match="is damaged"):
            load_knock_out(path)
    sealed(path, {key: array for key, array in tensors.items() if key != "1.scores.foil"}, metadata)
    with pytest.raises(DataFormatError, match=r"has no 'scores\.foil'"):
        load_knock_out(path)
    sealed(path, {**tensors, "0.scores.correct": tensors["0.scores.correct"] + 2}, metadata)
    with pytest.raises(DataFormatError, match="cosines lie between"):
        load_knock_out(path)
    for wrong, sentence in (
        ({"traces": {}}, "at least one row"),
        ({"traces": {"[end]": synthetic_trace(4)}}, "none of attention that is cut"),
        ({"align": "word"}, "unknown align 'word'"),
    ):
        with pytest.raises(TraceError, match=sentence):
            synthetic_knock_out(**wrong)


def test_negator_attention_of_pairs_that_are_not_as_many_is_refused() -> None:
    for few in ({"ids": ("a",)}, {"groups": ()}, {"negators": (("no", "some"),) * 7}):
        with pytest.raises(TraceError, match="of 6 pairs"):
            synthetic_negator_attention(**few)
    empty = np.zeros((0, 3, 2))
    with pytest.raises(TraceError, match="at least one pair"):
        synthetic_negator_attention(0, selectivity=empty, negated=empty, affirmative=empty, negators=())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_json_is_not_written(kind: str, tmp_path: Path) -> None:
    for about in ({"a": {1, 2}}, {"a": float("nan")}):
        if kind == "knock_out":
            cut = synthetic_knock_out()
            trace = cut.traces["[end]"]
            made: Any = ts.tracer.KnockOut({"[end]": replace(trace, provenance={**trace.provenance, **about})})
        else:
            made = KINDS[kind][0](provenance=about)
        with pytest.raises(OutputError, match="not JSON"):
            made.save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_largest_edge_between_layers_and_the_largest_cut() -> None:
    edges = synthetic_head_edges()
    cells, cte = edges.by_layer(), edges.cte
    assert cells.rows == ("to layer 2", "to layer 3") and cells.layers.tolist() == [1, 2]
    assert np.isnan(cells.values[1, 0])
    for sender, receiver in ((0, 1), (0, 2), (1, 2)):
        between = cte[sender, :, receiver]
        assert cells.values[sender, receiver - 1] == between.flat[np.abs(between).argmax()]
    cut = synthetic_knock_out()
    largest = cut.largest()
    assert {each.query for each in largest} == set(cut.queries)
    for each in largest:
        found = cut.map(each.query)
        assert found.row(each.key)[found.layers.tolist().index(each.layer)] == each.cte
        assert abs(each.cte) == np.nanmax(np.abs(found.values))
    assert abs(largest[0].cte) >= abs(largest[1].cte)


def test_pages_say_the_numbers_and_keep_text_as_text(tmp_path: Path) -> None:
    neurons = synthetic_neurons(provenance={"model": EVIL})
    page = ts.viz.neurons_page(neurons)
    rows = page.sections[1].tables[0].rows
    assert [row[2] for row in rows] == neurons.neuron[:4].tolist()
    np.testing.assert_array_equal([row[4] for row in rows], neurons.cte[:4])
    assert not [note for note in page.sections[1].notes if note.kind == "caution"]
    missed = synthetic_neurons(chosen=np.array([True, True, True, False, True]))  # the one of CTE 0.1 by chance
    notes = ts.viz.neurons_page(missed).sections[1].notes
    assert [note.kind for note in notes] == ["note", "caution"] and "miss neurons" in notes[1].text
    edges = synthetic_head_edges(provenance={"model": EVIL})
    first = edges.to_frame().to_dict("records")[0]
    row = ts.viz.head_edges_page(edges).sections[1].tables[0].rows[0]
    assert row[:2] == [f"{first['layer']}.{first['head']}", f"{first['receiver_layer']}.{first['receiver_head']}"]
    assert row[2] == first["cte"] and f"{first['lo']:.3f}".lstrip("-") in row[3]
    cut = synthetic_knock_out()
    listed = ts.viz.knock_out_page(cut, title="mine").sections[0].tables[0].rows
    assert [line[3] for line in listed] == [each.cte for each in cut.largest()]
    attending = synthetic_negator_attention(negators=((EVIL, "some"),) * 6)
    frame = attending.to_frame()
    rows = ts.viz.negator_attention_page(attending).sections[1].tables[0].rows
    assert rows[0][0] == "2.1" and [row[1] for row in rows] == sorted(frame["selectivity"], reverse=True)
    for name, made in (("n", neurons), ("e", edges), ("k", cut), ("a", attending)):
        path = made.report(tmp_path / f"{name}.html")
        assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_without_intervals_pages_have_a_gap_there() -> None:
    """All pairs of one cluster."""
    neurons = synthetic_neurons(clusters=np.zeros(6, dtype=int))
    assert neurons.interval() is None
    assert {row[5] for row in ts.viz.neurons_page(neurons).sections[1].tables[0].rows} == {""}
    edges = synthetic_head_edges(clusters=np.zeros(6, dtype=int))
    assert {row[3] for row in ts.viz.head_edges_page(edges).sections[1].tables[0].rows} == {""}
    attending = synthetic_negator_attention(groups=("a",) * 6, ci=None, lo=None, hi=None)
    assert attending.interval() is None and attending.to_frame()["lo"].isna().all()
    assert {row[2] for row in ts.viz.negator_attention_page(attending).sections[1].tables[0].rows} == {""}

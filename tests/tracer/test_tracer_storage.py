"""Saved traces come back bit for bit, and what is no saved trace is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from builders import synthetic_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tracescribe as ts
from tracescribe.errors import DataFormatError, OutputError
from tracescribe.tracer import Scores
from tracescribe.tracer.results.storage import FORMAT


def assert_same(one, two):
    """Equal in every field, arrays bit for bit (NaN included)."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, Scores):
            assert_same(a, b)
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert a.shape == b.shape, field.name
            assert a.tobytes() == b.tobytes(), field.name
        else:
            assert a == b, field.name


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    words=st.lists(st.text(max_size=4), min_size=6, max_size=6),
    with_embeddings=st.booleans(),
    half=st.booleans(),
)
def test_round_trip_is_exact(tmp_path_factory, seed, words, with_embeddings, half):
    trace = synthetic_trace(n_pairs=4, n_layers=2, seed=seed, with_embeddings=with_embeddings, vary_length=True)
    # Any string a tokenizer may write, lone surrogates included.
    tokens = tuple(tuple((words * 2)[: len(t)]) for t in trace.tokens)
    trace = replace(trace, tokens=tokens, ids=("肺炎", "\ud800", "", '"'), provenance={"model": words, "floor": 0.5})
    if half and with_embeddings:
        trace = replace(trace, embeddings=trace.embeddings.astype(np.float16))
    path = tmp_path_factory.mktemp("trace") / "t.safetensors"
    trace.save(path)
    assert_same(trace, ts.load_trace(path))


def test_a_view_with_other_strides_is_saved_as_it_reads(tmp_path):
    trace = synthetic_trace(n_pairs=4)
    scores = Scores(**{f.name: np.asfortranarray(getattr(trace.scores, f.name)[::2]) for f in fields(Scores)})
    part = replace(trace.select([0, 2]), scores=scores)
    part.save(tmp_path / "t")
    assert_same(trace.select([0, 2]), ts.load_trace(tmp_path / "t"))


def test_statistics_of_a_loaded_trace_are_those_of_the_trace(tmp_path):
    trace = synthetic_trace()
    trace.save(tmp_path / "t")
    loaded = ts.load_trace(tmp_path / "t")
    assert loaded.per_layer().replicates.tobytes() == trace.per_layer().replicates.tobytes()
    assert loaded.summary() == trace.summary()


def refused(path, *words):
    with pytest.raises(DataFormatError) as caught:
        ts.load_trace(path)
    assert repr(str(path)) in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, keep):
    path = tmp_path / "t.safetensors"
    synthetic_trace().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    refused(path, "cut short")


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    refused(path, "No such file")
    path.mkdir()
    refused(path)
    path.rmdir()
    path.write_text("hello")
    refused(path, "not a whole safetensors file")
    save_file({"x": np.zeros(1)}, path)
    refused(path, "format None", "not a saved trace")
    save_file({"x": np.zeros(1)}, path, {"format": "tracescribe.trace/99"})
    refused(path, "tracescribe.trace/99", "another version")


def test_damaged_content_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    trace = synthetic_trace(n_pairs=2)
    trace.save(path)
    tensors = load_file(path)
    strings = ("tokens", "foil_tokens", "ids", "groups", "provenance")
    metadata = {"format": FORMAT, **{key: json.dumps(getattr(trace, key)) for key in strings}}
    for change, words in (
        ({"ids": "["}, "damaged"),
        ({"ids": '["a"]'}, "expected (1,)"),
        ({"tokens": "5"}, "damaged"),
        ({"provenance": "[]"}, "damaged"),
        ({"provenance": '{"direction": "up"}'}, "'up'"),
    ):
        save_file(tensors, path, {**metadata, **change})
        refused(path, words)
    save_file(tensors, path, {k: v for k, v in metadata.items() if k != "groups"})
    refused(path, "no 'groups'")
    save_file({k: v for k, v in tensors.items() if k != "kinds"}, path, metadata)
    refused(path, "no 'kinds'")


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    trace = synthetic_trace()
    with pytest.raises(OutputError, match="not JSON"):
        replace(trace, provenance={"model": object()}).save(tmp_path / "t")
    with pytest.raises(OutputError, match="does not exist"):
        trace.save(tmp_path / "missing" / "t")
    assert list(tmp_path.iterdir()) == []

"""Saved traces come back bit for bit, and what is no saved trace is refused."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
from builders import synthetic_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import tracescribe as ts
from tracescribe.errors import DataFormatError, OutputError
from tracescribe.io.tensors import CHECKSUM, read_tensors, write_tensors
from tracescribe.tracer import Scores
from tracescribe.tracer.results.storage import FORMAT

NESTED: list = []
for _ in range(100):
    NESTED = [NESTED]


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
    said = {"captions": ("a \ud800", "", "b", "b"), "attributes": ("", "", "", "severity"), "negated": ("foil",) * 4}
    trace = replace(
        trace,
        tokens=tokens,
        named=np.array([True, False, True, True]),
        **said,
        ids=("肺炎", "\ud800", "", '"'),
        provenance={"words": words, "floor": 0.5},
    )
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


def rewritten(path, trace, tensors=None, **metadata):
    """A trace's file with other tensors and metadata and a valid checksum: what a program could write."""
    trace.save(path)
    file = read_tensors(path)
    kept = {key: np.array(value) for key, value in file.tensors.items()} | (tensors or {})
    told = {key: value for key, value in file.metadata.items() if key != CHECKSUM} | metadata
    path.unlink()
    with path.open("wb") as handle:
        write_tensors(
            handle, {k: v for k, v in kept.items() if v is not None}, {k: v for k, v in told.items() if v is not None}
        )


def test_damaged_content_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    trace = synthetic_trace(n_pairs=2)
    deep = "[" * 100 + "]" * 100
    for metadata, words in (
        ({"provenance": None}, "no 'provenance'"),
        ({"provenance": "["}, "not JSON"),
        ({"provenance": "[]"}, "not an object"),
        ({"provenance": '{"direction": "up"}'}, "'up'"),
        ({"provenance": f'{{"deep": {deep}}}'}, "nested deeper than 64"),
        ({"provenance": '{"floor": NaN}'}, "NaN"),
        ({"provenance": '{"floor": "high"}'}, "'high' as 'floor'"),
        ({"provenance": '{"floor": -1}'}, "-1 as 'floor'"),
        ({"provenance": '{"window": 2.5}'}, "2.5 as 'window'"),
        ({"provenance": '{"site": 7}'}, "7 as 'site'"),
        ({"provenance": '{"first_layer": true}'}, "True as 'first_layer'"),
        ({"provenance": '{"tower": []}'}, "[] as 'tower'"),
        ({"provenance": '{"tower": {"readout_layers": ["x"]}}'}, "'x' as 'tower.readout_layers'"),
        ({"provenance": '{"agreement": {"rho": 1}}'}, "'agreement."),
        ({"columns": "[1, 2]"}, "'columns' is not a list of texts"),
    ):
        rewritten(path, trace, **metadata)
        refused(path, words)
    scores = trace.scores.patched
    for tensors, words in (
        ({"groups": None}, "no 'groups'"),
        ({"groups.ends": None}, "no 'groups.ends'"),
        ({"kinds": None}, "no 'kinds'"),
        ({"kinds": trace.kinds.astype(np.float32)}, "'kinds' holds float32 numbers"),
        ({"kinds": np.where(trace.differs, 100, trace.kinds).astype(np.int8)}, "TokenKind"),
        ({"text_pair": np.array([0, -1])}, "-1"),
        ({"scores.patched": scores.astype(np.float64)}, "float64"),
        ({"scores.patched": np.where(trace.differs[:, None], 3, scores).astype(np.float32)}, "3, but cosines"),
        ({"scores.patched": scores[:, :, :-1].copy()}, "shape"),
        ({"ids.of_pair": np.array([0, 9])}, "'ids' names texts"),
        ({"ids.ends": np.array([9, 2])}, "does not hold texts"),
        ({"tokens.counts": np.array([1, 1])}, "does not hold tokens"),
    ):
        rewritten(path, trace, tensors)
        refused(path, words)


@pytest.mark.parametrize("dtype", ["BF16", "U32", "F8_E4M3"])
def test_types_that_no_trace_has_are_refused(tmp_path, dtype):
    path = tmp_path / "t.safetensors"
    size = {"BF16": 2, "U32": 4, "F8_E4M3": 1}[dtype]
    entry = {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}
    header = json.dumps({"__metadata__": {"format": FORMAT}, "kinds": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))
    refused(path, dtype)


def test_no_flipped_bit_is_read(tmp_path):
    path = tmp_path / "t.safetensors"
    synthetic_trace(n_pairs=3, n_layers=3, with_embeddings=True).save(path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for bit in rng.integers(8 * len(content), size=300).tolist():
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(DataFormatError):
            ts.load_trace(path)
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    ts.load_trace(path)


def test_only_regular_files_are_opened(tmp_path):
    path = tmp_path / "t.safetensors"
    os.mkfifo(path)
    refused(path, "pipe")
    with pytest.raises(DataFormatError, match="device"):
        ts.load_trace("/dev/zero")
    path.unlink()
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    refused(path, "not a whole safetensors file")


def first_version(path, trace, **changes):
    """The file that versions up to 0.1 wrote: texts as JSON in the header, no checksum."""
    tensors = {f"scores.{f.name}": getattr(trace.scores, f.name) for f in fields(Scores)}
    tensors |= {name: getattr(trace, name) for name in ("differs", "kinds", "text_pair")}
    strings = ("tokens", "foil_tokens", "ids", "groups", "provenance")
    metadata = {key: json.dumps(getattr(trace, key)) for key in strings}
    save_file(tensors, path, {"format": "tracescribe.trace/1", **metadata, **changes})


def test_files_of_the_first_version_are_read(tmp_path):
    path = tmp_path / "t.safetensors"
    trace = synthetic_trace(n_pairs=4, vary_length=True)
    first_version(path, trace)
    loaded = ts.load_trace(path)
    assert_same(trace, loaded)
    assert loaded.captions is None and loaded.named is None
    for change, words in (
        ({"ids": "["}, "not JSON"),
        ({"ids": '["a"]'}, "expected (1,)"),
        ({"groups": "[1, 2, 3, 4]"}, "'groups' is not a list of texts"),
        ({"tokens": "5"}, "'tokens' is not a list"),
        ({"provenance": '{"window": "3"}'}, "'window'"),
    ):
        first_version(path, trace, **change)
        refused(path, words)


def test_a_trace_of_many_pairs_has_a_short_header(tmp_path):
    """Half a million pairs of the first version had more than 100 MB of header, which no reader accepts."""
    path = tmp_path / "t.safetensors"
    one, many = (synthetic_trace(n_pairs=n, n_layers=2, n_texts=3) for n in (3, 3000))
    sizes = []
    for trace in (one, many):
        trace.save(path)
        sizes.append(int.from_bytes(path.read_bytes()[:8], "little"))
    assert sizes[1] < sizes[0] + 500  # numbers with more digits, no more entries
    assert_same(many, ts.load_trace(path))


@pytest.mark.slow
def test_half_a_million_pairs_come_back(tmp_path):
    few = synthetic_trace(n_pairs=12, n_layers=4)
    index = np.arange(500_000) % 12
    ids = tuple(f"study{i:08d}/film/{i % 7}" for i in range(500_000))
    trace = replace(few.select(index), ids=ids, groups=ids, captions=tuple(f"caption {i % 4}" for i in index))
    path = tmp_path / "t.safetensors"
    trace.save(path)
    assert path.stat().st_size < 250 * 2**20
    assert_same(trace, ts.load_trace(path))


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    trace = synthetic_trace()
    for provenance in ({"words": object()}, {"floor": float("nan")}, {"words": NESTED}, {"window": "3"}):
        with pytest.raises(OutputError, match=r"cannot write .*t'"):
            replace(trace, provenance=provenance).save(tmp_path / "t")
    too_high = replace(trace.scores, correct=trace.scores.correct + 2)
    with pytest.raises(OutputError, match="cosines lie between"):
        replace(trace, scores=too_high).save(tmp_path / "t")
    with pytest.raises(OutputError, match="does not exist"):
        trace.save(tmp_path / "missing" / "t")
    assert list(tmp_path.iterdir()) == []

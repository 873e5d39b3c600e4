"""The cache folder: what is in it is never traced again, never confused and never half-written."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model
from torch import nn

import tracescribe as ts
from tracescribe.errors import OptionError, OutputError, StaleCacheError
from tracescribe.patching import PatchingEngine
from tracescribe.tracer import TraceError, TraceInterrupted, TraceWarning
from tracescribe.tracer.run import cache
from tracescribe.tracer.run.cache import check_cache
from tracescribe.tracer.run.cache_keys import architecture
from tracescribe.tracer.run.options import TraceOptions
from tracescribe.tracer.run.trace import fill_cache

WORDS = ("edema", "mass", "rib", "lung", "line", "tube", "node", "scar", "cyst", "clot")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(20, 16))
UNITS = {"batch_size": 3, "progress": False, "floor": 0}  # 20 text pairs in 7 units


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")


@pytest.fixture(scope="module")
def pairs() -> list[ts.Pair]:
    captions = [(f"there is no {word}{end}", f"there is some {word}{end}") for end in (".", "") for word in WORDS]
    return [ts.Pair(correct=c, foil=f, image=i) for (c, f), i in zip(captions, IMAGES, strict=True)]


@pytest.fixture(scope="module")
def uninterrupted(model: ts.DualEncoder, pairs: list[ts.Pair]) -> ts.CausalTrace:
    return ts.trace(model, pairs, **UNITS)


@contextmanager
def counted_runs() -> Iterator[list[int]]:
    """How many text pairs the engine is given meanwhile, unit by unit."""
    runs: list[int] = []
    original = PatchingEngine.run

    def run(self: PatchingEngine, prepared: Any, unit: Any, **options: Any) -> Any:
        runs.append(len(unit))
        return original(self, prepared, unit, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchingEngine, "run", run)
        yield runs


def assert_same_bytes(one: ts.CausalTrace, two: ts.CausalTrace) -> None:
    for name in ("correct", "foil", "patched"):
        assert getattr(one.scores, name).tobytes() == getattr(two.scores, name).tobytes(), name
    for name in ("embeddings", "correct_embeddings", "foil_embeddings"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name


def is_mapped(array: Any) -> bool:
    """Whether an array is a view of a file."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*.safetensors"))


# what is found again --------------------------------------------------------------------------------------------------


def test_a_second_run_is_free_and_gives_the_same_bytes(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path
) -> None:
    first = ts.trace(model, pairs, cache=tmp_path / "new" / "cache", **UNITS)
    with counted_runs() as runs:
        second = ts.trace(model, pairs, cache=tmp_path / "new" / "cache", **UNITS)
    assert runs == []
    assert_same_bytes(first, uninterrupted)
    assert_same_bytes(second, uninterrupted)
    assert first.provenance["pairs_sha256"] == second.provenance["pairs_sha256"]


def test_other_images_other_orders_and_parts_are_free_too(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path
) -> None:
    ts.trace(model, pairs, cache=tmp_path, **UNITS)
    chosen = [13, 4, 4, 19, 0]
    renewed = [pairs[i].model_copy(update={"image": IMAGES[k]}) for k, i in enumerate(chosen)]
    with counted_runs() as runs:
        other = ts.trace(model, renewed, cache=tmp_path, **UNITS)
    assert runs == []
    expected = uninterrupted.rescore(IMAGES[:5], text_pair=uninterrupted.text_pair[chosen])
    np.testing.assert_array_equal(other.scores.patched, expected.scores.patched)


def test_only_the_units_of_new_pairs_are_traced(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path
) -> None:
    ts.trace(model, pairs[:9], cache=tmp_path, **UNITS)
    with counted_runs() as runs:
        whole = ts.trace(model, pairs, cache=tmp_path, **UNITS)
    assert sum(runs) < 20
    # what came from units of another composition was summed in another order
    np.testing.assert_allclose(whole.scores.patched, uninterrupted.scores.patched, atol=1e-6)  # as below


def moved(model: ts.DualEncoder) -> ts.DualEncoder:
    other = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    with torch.no_grad():
        other.source.ln_final.bias.data[0] += 1e-3
    return other


OTHER = {
    "site": {"site": "attn"},
    "cells": {"positions": "all"},
    "window": {"window": 2},
    "direction": {"direction": "correct->foil"},
    "precision": {"dtype": torch.float64},
    "path": {"path": "generic"},
}


@pytest.mark.parametrize("what", OTHER)
def test_another_question_is_not_answered_by_the_cache(
    model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path, what: str
) -> None:
    ts.trace(model, pairs, cache=tmp_path, **UNITS)
    with counted_runs() as runs:
        cached = ts.trace(model, pairs, cache=tmp_path, **UNITS, **OTHER[what])
    assert sum(runs) == 20
    assert_same_bytes(cached, ts.trace(model, pairs, **UNITS, **OTHER[what]))


def test_another_model_is_not_answered_by_the_cache(
    model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path
) -> None:
    ts.trace(model, pairs, cache=tmp_path, **UNITS)
    same_weights = ts.wrap(open_clip_model(quick_gelu=True), tokenizer=WordTokenizer(), name="tiny")
    assert same_weights.text.fingerprint() == model.text.fingerprint()
    for other in (moved(model), same_weights):
        with counted_runs() as runs:
            ts.trace(other, pairs, cache=tmp_path, **UNITS)
        assert sum(runs) == 20
    with counted_runs() as runs:  # all three are there now
        ts.trace(ts.wrap(open_clip_model(), tokenizer=WordTokenizer()), pairs, cache=tmp_path, **UNITS)
    assert runs == []


def test_the_architecture_is_more_than_the_weights() -> None:
    def tower(**options: Any) -> nn.Module:
        return ts.wrap(open_clip_model(**options), tokenizer=WordTokenizer()).text

    assert architecture(tower()) == architecture(tower())
    different = [tower(), tower(quick_gelu=True), tower(heads=4), tower(custom=True, no_causal_mask=True)]
    assert len(set(map(architecture, different))) == 4


# what is stopped, shared or damaged -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [3, 9, 18])
def test_an_interrupted_run_says_how_far_it_came_and_goes_on_to_the_same_bytes(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path, after: int
) -> None:
    def stop(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    options = UNITS | {"progress": stop}
    with pytest.raises(TraceInterrupted, match=rf"{after} of 20 text pairs.*kept in '.*cache'; run again"):
        ts.trace(model, pairs, cache=tmp_path / "cache", **options)
    with counted_runs() as runs:
        resumed = ts.trace(model, pairs, cache=tmp_path / "cache", **UNITS)
    assert sum(runs) == 20 - after
    assert_same_bytes(resumed, uninterrupted)
    with pytest.raises(TraceInterrupted, match=r"nothing was kept; with cache="):
        ts.trace(model, pairs, **options)


@pytest.mark.parametrize("n", [2, 3, 11])
def test_shares_are_together_what_one_process_does(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path, n: int
) -> None:
    with counted_runs() as runs:
        for i in reversed(range(n)):
            fill_cache(model, pairs, TraceOptions(cache=tmp_path, batch_size=3), (i, n), progress=False)
        assert sum(runs) == 20
        assert_same_bytes(ts.trace(model, pairs, cache=tmp_path, **UNITS), uninterrupted)
    assert sum(runs) == 20


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit of a number": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    "a key": lambda content: content.replace(b'\\"', b'\\"0', 1).replace(b"  ", b" ", 1),
    "another type in the header": lambda content: content.replace(b'"F32"', b'"I32"', 1),
    "foreign": lambda content: b"hello",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_said_and_traced_again(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path, kind: str
) -> None:
    ts.trace(model, pairs, cache=tmp_path, **UNITS)
    victim = shards(tmp_path)[2]
    whole = victim.read_bytes()
    victim.write_bytes(DAMAGE[kind](whole))
    assert victim.read_bytes() != whole
    with counted_runs() as runs, pytest.warns(TraceWarning, match=rf"{victim.name}' is damaged .*traced again"):
        again = ts.trace(model, pairs, cache=tmp_path, **UNITS)
    assert len(runs) == 1
    assert_same_bytes(again, uninterrupted)
    assert victim.read_bytes() == whole  # repaired
    with warnings.catch_warnings():
        warnings.simplefilter("error", TraceWarning)
        ts.trace(model, pairs, cache=tmp_path, **UNITS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_and_devices_among_the_shards_are_not_waited_for(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path
) -> None:
    ts.trace(model, pairs[:5], cache=tmp_path, **UNITS)
    os.mkfifo(tmp_path / "shards" / "another.safetensors")
    (tmp_path / "shards" / "zero.safetensors").symlink_to("/dev/zero")
    assert_same_bytes(ts.trace(model, pairs, cache=tmp_path, **UNITS), uninterrupted)
    victim = next(path for path in shards(tmp_path) if path.is_file())
    victim.unlink()
    os.mkfifo(victim)
    with (
        pytest.warns(TraceWarning, match=r"it is a pipe, and only regular files are read"),
        pytest.raises(OutputError, match="not a regular file"),
    ):
        ts.trace(model, pairs, cache=tmp_path, **UNITS)


def write_slowly(folder: Path, half_written: Any, go_on: Any) -> None:
    """A process that stops in the middle of a shard until it is told to go on."""
    original = cache.write_tensors

    def slow(file: Any, *content: Any) -> None:
        file.write(b"half")
        file.flush()
        half_written.set()
        go_on.wait(30)
        file.seek(0)
        original(file, *content)

    cache.write_tensors = slow  # type: ignore[assignment]
    rows = np.eye(2, dtype=np.float32)
    cache.Store(folder).write(["a", "b"], cache.Shard(rows, rows, np.ones((2, 3, 4, 2), np.float32)))


@pytest.mark.parametrize("ahead", [3600, 30 * 24 * 3600])
def test_a_clock_that_is_ahead_deletes_no_shard_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    fork = multiprocessing.get_context("fork")
    half_written, go_on = fork.Event(), fork.Event()
    process = fork.Process(target=write_slowly, args=(tmp_path / "cache", half_written, go_on))
    process.start()
    assert half_written.wait(30)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    (half,) = (tmp_path / "cache" / "shards").iterdir()
    os.utime(half, (0, 0))  # and the other machine's clock is behind
    assert cache.Store(tmp_path / "cache").read(["a", "b"]) is None
    assert half.exists()
    go_on.set()
    process.join(30)
    assert process.exitcode == 0
    found = cache.Store(tmp_path / "cache").read(["a", "b"])
    assert found is not None and found.patched.shape == (2, 3, 4, 2)
    assert [path.suffix for path in (tmp_path / "cache" / "shards").iterdir()] == [".safetensors"]


def test_a_date_that_is_none_is_refused_before_a_share_is_traced(
    model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    options = TraceOptions(cache=tmp_path / "cache", floor=0)
    with counted_runs() as runs, pytest.raises(OptionError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        fill_cache(model, pairs, options, (0, 2), progress=False)
    assert runs == [] and not (tmp_path / "cache").exists()


def test_a_shard_under_another_name_is_not_taken_for_it(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path
) -> None:
    ts.trace(model, pairs, cache=tmp_path, **UNITS)
    one, two = shards(tmp_path)[:2]
    one.write_bytes(two.read_bytes())
    assert_same_bytes(ts.trace(model, pairs, cache=tmp_path, **UNITS), uninterrupted)


def test_what_is_no_cache_is_refused_and_left_alone(
    model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path
) -> None:
    file = tmp_path / "trace.safetensors"
    ts.trace(model, pairs, **UNITS).save(file)
    with pytest.raises(StaleCacheError, match=r"trace\.safetensors' is a file, but a cache is a folder.*load_trace"):
        ts.trace(model, pairs, cache=file)
    with pytest.raises(StaleCacheError, match=r"is not a tracescribe cache.*holds 'trace\.safetensors'"):
        ts.trace(model, pairs, cache=tmp_path)
    before = tmp_path.stat().st_mtime_ns
    with pytest.raises(StaleCacheError):
        check_cache(tmp_path)
    assert tmp_path.stat().st_mtime_ns == before  # nothing is tried there
    assert [path.name for path in tmp_path.iterdir()] == ["trace.safetensors"]
    with pytest.raises(OutputError, match="cannot use the folder"):
        ts.trace(model, pairs, cache=file / "cache")
    other = tmp_path / "other"
    other.mkdir()
    for content, message in (
        (json.dumps({"format": "tracescribe.cache/99"}), r"cache/99.*another version"),
        ("{", r"damaged.*another folder"),
    ):
        (other / "tracescribe-cache.json").write_text(content)
        with pytest.raises(StaleCacheError, match=message):
            ts.trace(model, pairs, cache=other)


# memory ---------------------------------------------------------------------------------------------------------------


def test_embeddings_that_do_not_fit_go_to_the_cache_folder(
    model: ts.DualEncoder, pairs: list[ts.Pair], uninterrupted: ts.CausalTrace, tmp_path: Path
) -> None:
    small = UNITS | {"memory": 2**14}  # the embeddings take 36 KiB
    spilled = ts.trace(model, pairs, cache=tmp_path / "cache", **small)
    assert is_mapped(spilled.embeddings)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"shards", "tracescribe-cache.json"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", TraceWarning)
        in_memory = ts.trace(model, pairs, keep_embeddings=True, **small)
    assert_same_bytes(spilled, in_memory)
    np.testing.assert_array_equal(
        spilled.rescore(IMAGES[::-1]).scores.patched, in_memory.rescore(IMAGES[::-1]).scores.patched
    )
    spilled.save(tmp_path / "trace")
    loaded = ts.load_trace(tmp_path / "trace")
    assert is_mapped(loaded.embeddings)
    assert_same_bytes(loaded, in_memory)
    # smaller passes: products of other sizes sum in another order, a few float32 units (6e-8) of entries near 1
    np.testing.assert_allclose(spilled.scores.patched, uninterrupted.scores.patched, atol=1e-6)


def test_embeddings_that_fit_nowhere_are_dropped_aloud(model: ts.DualEncoder, pairs: list[ts.Pair]) -> None:
    with pytest.warns(TraceWarning, match=r"20 text pairs would take .* GiB.*not kept.*cache="):
        dropped = ts.trace(model, pairs, memory=2**14, **UNITS)
    with pytest.raises(TraceError, match="trace again to rescore"):
        dropped.rescore(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TraceWarning)
        assert ts.trace(model, pairs, keep_embeddings=False, **UNITS).embeddings is None

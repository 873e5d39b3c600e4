"""A tracing process killed at random moments loses and damages nothing that was finished; writers may run at once."""

from __future__ import annotations

import multiprocessing
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.tracer import TraceWarning
from tracescribe.tracer.run.cache import Store

# the child is a copy of this process, which has imported and loaded everything: no kill hits only the start
fork = multiprocessing.get_context("fork")
IMAGES = np.random.default_rng(0).normal(size=(240, 16))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """OpenMP's threads do not survive a fork: a child with two would wait for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=4), tokenizer=WordTokenizer(), name="tiny")


@pytest.fixture(scope="module")
def pairs() -> list[ts.Pair]:
    words = [f"{a} {b}" for a in "abcdefghijklmno" for b in "pqrstuvwxyz{|}~="]
    return [
        ts.Pair(correct=f"there is no {word}.", foil=f"there is some {word}.", image=image)
        for word, image in zip(words[:240], IMAGES, strict=True)
    ]


def trace_into(folder: Path, model: ts.DualEncoder, pairs: list[ts.Pair]) -> ts.CausalTrace:
    return ts.trace(model, pairs, cache=folder, batch_size=2, progress=False, floor=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").glob("*.safetensors")}


def assert_same_bytes(one: ts.CausalTrace, two: ts.CausalTrace) -> None:
    assert one.scores.patched.tobytes() == two.scores.patched.tobytes()
    assert one.embeddings.tobytes() == two.embeddings.tobytes()


def killed_again_and_again(
    folder: Path, model: ts.DualEncoder, pairs: list[ts.Pair], kills: int, longest: float
) -> int:
    """Kill a tracing process ``kills`` times; how many of the kills hit it at work."""
    chance = random.Random(0)
    finished: dict[str, bytes] = {}
    hits = 0
    for _ in range(kills):
        process = fork.Process(target=trace_into, args=(folder, model, pairs))
        process.start()
        time.sleep(chance.uniform(0.02, longest))
        hits += process.is_alive()
        process.kill()
        process.join()
        now = contents(folder)
        assert {name: now.get(name) for name in finished} == finished  # not lost, not changed
        with warnings.catch_warnings():
            warnings.simplefilter("error", TraceWarning)  # a damaged shard would be said
            store = Store(folder)
            for name in now.keys() - finished.keys():
                assert store._load(folder / "shards" / name) is not None
        finished = now
    return hits


def test_killing_never_loses_or_corrupts_a_finished_shard(
    model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path, kills: int = 20
) -> None:
    start = time.monotonic()
    uninterrupted = ts.trace(model, pairs, batch_size=2, progress=False, floor=0)
    # together the killed processes get about the time of one run, so that none finds nothing left to do
    longest = 0.05 + 1.6 * (time.monotonic() - start) / kills
    hits = killed_again_and_again(tmp_path / "cache", model, pairs, kills, longest)
    assert hits >= kills // 2  # or the run was over before most of the kills
    assert contents(tmp_path / "cache")  # or no kill came late enough
    assert_same_bytes(trace_into(tmp_path / "cache", model, pairs), uninterrupted)


def test_writers_of_one_folder_do_not_disturb_each_other(
    model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path
) -> None:
    part = pairs[:40]
    writers = [fork.Process(target=trace_into, args=(tmp_path / "cache", model, part)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(contents(tmp_path / "cache")) == 20
    uninterrupted = ts.trace(model, part, batch_size=2, progress=False, floor=0)
    assert_same_bytes(trace_into(tmp_path / "cache", model, part), uninterrupted)
    assert not list((tmp_path / "cache").rglob("*.tmp"))

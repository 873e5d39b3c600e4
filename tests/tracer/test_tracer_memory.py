"""Memory and time of a trace grow with what is asked for, not with how it is worked out."""

from __future__ import annotations

import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.patching import PatchingEngine
from tracescribe.tracer import TraceWarning

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")


def test_only_one_batch_of_embeddings_is_alive_at_a_time(
    model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [
        ts.Pair(correct=f"no {a}{b}", foil=f"some {a}{b}", image=np.ones(16)) for a in "abcde" for b in "fghijklmno"
    ]
    alive: list[weakref.ref[Any]] = []
    most = 0
    original = PatchingEngine.run

    def run(self: PatchingEngine, *args: Any, **options: Any) -> Any:
        nonlocal most
        most = max(most, sum(one() is not None for one in alive))
        batch = original(self, *args, **options)
        alive.append(weakref.ref(batch.patched))
        return batch

    monkeypatch.setattr(PatchingEngine, "run", run)
    with pytest.warns(TraceWarning, match="not kept"):
        ts.trace(model, pairs, batch_size=2, memory=2**14, progress=False, floor=0)
    assert len(alive) == 25 and most <= 1


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["dropped", "in the cache folder"])
def test_thousands_of_pairs_stay_within_two_gibibytes(cached: bool) -> None:
    code = f"import bench_scaling; bench_scaling.measure_memory(5000, False, {cached})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "perf", capture_output=True, text=True, check=True)
    peak, _, kept, _ = map(float, done.stdout.splitlines()[-1].split())
    assert peak < 2 * 2**30 and bool(kept) == cached


def test_images_cost_next_to_nothing_beside_a_pass(model: ts.DualEncoder) -> None:
    """500 images for each of 14 text pairs: operations are counted by the engine's own calls, and time has margin."""
    images = list(np.random.default_rng(0).normal(size=(500, 16)))
    words = "abcdefghijklmn"
    one, many = (
        [ts.Pair(correct=f"no {w}", foil=f"some {w}", image=i) for w in words for i in images[:n]] for n in (1, 500)
    )

    def seconds(pairs: list[ts.Pair]) -> float:
        start = time.process_time()
        trace = ts.trace(model, pairs, progress=False, floor=0)
        assert len(set(trace.text_pair.tolist())) == 14
        return time.process_time() - start

    seconds(one)
    extra = min(seconds(many) for _ in range(3)) - min(seconds(one) for _ in range(3))
    # measured: about 5 microseconds a pair, most of it Python's; a forward pass a pair would be hundreds
    assert extra / len(many) < 50e-6

"""Peak memory of ts.trace above the model's own, in this process: thousands of distinct text pairs, ViT-B/32's size.

    python perf/bench_memory.py                 # 5,000 pairs; minutes
    python perf/bench_memory.py -n 500 --cache  # embeddings streamed to a cache folder in a temporary place

Prints one JSON line. Linux only: it reads the peak of resident memory from /proc.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np

import tracescribe as ts

ADJECTIVES = ("left", "right", "upper", "lower", "large", "small", "new", "old", "bright", "dark")
NOUNS = ("mass", "lesion", "nodule", "opacity", "effusion", "edema", "fracture", "device", "line", "tube")
ENDS = ("today", "here", "now", "again", "there", "still", "alone", "inside", "outside", "below")
SWAPS = ("severe", "some", "mild", "moderate", "one")


def text_pairs(n: int, embed: int) -> list[ts.Pair]:
    """Distinct captions of 8 to 10 tokens, every pair with an image embedding of its own."""
    rng = np.random.default_rng(0)
    words = list(product(ADJECTIVES, NOUNS, ENDS, SWAPS))
    assert n <= len(words), f"at most {len(words)} distinct pairs"
    return [
        ts.Pair(correct=f"There is no {a} {b} {c}.", foil=f"There is {s} {a} {b} {c}.", image=rng.normal(size=embed))
        for a, b, c, s in words[:n]
    ]


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS now, VmHWM the peak, RssAnon without mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(n: int, cache: bool, quick: bool) -> dict[str, float]:
    """Trace n pairs and say what it took."""
    from bench_trace import build_model

    _, model, _ = build_model(quick)
    pairs = text_pairs(n, model.embed_dim)
    ts.trace(model, pairs[:1], progress=False, floor=0)  # libraries load what they load at first use
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts again from here
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ts.tracer.TraceWarning)  # embeddings that do not fit are dropped: as documented
        trace = ts.trace(model, pairs, progress=False, floor=0, cache=Path(folder, "cache") if cache else None)
        traced = resident("VmHWM")
        trace.save(Path(folder, "trace.safetensors"))
        size = Path(folder, "trace.safetensors").stat().st_size
    return {
        "pairs": n,
        "model_mib": before / 2**20,
        "peak_above_model_mib": (traced - before) / 2**20,
        "peak_with_saving_mib": (resident("VmHWM") - before) / 2**20,
        "saved_mib": size / 2**20,
        "embeddings_kept": trace.embeddings is not None,
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=5000, help="text pairs")
    parser.add_argument("--cache", action="store_true", help="with a cache folder, so that embeddings go to disk")
    parser.add_argument("--quick", action="store_true", help="a tiny tower, seconds")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.n, arguments.cache, arguments.quick)))

"""How far half-precision passes move the CTE from float32's: on the miniature and on a random ViT-B/32.

    python perf/bench_precision.py

Prints one JSON line for each model and precision. Layers 0 and L are exact by construction and left out.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from bench_trace import CONDITIONS, CORRECT, FOIL, SEVERITIES, build_model

import tracescribe as ts

CLEAR = 5e-3  # |S_corr - S_foil|: a CTE of a smaller difference divides half precision's error by next to nothing


def measure(model: ts.DualEncoder, pairs: list[ts.Pair]) -> list[dict[str, float | str]]:
    """Errors of single cells and of the layer profile against float64, in CTE (1 is the whole effect)."""
    exact = ts.trace(model, pairs, dtype=torch.float64, progress=False, floor=0)
    profile = exact.per_layer(segment="all", ci=None).value
    clear = np.abs(exact.denominator) >= CLEAR
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        trace = ts.trace(model, pairs, dtype=dtype, progress=False, floor=0)
        error = np.abs(trace.cte - exact.cte)[clear, 1:-1]
        found.append(
            {
                "model": model.name,
                "dtype": str(dtype).removeprefix("torch."),
                "pairs": len(pairs),
                "clear_pairs": int(clear.sum()),
                "median_margin": float(np.median(np.abs(exact.denominator))),
                "score_max": float(np.nanmax(np.abs(trace.scores.patched - exact.scores.patched))),
                "cte_median": float(np.nanmedian(error)),
                "cte_p99": float(np.nanquantile(error, 0.99)),
                "profile_max": float(np.abs(trace.per_layer(segment="all", ci=None).value - profile)[1:-1].max()),
            }
        )
    return found


if __name__ == "__main__":
    target = ts.Text("The lungs are clear.")
    conditions = ("opacity", "effusion", "edema", "nodule", "pneumothorax")
    phantom = [
        ts.Pair(correct=CORRECT.format(c), foil=FOIL.format(s, c), image=target) for c in conditions for s in SEVERITIES
    ]
    _, random_model, _ = build_model(quick=False)
    image = np.random.default_rng(0).normal(size=512)
    pairs = [ts.Pair(correct=CORRECT.format(c), foil=FOIL.format("severe", c), image=image) for c in CONDITIONS]
    for model, chosen in ((ts.load("phantom"), phantom), (random_model, pairs)):
        for line in measure(model, chosen):
            print(json.dumps(line))

"""How far half-precision passes move the CTE from float64's: on the miniature and on a random ViT-B/32.

python perf/bench_precision.py
"""

from __future__ import annotations

from measuring import CORRECT, FOIL, random_clip, write_section

# isort: split
from pathlib import Path

import numpy as np
import torch
from bench_trace import CONDITIONS, SEVERITIES

import tracescribe as ts

CLEAR = 5e-3  # |S_corr - S_foil|: a CTE of a smaller difference divides half precision's error by next to nothing


def measure(model: ts.DualEncoder, pairs: list[ts.Pair], name: str) -> list[str]:
    """A table row a precision: errors of scores, single cells and the layer profile against float64, in CTE."""
    exact = ts.trace(model, pairs, dtype=torch.float64, progress=False, floor=0)
    profile = exact.per_layer(segment="all", ci=None).value
    clear = np.abs(exact.denominator) >= CLEAR
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        trace = ts.trace(model, pairs, dtype=dtype, progress=False, floor=0)
        error = np.abs(trace.cte - exact.cte)[clear, 1:-1]
        found = (
            np.nanmax(np.abs(trace.scores.patched - exact.scores.patched)),
            np.nanmedian(error),
            np.nanquantile(error, 0.99),
            np.abs(trace.per_layer(segment="all", ci=None).value - profile)[1:-1].max(),
        )
        numbers = " | ".join(f"{float(value):.0e}" for value in found)
        rows.append(f"| {name} ({int(clear.sum())} pairs) | {str(dtype).removeprefix('torch.')} | {numbers} |")
    return rows


def section(quick: bool, out: Path | None) -> str:
    target = ts.Text("The lungs are clear.")
    known = ("opacity", "effusion", "edema", "nodule", "pneumothorax")[: 1 if quick else None]
    phantom = [
        ts.Pair(correct=CORRECT.format(c), foil=FOIL.format(s, c), image=target) for c in known for s in SEVERITIES
    ]
    _, random_model = random_clip(quick)
    image = np.random.default_rng(0).normal(size=random_model.embed_dim)
    words = CONDITIONS[: 2 if quick else None]
    pairs = [ts.Pair(correct=CORRECT.format(c), foil=FOIL.format("severe", c), image=image) for c in words]
    return "\n".join(
        [
            "## Precision",
            "",
            "Differences from float64 passes. Layers 0 and L are exact by construction and left out, and so are pairs "
            f"with |S_corr − S_foil| below {CLEAR}, which divide any error by next to nothing. CTE 1 is all of it.",
            "",
            "| model | precision | score, largest | CTE of a cell, median | 99th percentile | layer profile, largest |",
            "|---|---|---|---|---|---|",
            *measure(ts.load("phantom"), phantom, "phantom"),
            *measure(random_model, pairs, "random ViT-B/32"),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments)


if __name__ == "__main__":
    main()

"""Draws the pictures of README and docs: ``python docs/pictures.py demo``, after ``make demo``.

``python docs/pictures.py`` draws those that need no demo.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tracescribe as ts
from tracescribe.benchmark.phantom import counterfactual_pairs

IMAGES = Path(__file__).parent / "img"
CURVES = {"negation": "trace", "side and severity swaps": "control", "negation, trained": "after"}


def main(demo: Path | None) -> None:
    IMAGES.mkdir(exist_ok=True)
    draw_overlay()
    if demo is None:
        return
    traces = {name: ts.load_trace(demo / f"{file}.safetensors") for name, file in CURVES.items()}
    ts.viz.export(traces["negation"], IMAGES / "heatmap.png", width="page", dpi=180)
    ts.viz.export(traces, IMAGES / "profile.png", width="page", dpi=180)


def draw_overlay() -> None:
    """The picture of docs/images.md."""
    pairs = counterfactual_pairs(1, seed=3, condition="effusion")
    trace = ts.trace_images(ts.load("phantom"), pairs, grid=8, progress=False)
    ts.viz.export_overlay(
        trace, pairs[0].image, IMAGES / "overlay.png", title=pairs[0].caption, notes=True, width="page", dpi=180
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)

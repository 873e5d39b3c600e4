"""Trace negation in a text encoder, draw it, and compare it with a swap of two ordinary words.

python examples/trace_and_look.py OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import tracescribe as ts


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Your own: ts.load("open_clip:ViT-B-32-quickgelu", pretrained="openai"), ts.load("hf:<id or folder>"),
    # or ts.wrap(module, tokenizer=..., preprocess=...).
    model = ts.load("phantom")
    print(model)

    # Your own: a JSONL or CSV file with correct, foil, image (and group, the patient, for honest intervals).
    data = ts.benchmark.phantom.build_phantom(folder / "data", 300, seed=0)
    pairs = ts.read_pairs(data / "pairs.jsonl")

    negation = ts.trace(model, [pair for pair in pairs if pair.attribute == "existence"])
    print(negation.summary())
    print(negation.per_layer())
    ts.viz.save_html(negation.heatmap(), folder / "negation.html")

    # "no" against "severe" is also just a swap of two words: what remains beyond swapping "severe" and "mild"?
    control = ts.trace(model, [pair for pair in pairs if pair.attribute == "severity"])
    print("beyond the control:", negation.control(control).per_layer())
    ts.viz.save_html(ts.viz.profile({"negation": negation, "severity swaps": control}), folder / "profiles.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

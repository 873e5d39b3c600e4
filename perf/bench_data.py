"""Preparing training data: contrast sets read from a file, tokenised and indexed; seconds and memory per set.

python perf/bench_data.py --sets 1000000
"""

from __future__ import annotations

from measuring import fresh_process, write_section

# isort: split
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from bench_scaling import forget_peak, resident
from PIL import Image

import tracescribe as ts

IMAGES = 40  # sets per image
FINDINGS = ("effusion", "edema", "opacity", "pneumothorax", "nodule", "cardiomegaly", "device", "atelectasis")
PLACES = ("left", "right", "left lower", "right upper", "bilateral", "basal", "apical", "central")
STATES = ("no", "a mild", "a moderate", "a severe", "a new", "a stable", "a small", "a large")


NUMBERS = [" ".join(digits) for digits in itertools.product("abcdefghij", repeat=3)]


def statements() -> list[str]:
    """12,288 different statements of two findings, of 9 to 13 words."""
    one = [f"{state} {place} {finding}" for state, place, finding in itertools.product(STATES, PLACES, FINDINGS)]
    return [f"There is {a} and {b}." for a, b in itertools.product(one, one[::22]) if a != b]


def lines(sets: int, distinct: bool) -> Iterator[str]:
    """Contrast sets of four statements each. distinct: no statement is used twice."""
    texts = statements()
    for i in range(sets):
        image = f"images/{i // IMAGES:06d}.png"
        claims = [texts[(7919 * i + 1117 * k) % len(texts)] for k in range(4)]
        if distinct:
            claims = [f"{text} {NUMBERS[i % 1000]} {NUMBERS[i // 1000]}" for text in claims]
        fields = {"id": f"set{i:07d}", "image": image, "group": f"patient{i // (4 * IMAGES):06d}", "split": "train"}
        yield json.dumps({**fields, "claims": claims, "label": i % 4, "attribute": "existence"}) + "\n"


def write(folder: Path, sets: int, distinct: bool) -> None:
    """``claims.jsonl`` and its images, each of another colour, and a captions file of one record for each image."""
    (folder / "images").mkdir(parents=True)
    texts, count = statements(), -(-sets // IMAGES)
    for i in range(count):
        colour = (i % 256, i // 256 % 256, 127)
        Image.new("RGB", (8, 8), colour).save(folder / "images" / f"{i:06d}.png", compress_level=0)
    with (folder / "claims.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(lines(sets, distinct))
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as out:
        for i in range(count):
            fields = {"id": f"c{i}", "image": f"images/{i:06d}.png", "group": f"patient{i // 4:06d}", "split": "train"}
            out.write(json.dumps({**fields, "caption": texts[i % len(texts)]}) + "\n")


def measure(folder: str, batches: int = 20) -> None:
    """Print peak bytes above the model, CPU seconds to prepare, seconds per batch, and texts and sets read."""
    from tracescribe.finetune.training.data import training_data

    model, place = ts.load("phantom"), Path(folder)
    torch.set_num_threads(1)
    model.encode_images([Image.new("RGB", (8, 8))])  # what is imported and allocated once
    forget_peak()
    before, start = resident(), time.process_time()
    data = training_data(model, place / "captions.jsonl", place / "claims.jsonl", image_cache=place.parent / "cache")
    prepared, drawn = time.process_time() - start, time.process_time()
    for _ in data.batches(64, batches, seed=0):
        pass
    each = (time.process_time() - drawn) / batches
    print(resident(peak=True) - before, prepared, each, len(data.tokens), len(data.label))


def measured(sets: int, distinct: bool = False) -> list[float]:
    """:func:`measure` of so many sets, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch, "data"), sets, distinct)
        return fresh_process(f"import bench_data; bench_data.measure({str(Path(scratch, 'data'))!r})")


def section(quick: bool, out: Path | None, *, sets: int) -> str:
    rows = []
    largest = 2_000 if quick else sets
    for count, distinct in ((largest // 10, False), (largest, False), (largest // 4, True)):
        peak, seconds, batch, texts, _ = measured(count, distinct)
        rows.append(
            f"| {count:,} | {-(-count // IMAGES):,} | {texts:,.0f} | {seconds:.0f} | {peak / 2**20:,.0f} MiB | "
            f"{peak / count:,.0f} | {1e3 * batch:.2f} |"
        )
    return "\n".join(
        [
            "## Preparing training data",
            "",
            "Contrast sets of four claims and one caption per image, read from JSONL files, with an image cache on "
            "disk (`ts.finetune.training.data.training_data`); the miniature's tokenizer and image encoder. CPU "
            "seconds of a fresh process, and its peak of resident memory above the loaded model.",
            "",
            "| sets | images | distinct texts | CPU s | peak memory | bytes per set | ms to draw a batch of 64 + 64 |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, sets=1_000_000)


if __name__ == "__main__":
    main()

"""Neurons, knock-out and edges between heads against a map of the residual stream, in one run on one thread.

    python perf/bench_finer.py            # a random ViT-B/32, 8 pairs
    python perf/bench_finer.py --quick    # a tiny tower and two pairs, seconds: does the benchmark itself work?

The map and the finer cells take turns.
"""

from __future__ import annotations

from measuring import CORRECT, FOIL, Timing, random_clip, spread, write_section

# isort: split
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench_trace import CONDITIONS, SEVERITIES

import tracescribe as ts

PAIRS = 8
TOP = 50
ALIKE: dict[str, Any] = {"floor": 0.0, "progress": False}
ARMS: dict[str, Callable[[ts.DualEncoder, list[ts.Pair]], Any]] = {
    "map of the residual stream": lambda model, pairs: ts.trace(model, pairs, **ALIKE),
    "neurons, first cell only": lambda model, pairs: ts.neurons(model, pairs, top=1, others=0, segment="all", **ALIKE),
    f"neurons, first {TOP}": lambda model, pairs: ts.neurons(model, pairs, top=TOP, others=20, segment="all", **ALIKE),
    "knock-out, queries [end]": lambda model, pairs: ts.trace(
        model, pairs, site="edges", replace="cut", queries="[end]", **ALIKE
    ),
    "knock-out, every row of queries": lambda model, pairs: ts.knock_out(model, pairs, **ALIKE),
    "edges between heads": lambda model, pairs: ts.head_edges(model, pairs, segment="all", **ALIKE),
}


@dataclass
class Line:
    """The times of one arm, and how many cells it gives per pair."""

    name: str
    cells: int = 0
    timing: Timing = field(default_factory=Timing)


def n_cells(found: Any) -> int:
    """Exact cells per pair."""
    if isinstance(found, ts.CausalTrace):
        return int(found.inside[0].sum()) * len(found.layers)
    if isinstance(found, ts.tracer.KnockOut):
        return sum(n_cells(trace) for trace in found.traces.values())
    return len(found) if isinstance(found, ts.tracer.Neurons) else len(found.to_frame(ci=None))


def measure(*, quick: bool = False, repeats: int = 1) -> list[Line]:
    """Lines for a randomly initialised ViT-B/32 (quick: a tiny tower)."""
    torch.set_num_threads(1)
    _, model = random_clip(quick)
    image = model.encode_images(torch.randn(1, 3, *((32, 32) if quick else (224, 224))))[0]
    captions = [(CORRECT.format(word), FOIL.format(how, word)) for how in SEVERITIES for word in CONDITIONS]
    fit = [both for both in captions if len({len(model.text.token_ids(caption)) for caption in both}) == 1]
    pairs = [ts.Pair(correct=a, foil=b, image=image) for a, b in fit[: 2 if quick else PAIRS]]
    lines = [Line(name) for name in ARMS]
    for turn in range(repeats + 1):
        for line in lines:
            if turn == 1:  # the first warms up
                line.timing = Timing()
            line.cells = n_cells(line.timing.run(lambda line=line: ARMS[line.name](model, pairs)))
    return lines


def section(quick: bool, out: Path | None, *, repeats: int) -> str:
    return report(measure(quick=quick, repeats=1 if quick else repeats), 2 if quick else PAIRS)


def report(lines: list[Line], n_pairs: int) -> str:
    """The results as a section of Markdown."""
    rows = []
    for line in lines:
        ratio = statistics.median(a / b for a, b in zip(line.timing.cpu, lines[0].timing.cpu, strict=True))
        rows.append(f"| {line.name} | {line.cells} | {spread(line.timing.cpu)} | {ratio:.2f}× |")
    return "\n".join(
        [
            "## Finer cells",
            "",
            f"{n_pairs} pairs on a random {'tiny tower' if n_pairs < PAIRS else 'ViT-B/32'}, CPU seconds for all of "
            f"them. Cells are those that are run or known exactly, per pair; `ts.neurons` also estimates all others.",
            "",
            "| | cells | s | of the map |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=1)


if __name__ == "__main__":
    main()

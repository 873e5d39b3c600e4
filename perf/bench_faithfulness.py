"""Faithfulness curves against the map they are of, in one run on one thread.

    python perf/bench_faithfulness.py            # a random ViT-B/32, 28 pairs
    python perf/bench_faithfulness.py --quick    # a tiny tower and two pairs, seconds: does the benchmark itself work?

The map and its curves take turns. A curve of 20 points is 20 joint patches of every pair.
"""

from __future__ import annotations

from measuring import CORRECT, FOIL, Timing, random_clip, spread, write_section

# isort: split
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_trace import CONDITIONS, SEVERITIES

import tracescribe as ts

POINTS, PAIRS = 20, 28
MAPS: dict[str, dict[str, Any]] = {
    "residual stream × token": {},
    "MLP output × token": {"site": "mlp"},
    "head × all tokens": {"site": "z", "heads": "each"},
}
ARMS = {"the map's order": 0, "and 3 random orders": 3}


@dataclass
class Line:
    """One kind of map: its time, and the time of its curves by arm."""

    name: str
    n_cells: int
    map: Timing
    curves: dict[str, Timing]

    def ratio(self, arm: str) -> float:
        """Median over the turns of the ratio of a turn's times."""
        return statistics.median(a / b for a, b in zip(self.curves[arm].cpu, self.map.cpu, strict=True))


def measure(*, quick: bool = False, repeats: int = 3) -> list[Line]:
    """Lines for a randomly initialised ViT-B/32 (quick: a tiny tower)."""
    torch.set_num_threads(1)
    _, model = random_clip(quick)
    image = model.encode_images(torch.randn(1, 3, *((32, 32) if quick else (224, 224))))[0]
    captions = [(CORRECT.format(word), FOIL.format(how, word)) for how in SEVERITIES for word in CONDITIONS]
    fit = [both for both in captions if len({len(model.text.token_ids(caption)) for caption in both}) == 1]
    pairs = [ts.Pair(correct=a, foil=b, image=image) for a, b in fit[: 2 if quick else PAIRS]]
    lines = []
    for name, options in list(MAPS.items())[: 2 if quick else None]:
        line = Line(name, 0, Timing(), {arm: Timing() for arm in ARMS})
        for turn in range(repeats + 1):
            if turn == 1:  # the first warms up
                line.map, line.curves = Timing(), {arm: Timing() for arm in ARMS}
            trace = line.map.run(lambda options=options: ts.trace(model, pairs, floor=0.0, progress=False, **options))
            for arm, random in ARMS.items():
                curves = line.curves[arm].run(
                    lambda trace=trace, random=random: ts.faithfulness(
                        model, trace, pairs, sizes=POINTS, random=random, segment="all", progress=False
                    )
                )
                line.n_cells = len(curves.cells)
        lines.append(line)
    return lines


def section(quick: bool, out: Path | None, *, repeats: int) -> str:
    return report(measure(quick=quick, repeats=1 if quick else repeats), 2 if quick else PAIRS)


def report(lines: list[Line], n_pairs: int) -> str:
    """The results as a section of Markdown."""
    rows = [
        f"| {line.name} | {line.n_cells} | {spread(line.map.cpu)} | "
        + " | ".join(f"{spread(line.curves[arm].cpu)} | {line.ratio(arm):.2f}×" for arm in ARMS)
        + " |"
        for line in lines
    ]
    arms = " | ".join(f"{arm}, s | of the map" for arm in ARMS)
    return "\n".join(
        [
            "## Faithfulness curves",
            "",
            f"{n_pairs} pairs on a random {'tiny tower' if n_pairs < PAIRS else 'ViT-B/32'}, `ts.faithfulness` with "
            f"{POINTS} points: sufficiency and necessity, so that an order is up to {2 * POINTS - 2} joint patches of "
            f"every pair (equal sets, and sets that are known by construction, run once or not at all). By |CTE| is "
            f"another order where a map has negative values.",
            "",
            f"| map | cells | the map, s | {arms} |",
            "|---|---|---|" + "---|---|" * len(ARMS),
            *rows,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=3)


if __name__ == "__main__":
    main()

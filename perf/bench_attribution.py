"""Attribution against exact tracing: what it saves and how well it agrees, in one run on one thread.

    python perf/bench_attribution.py            # the miniature and a random ViT-B/32
    python perf/bench_attribution.py --quick    # a tiny tower and two pairs, seconds: does the benchmark itself work?

Exact and first-order maps of the same pairs take turns. Agreement is that of ``CausalTrace.provenance["agreement"]``
with every text pair in the sample: cells that are 0 or 1 by construction are left out. Seconds are CPU seconds of this
process; those of attribution are without the exact sample that measures the agreement.
"""

from __future__ import annotations

from measuring import CORRECT, FOIL, Timing, random_clip, write_section

# isort: split
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_trace import CONDITIONS

import tracescribe as ts
from tracescribe.patching import AttributionEngine, Column, PatchingEngine, Sweep, each_position, site_named
from tracescribe.tracer.results.agreement import Agreement

STEPS = (1, 5)  # 5: what EAP-IG (Hanna et al. 2024) found to be enough
SWEEPS = {  # what is mapped: site, and whether heads (over all tokens) or tokens are the columns
    "residual stream × token": ("resid", False),
    "attention output × token": ("attn", False),
    "MLP output × token": ("mlp", False),
    "head × all tokens": ("z", True),
    "attention pattern × query": ("pattern", False),
}
Rows = list[list[int]]


@dataclass
class Line:
    """One kind of map of one model: exact and first-order times a pair, and the agreement by number of steps."""

    model: str
    name: str
    path: str
    exact: Timing
    first_order: dict[int, Timing]
    agreement: dict[int, Agreement]
    n_pairs: int

    def per_pair(self, timing: Timing) -> float:
        return statistics.median(timing.cpu) / self.n_pairs


def columns_of(model: ts.DualEncoder, rows: Rows, heads: bool) -> list[list[Column]]:
    if not heads:
        return each_position([len(row) for row in rows])
    return [[Column(tuple(range(len(row))), head) for head in range(model.text.n_heads or 0)] for row in rows]


def measure_model(name: str, model: ts.DualEncoder, pairs: list[ts.Pair], repeats: int, kinds: int) -> list[Line]:
    """The first ``kinds`` kinds of maps of these pairs, by both methods in turn."""
    base, donor = (model.text.rows([getattr(pair, side) for pair in pairs]) for side in ("correct", "foil"))
    directions = [pair.image[None] for pair in pairs]
    exact, first = PatchingEngine(model.text), AttributionEngine(model.text)
    lines = []
    for label, (site, heads) in list(SWEEPS.items())[:kinds]:
        options: dict[str, Any] = {"sweep": Sweep(site_named(site)), "columns": columns_of(model, base, heads)}
        times, timing = {steps: Timing() for steps in STEPS}, Timing()
        path = ""
        for _ in range(repeats):
            path = timing.run(lambda options=options: exact.patch(base, donor, **options)).path
            for steps in STEPS:
                times[steps].run(
                    lambda options=options, steps=steps: first.attribute(
                        base, donor, directions, steps=steps, **options
                    )
                )
        agreement = {
            steps: Agreement(
                **ts.trace(
                    model,
                    pairs,
                    site=site,
                    heads="each" if heads else None,
                    method="attribution",
                    steps=steps,
                    exact_sample=len(pairs),
                    floor=0.0,
                    progress=False,
                ).provenance["agreement"]
            )
            for steps in STEPS
        }
        lines.append(Line(name, label, path, timing, times, agreement, len(pairs)))
    return lines


def measure(*, quick: bool = False, repeats: int = 3, conditions: int = 16) -> list[Line]:
    """Lines for the miniature and for a randomly initialised ViT-B/32 (quick: a tiny tower)."""
    torch.set_num_threads(1)
    miniature = ts.load("phantom")
    _, random = random_clip(quick)
    pixels = torch.randn(1, 3, *((32, 32) if quick else (224, 224)))
    found = []
    for name, model, image in (
        ("miniature", miniature, miniature.text.encode(["The lungs are clear."])[0]),
        ("tiny, random" if quick else "ViT-B/32, random", random, random.encode_images(pixels)[0]),
    ):
        known = "opacity", "effusion", "edema", "nodule", "pneumothorax", "cardiomegaly"
        words = known if name == "miniature" else CONDITIONS[:conditions]
        pairs = [ts.Pair(correct=CORRECT.format(w), foil=FOIL.format("severe", w), image=image) for w in words]
        pairs = [
            pair for pair in pairs if len(model.text.token_ids(pair.correct)) == len(model.text.token_ids(pair.foil))
        ]
        found += measure_model(name, model, pairs[: 2 if quick else None], repeats, 2 if quick else len(SWEEPS))
    return found


def section(quick: bool, out: Path | None, *, repeats: int, conditions: int) -> str:
    return report(measure(quick=quick, repeats=1 if quick else repeats, conditions=conditions))


def report(lines: list[Line]) -> str:
    """The results as a section of Markdown."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    rows = []
    for line in lines:
        for steps in STEPS:
            agreement, ours = line.agreement[steps], line.per_pair(line.first_order[steps])
            exact = line.per_pair(line.exact)
            rows.append(
                f"| {line.model} | {line.name} | {steps} | {exact:.3g} ({line.path}) | {ours:.3g} | "
                f"{exact / ours:.2g}× | {shown(agreement.rank_correlation)} ({shown(agreement.lowest)}) | "
                f"{shown(agreement.relative_error)} | {agreement.cells} |"
            )
    sizes = ", ".join(f"{line.n_pairs} pairs on the {line.model}" for line in {x.model: x for x in lines}.values())
    return "\n".join(
        [
            "## Attribution against exact tracing",
            "",
            f'Pairs "{CORRECT.format("X")}" / "{FOIL.format("severe", "X")}": {sizes}; one image embedding each. '
            "Seconds are CPU seconds a pair, median over the turns. Rank correlation: Spearman with the exact map over "
            "a pair's cells that are not fixed by construction, mean over the pairs (and the lowest). Error: mean "
            "absolute error of S over the mean |S_corr − S_foil|, the scale of CTE.",
            "",
            "| model | map | steps | exact, s (path) | attribution, s | faster | rank correlation | error | cells |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Random weights and a miniature say how fast it is; how well it agrees on a trained model has to be "
            "measured there, which every attribution trace does. The resumed exact pass is itself cheap for short "
            "captions, and serves each further image by one matrix product, where attribution needs a backward pass.",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=3, conditions=len(CONDITIONS))


if __name__ == "__main__":
    main()

"""Other scores than the cosine: what candidates add to a trace, in one run on one thread.

    python perf/bench_metrics.py            # 28 pairs on a random ViT-B/32, 1,000 candidates
    python perf/bench_metrics.py --quick    # a tiny tower and two pairs, seconds: does the benchmark itself work?

A trace, and scores of its patched embeddings by each metric, take turns; tracing by a metric costs the difference to
the cosine's scores more. The candidates are embeddings, which texts become by one pass each, whatever the metric.
"""

from __future__ import annotations

from measuring import random_clip, spread, turns, write_section

# isort: split
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_scaling import as_pairs, text_pairs

import tracescribe as ts

N_PAIRS, N_CANDIDATES = 28, 1000
ARMS: dict[str, dict[str, Any]] = {
    "`cosine`": {},
    "`margin` against captions": {"metric": "margin"},
    "`log_probability` against captions": {"metric": "log_probability"},
    "`rank` against captions": {"metric": "rank"},
    "`log_probability` against targets": {"metric": "log_probability", "against": "target"},
    "`rank` against targets": {"metric": "rank", "against": "target"},
}


def section(quick: bool, out: Path | None, repeats: int) -> str:
    """A Markdown table: seconds of scores by metric, and what they add to a trace."""
    count, n_candidates = (2, 20) if quick else (N_PAIRS, N_CANDIDATES)
    _, dual = random_clip(quick)
    pairs = as_pairs(text_pairs(dual.text, count), torch.randn(count, dual.embed_dim))
    rows = np.random.default_rng(0).normal(size=(n_candidates, dual.embed_dim)).astype(np.float32)

    kept = ts.trace(dual, pairs, floor=0.0, progress=False)

    def arm(options: dict[str, Any]) -> Callable[[], Any]:
        candidates = {"candidates": rows} if options else {}
        return lambda: kept.rescore(**{"metric": "cosine", **options}, **candidates)

    arms = {name: arm(options) for name, options in ARMS.items()}
    arms["trace"] = lambda: ts.trace(dual, pairs, floor=0.0, progress=False)
    times = turns(arms, 1 if quick else repeats)
    base, trace = times["`cosine`"].cpu, times["trace"].cpu
    lines = [
        "## Scores among candidates",
        "",
        f"{count} pairs at {'a tiny tower' if quick else 'ViT-B/32'}, {n_candidates:,} candidate embeddings that all "
        f"pairs share. A trace by the cosine takes {spread(trace)} CPU s. Scoring its patched embeddings takes:",
        "",
        "| by | CPU s | more than the cosine, over the trace |",
        "|---|---|---|",
    ]
    for name in ARMS:
        added = [100 * (a - b) / c for a, b, c in zip(times[name].cpu, base, trace, strict=True)]
        lines.append(
            f"| {name} | {spread(times[name].cpu)} | {'' if name == '`cosine`' else f'**{spread(added)} %**'} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=5)


if __name__ == "__main__":
    main()

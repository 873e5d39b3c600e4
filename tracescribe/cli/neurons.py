"""`neurons`: finds the MLP neurons that carry a distinction: gradients rank all, replacements measure the first."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ..tracer.run.finer_options import NeuronOptions
from .common import table
from .finer import Measured, Progress, finer_command, interval, records

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer import Pair

_SHOWN = 20  # lines of the table for people


@finer_command(NeuronOptions, "neurons")
def neurons(model: DualEncoder, pairs: list[Pair], options: NeuronOptions, progress: Progress) -> Measured:
    """Find the MLP neurons that carry the difference between captions, and measure the first ones exactly.

    Example:  tracescribe neurons phantom pairs.jsonl -o neurons.safetensors --top 50 --out neurons.csv
    """
    from .. import tracer, viz

    found = tracer.neurons(model, pairs, **asdict(options), progress=progress)
    numbers = found.to_frame(seed=options.seed)
    rows = [
        [str(row["layer"]), row["row"], str(row["neuron"]), f"{row['estimate']:.4f}", f"{row['cte']:.4f}",
         interval(row)]
        for row in records(numbers[found.chosen].head(_SHOWN))
    ]  # fmt: skip
    return Measured(
        found,
        numbers=lambda: numbers,
        draw=lambda path: viz.export(found.map(), path),
        document={
            "n_cells": found.n_cells,
            "n_pairs": found.n_pairs,
            "share_together": found.share_together,
            "agreement": asdict(found.agreement),
            "cells": records(numbers),
        },
        shown=table(["layer", "row", "neuron", "estimate", "CTE", "95% CI"], rows, left=2),
    )

"""`knock-out`: cuts attention from each row of queries to each token, in each layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ..tracer.run.finer_options import KnockOutOptions
from .common import table
from .finer import Measured, Progress, finer_command, records

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer import Pair


@finer_command(KnockOutOptions, "rows of queries")
def knock_out(model: DualEncoder, pairs: list[Pair], options: KnockOutOptions, progress: Progress) -> Measured:
    """Cut attention from each row of queries to each token, in each layer: who reads what from whom.

    Example:  tracescribe knock-out phantom pairs.jsonl -o cut.safetensors --figure cut.pdf
    """
    from .. import tracer, viz

    found = tracer.knock_out(model, pairs, **asdict(options), progress=progress)
    largest = found.largest()
    maps = {f"queries: {query}": found.map(query) for query in found.queries}
    rows = [[each.query, each.key, str(each.layer), f"{each.cte:.4f}"] for each in largest]
    return Measured(
        found,
        numbers=lambda: found.to_frame(ci=0.95, seed=options.seed),
        draw=lambda path: viz.export(viz.panels(maps, bars=None), path, "page"),
        document={
            "queries": found.queries,
            "largest": [each._asdict() for each in largest],
            "cells": records(found.to_frame()),
        },
        shown=table(["queries", "key", "layer", "CTE"], rows, left=2),
    )

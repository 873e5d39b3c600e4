"""`head-edges`: the effect of every edge from a head to a head of a later layer (path patching)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ..tracer.run.finer_options import HeadEdgeOptions
from .common import table
from .finer import Measured, Progress, finer_command, interval, records

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer import Pair

_SHOWN, _TOLD = 20, 100  # edges for people, and for machines


@finer_command(HeadEdgeOptions, "edges")
def head_edges(model: DualEncoder, pairs: list[Pair], options: HeadEdgeOptions, progress: Progress) -> Measured:
    """Measure every edge from a head to a head of a later layer: what the one does through the other, exactly.

    The largest edges are shown; the files hold all.

    Example:  tracescribe head-edges phantom pairs.jsonl -o edges.safetensors --inputs v --out edges.csv
    """
    from .. import tracer, viz

    found = tracer.head_edges(model, pairs, **asdict(options), progress=progress)
    largest = records(found.to_frame(top=_TOLD, seed=options.seed))
    rows = [
        [f"{row['layer']}.{row['head']}", f"{row['receiver_layer']}.{row['receiver_head']}", f"{row['cte']:.4f}",
         interval(row)]
        for row in largest[:_SHOWN]
    ]  # fmt: skip
    return Measured(
        found,
        numbers=lambda: found.to_frame(seed=options.seed),
        draw=lambda path: viz.export(found.by_layer(), path, profile=False),
        document={"n_pairs": found.n_pairs, "inputs": found.inputs, "edges": largest},
        shown=table(["from layer.head", "to layer.head", "CTE", "95% CI"], rows, left=2),
    )

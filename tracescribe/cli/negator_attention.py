"""`negator-attention`: which heads attend to the negator more than to the word in its place."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ..tracer.run.finer_options import NegatorAttentionOptions
from .common import table
from .finer import Measured, Progress, finer_command, interval, records

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer import Pair

_SHOWN = 20  # heads for people


@finer_command(NegatorAttentionOptions, "attention patterns")
def negator_attention(
    model: DualEncoder, pairs: list[Pair], options: NegatorAttentionOptions, progress: Progress
) -> Measured:
    """Measure how much more attention each head pays to the negator than to the word in its place.

    Every pair must say which caption is negated (its field "negation"). Images play no part.

    Example:  tracescribe negator-attention phantom pairs.jsonl -o heads.safetensors --figure heads.pdf
    """
    from .. import tracer, viz

    found = tracer.negator_attention(model, pairs, **asdict(options), progress=progress)
    heads = found.ranked()
    rows = [
        [str(row["layer"]), str(row["head"]), f"{row['selectivity']:.4f}", interval(row), f"{row['negated']:.4f}",
         f"{row['affirmative']:.4f}"]
        for row in records(heads.head(_SHOWN))
    ]  # fmt: skip
    level = "interval" if found.ci is None else f"{100 * found.ci:g}% CI"
    return Measured(
        found,
        numbers=found.to_frame,
        draw=lambda path: viz.export(found.map(), path, profile=False),
        document={
            "n_pairs": found.n_pairs,
            "ci": found.ci,
            "negators": sorted({negator for negator, _ in found.negators}),
            "heads": records(heads),
        },
        shown=table(["layer", "head", "selectivity", level, "to the negator", "to its counterpart"], rows, left=2),
    )

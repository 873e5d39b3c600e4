"""Shared by `faithfulness` and `circuit`: the model, the trace and the pairs that were traced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..errors import OptionError
from .common import load_model, working

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer import CausalTrace, Pair

__all__ = ["Attribute", "Given", "TracedPairs", "read_given"]

Attribute = Annotated[
    str | None,
    typer.Option(help="Only pairs of this attribute, as they were traced.", show_default=False),
]
TracedPairs = Annotated[
    Path | None,
    typer.Argument(
        metavar="PAIRS",
        help="The pairs that were traced: .jsonl, .csv. Not needed if the trace keeps its embeddings.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]


class Given(NamedTuple):
    """What joint patches need; pairs: None where the trace is to have them itself."""

    model: DualEncoder
    trace: CausalTrace
    pairs: list[Pair] | None


def read_given(
    model: str,
    trace: Path,
    pairs: Path | None,
    *,
    attribute: str | None,
    images: Path | None,
    outside_images: bool,
    pretrained: str | None,
    trust_remote_code: bool,
    device: str,
    json: bool,
) -> Given:
    """Read the small things first, then load the model."""
    from ..tracer import load_trace, read_pairs
    from .trace import of_attribute

    if pairs is None and (attribute is not None or images is not None or outside_images):
        raise OptionError("--attribute, --images and --outside-images are about PAIRS: give the file that was traced")
    chosen = None
    with working(json, f"reading {trace}"):
        found = load_trace(trace)
        if pairs is not None:
            chosen = of_attribute(read_pairs(pairs, images=images, outside_images=outside_images), attribute, pairs)
    with working(json, f"loading {model}"):
        return Given(load_model(model, pretrained, device, trust_remote_code), found, chosen)

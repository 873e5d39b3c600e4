"""Shared by `faithfulness` and `circuit`: the model, the trace and the pairs that were traced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .common import load_model, working

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer import CausalTrace, Pair

__all__ = ["Attribute", "Given", "read_given"]

Attribute = Annotated[
    str | None,
    typer.Option(help="Only pairs of this attribute, as they were traced.", show_default=False),
]


class Given(NamedTuple):
    """What joint patches need."""

    model: DualEncoder
    trace: CausalTrace
    pairs: list[Pair]


def read_given(
    model: str,
    trace: Path,
    pairs: Path,
    *,
    attribute: str | None,
    outside_images: bool,
    pretrained: str | None,
    trust_remote_code: bool,
    device: str,
    json: bool,
) -> Given:
    """Read the small things first, then load the model."""
    from ..tracer import load_trace, read_pairs
    from .trace import of_attribute

    with working(json, f"reading {trace}"):
        found = load_trace(trace)
        chosen = of_attribute(read_pairs(pairs, outside_images=outside_images), attribute, pairs)
    with working(json, f"loading {model}"):
        return Given(load_model(model, pretrained, device, trust_remote_code), found, chosen)

"""`circuit`: finds a small set of a map's cells that together carry a share of the difference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ..tracer.run.joint_options import CircuitOptions
from .common import (
    Device,
    ImagesFolder,
    Json,
    ModelName,
    OutsideImages,
    Pretrained,
    RemoteCode,
    TraceFile,
    announce,
    check_output,
    progress_bar,
    show,
    table,
)
from .declared import declared_flags
from .joint import Attribute, TracedPairs, read_given


@declared_flags(CircuitOptions)
def circuit(
    model: ModelName,
    trace: TraceFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the circuit goes: a .json file.")],
    options: CircuitOptions,
    pairs: TracedPairs = None,
    attribute: Attribute = None,
    images: ImagesFolder = None,
    outside_images: OutsideImages = False,
    pretrained: Pretrained = None,
    trust_remote_code: RemoteCode = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Find a small set of cells that together carry a share of S_corr - S_foil, exactly, with its stability.

    Example:  tracescribe circuit phantom trace.safetensors pairs.jsonl -o circuit.json --share 0.8
    """
    check_output(output, (".json",), inputs=[trace, pairs])
    announce(json)
    given = read_given(
        model,
        trace,
        pairs,
        attribute=attribute,
        images=images,
        outside_images=outside_images,
        pretrained=pretrained,
        trust_remote_code=trust_remote_code,
        device=device,
        json=json,
    )
    from ..tracer import circuit as search

    with progress_bar(json, "sets of cells", 1) as bar:
        found = search(*given, **vars(options), progress=lambda done, total: bar.to(done, total))
    found.save(output)
    frame = found.to_frame()
    document = {
        "output": output,
        "share": found.share,
        "lo": found.lo,
        "hi": found.hi,
        "wanted": found.wanted,
        "whole": found.whole,
        "n_cells": found.n_cells,
        "n_pairs": found.n_pairs,
        "cells": frame.to_dict(orient="records"),
    }
    rows = [
        [str(int(row["layer"])), row["row"], f"{row['cte_alone']:.3f}", f"{row['share_together']:.3f}",
         f"{row['stability']:.0%}" if math.isfinite(row["stability"]) else "–"]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    drawn = table(["layer", "row", "CTE alone", "together", "stability"], rows, left=2)
    show(json, document, repr(found), drawn, f"saved {output}")

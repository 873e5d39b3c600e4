"""`faithfulness`: patches the first cells of a trace's map together, and all others, beside random orders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..tracer.run.joint_options import FaithfulnessOptions
from .common import (
    FIGURES,
    Device,
    FigureFile,
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


@declared_flags(FaithfulnessOptions)
def faithfulness(
    model: ModelName,
    trace: TraceFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the curves go: a .safetensors file.")],
    options: FaithfulnessOptions,
    pairs: TracedPairs = None,
    figure: FigureFile = None,
    attribute: Attribute = None,
    images: ImagesFolder = None,
    outside_images: OutsideImages = False,
    pretrained: Pretrained = None,
    trust_remote_code: RemoteCode = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Patch the first k cells of a trace's map together, and all but these, for a list of k; save the curves.

    Example:  tracescribe faithfulness phantom trace.safetensors pairs.jsonl -o curves.safetensors --figure curves.pdf
    """
    inputs = [trace, pairs]
    check_output(output, (".safetensors",), inputs=inputs)
    if figure is not None:
        check_output(figure, FIGURES, inputs=inputs)
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
    from .. import viz
    from ..tracer import faithfulness as compute

    with progress_bar(json, "joint patches", 1) as bar:
        found = compute(*given, **vars(options), progress=lambda done, total: bar.to(done, total))
    found.save(output)
    if figure is not None:
        viz.export(found, figure)
    frame = found.to_frame(seed=options.seed)
    areas = frame.drop_duplicates(["curve", "order"])[["curve", "order", "cpr", "cmd"]].to_dict("records")
    curves = frame.astype(object)
    document = {
        "output": output,
        "summary": found.summary(),
        "first": found.top(10),
        "areas": areas,
        "curves": curves.where(curves.notna(), None).to_dict(orient="records"),
    }
    effect = frame[frame["order"] == "effect"].pivot_table(index="k", columns="curve", values="cte")
    rows = [[str(int(k)), f"{row['sufficiency']:.3f}", f"{row['necessity']:.3f}"] for k, row in effect.iterrows()]
    drawn = table(["k", "first k patched", "all but first k"], rows)
    show(json, document, found.summary(), drawn, f"saved {output}")

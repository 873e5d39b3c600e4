"""`export`: writes the merged weights of a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Device, Json, Overwrite, announce, load_model, show, working


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder.", exists=True, file_okay=False, show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.", show_default=False)],
    format: Annotated[
        Literal["state-dict", "open_clip", "transformers"] | None,
        typer.Option(help="By default that of the library that the model is of.", show_default=False),
    ] = None,
    weight: Annotated[
        float, typer.Option(min=0, max=1, help="How far from the base weights (0) to the tuned ones (1): WiSE-FT.")
    ] = 1.0,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Write a run's model, adapters merged into its weights, as a state dict, open_clip folder or transformers folder.

    Example:  tracescribe export runs/nast -o nast-merged --format state-dict
    """
    announce(json)
    from ..finetune import load_run, read_config
    from ..finetune.training.export import check_export, interpolate, model_place
    from ..finetune.training.export import export as write

    check_export(output, overwrite=overwrite)
    config = read_config(run / "config.json")
    check_export(output, overwrite=overwrite, inputs=[run, config.pretrained, model_place(config.model)])
    with working(json, f"merging {run} into {config.model}"):
        base = load_model(config.model, config.pretrained, device)
        tuned = load_run(base, run)
        folder = write(tuned if weight == 1 else interpolate(base, tuned, weight), output, format, overwrite=overwrite)
    files = sorted(path.name for path in folder.iterdir())
    document = {"output": folder, "model": config.model, "weight": weight, "files": files}
    show(json, document, f"saved {folder}: {', '.join(files)}")

"""`reproduce`: measures a published number again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from .common import Device, Json, Pretrained, load_model, show, table, working


def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A recipe; without one, all are listed.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Your copy of the recipe's file.", exists=True, dir_okay=False)
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="The folder that holds the images; by default that of the file.", exists=True, file_okay=False
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Score another model than the recipe's.")] = None,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Measure a published number again: measured, expected, and whether within tolerance (exit code 1 if not).

    Example:  tracescribe reproduce clip-coco-mcq --file COCO_val_mcq_llama3.1_rephrased.csv --images coco
    """
    from ..benchmark.recipes import recipe_named
    from ..benchmark.recipes import reproduce as measure

    if name is None:
        _list(json)
        return
    recipe = recipe_named(name)
    if file is None:
        raise OptionError(f"the recipe {name} needs your copy of {recipe.file}: {recipe.command}")
    chosen, weights = model or recipe.model, pretrained
    if recipe.model is None and (model or pretrained):
        raise OptionError(f"the recipe {name} counts records, which needs no model: leave out --model and --pretrained")
    if model is None and pretrained is None:
        if recipe.model is not None and recipe.weights is None:
            raise OptionError(f"the recipe {name} needs a checkpoint: {recipe.note} ({recipe.command})")
        weights = recipe.weights
    with working(json, f"measuring {name}"):
        found = measure(
            recipe,
            file,
            images=images,
            load=None if chosen is None else lambda: load_model(chosen, weights, device),
            model=chosen if weights is None else f"{chosen} ({weights})",
        )
    rows = [
        [
            row["measure"],
            f"{row['measured']:g}" if recipe.model is None else f"{row['measured']:.2f}",
            f"{row['expected']:g}",
            "yes" if row["within"] else "no",
        ]
        for row in found.to_dict()["measures"]
    ]
    drawn = table(["measure", "measured", "expected", f"within {recipe.tolerance:g}"], rows)
    verdict = "reproduced" if found.within else "not reproduced"
    scored = "" if found.model is None else f", model: {found.model}"
    left_out = [f"left out: {count} ({why})" for why, count in found.left_out.items()]
    show(json, found.to_dict(), drawn, *left_out, f"{verdict}: {name}{scored}; source: {recipe.source}")
    if not found.within:
        raise typer.Exit(1)


def _list(json: bool) -> None:
    from ..benchmark.recipes import RECIPES

    rows, document = [], []
    for recipe in RECIPES.values():
        values = ", ".join(f"{measure.rpartition('/')[2]} {value:g}" for measure, value in recipe.expected.items())
        rows.append([recipe.name, recipe.file, values + (f" ± {recipe.tolerance:g}" if recipe.tolerance else "")])
        document.append({**vars(recipe), "expected": dict(recipe.expected), "command": recipe.command})
    drawn = table(["recipe", "file", "expected"], rows, left=3, unbroken=("recipe", "file"))
    show(json, {"recipes": document}, drawn, "Run one by `tracescribe reproduce NAME --file FILE --images FOLDER`.")

"""`finetune`: trains a model with layer weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..io.reading import is_file
from .common import (
    Device,
    Json,
    ModelName,
    OptionError,
    OutsideImages,
    Overwrite,
    Pretrained,
    Seed,
    Split,
    announce,
    load_model,
    progress_bar,
    show,
    table,
    working,
)

if TYPE_CHECKING:
    from ..finetune import TrainConfig


def finetune(
    context: typer.Context,
    model: ModelName,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with captions.jsonl and claims.jsonl.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder: adapters, configuration, results.")],
    plan: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Layer weights from `tracescribe prescribe`.")
    ] = None,
    weighting: Annotated[
        Literal["uniform", "lr", "update", "gradient"] | None,
        typer.Option(help="How the plan acts (update by default); gradient is the paper's way, which AdamW cancels."),
    ] = None,
    budget: Annotated[
        Literal["mean", "none"], typer.Option(help="mean: multipliers of mean 1, comparable with uniform training.")
    ] = "mean",
    split: Split = "train",
    steps: Annotated[int, typer.Option(min=1, max=10**9)] = 150,
    batch_size: Annotated[int, typer.Option(min=2, max=10**6)] = 32,
    lambda_: Annotated[float, typer.Option("--lambda", min=0, max=1, help="Weight of L_CLIP beside L_claim.")] = 0.5,
    lr: Annotated[float, typer.Option(help="Learning rate, fixed.")] = 3e-3,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option()] = "adamw",
    rank: Annotated[int, typer.Option(min=1, max=8192, help="LoRA's rank.")] = 4,
    seed: Seed = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="The other options, from the config.json of a run; options given here come before it.",
            show_default=False,
        ),
    ] = None,
    outside_images: OutsideImages = False,
    overwrite: Overwrite = False,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Fine-tune a model's text tower by LoRA on L_CLIP and L_claim, uniformly or weighted by a plan.

    Example:  tracescribe finetune phantom data -o runs/nast --plan plan.json
    """
    announce(json)
    from ..finetune.training.runs import check_run_folder

    check_run_folder(output, overwrite=overwrite)
    files = {name: data / f"{name}.jsonl" for name in ("captions", "claims")}
    for path in files.values():
        if not is_file(path):
            raise OptionError(f"there is no {path.name} in {str(data)!r}: `tracescribe build phantom` shows the layout")
    if plan is not None and weighting == "uniform":
        raise OptionError("--plan would not be used with --weighting uniform: leave one of the two out")
    options = {
        "plan": plan,
        "weighting": weighting or ("uniform" if plan is None else "update"),
        "budget": budget,
        "split": None if split == "all" else split,
        "steps": steps,
        "batch_size": batch_size,
        "lambda_": lambda_,
        "lr": lr,
        "optimizer": optimizer,
        "rank": rank,
        "seed": seed,
        "outside_images": outside_images,
    }
    settings = _config({"model": model, **files}, options, config, context)
    from ..finetune import train

    with working(json, f"embedding the images of {data} with {model}"):
        encoder = load_model(model, pretrained, device)
        with progress_bar(json, "fine-tuning", settings.steps) as bar:
            result = train(settings, encoder, callbacks=[lambda step: bar.to(step.step, note=f"loss {step.loss:.3f}")])
        folder = result.save(output, overwrite=overwrite)
    share, shares = result.update, result.update.share
    document = {
        "output": folder,
        "weighting": settings.weighting,
        "seconds": result.seconds,
        "loss": {"first": result.history.loss[0], "last": result.history.loss[-1]},
        "multipliers": None if result.plan is None else result.plan.multipliers,
        "update_share": shares,
        "effective_layers": share.effective_layers,
    }
    rows = [
        [str(block + 1), f"{100 * value:.1f}", "█" * round(24 * value / max(float(shares.max()), 1e-12))]
        for block, value in enumerate(shares)
    ]
    drawn = table(["block", "share of the update (%)", ""], rows)
    drawn.columns[-1].justify = "left"
    closing = f"loss {result.history.loss[0]:.3f} -> {result.history.loss[-1]:.3f} in {result.seconds:.0f} s"
    show(
        json, document, drawn, closing, f"saved {folder}; score it with: tracescribe evaluate MODEL DATA --run {folder}"
    )


def _config(given: dict[str, Any], options: dict[str, Any], file: Path | None, context: typer.Context) -> TrainConfig:
    """The options of the command line, over those of a configuration file."""
    from pydantic import ValidationError

    from ..finetune import TrainConfig, read_config

    if file is not None:
        said = {name for name in options if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
        if "plan" in said:
            said.add("weighting")
        told = {name: value for name, value in read_config(file) if not (name == "lora_alpha" and "rank" in said)}
        options = told | {name: options[name] for name in said}
    try:
        return TrainConfig(**options | given)
    except ValidationError as problem:
        found = problem.errors()[0]
        field = ".".join(map(str, found["loc"])).rstrip("_").replace("_", "-")
        sentence = found["msg"].removeprefix("Value error, ")
        raise OptionError(f"--{field}: {sentence}" if field else sentence) from None

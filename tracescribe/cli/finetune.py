"""`finetune`: trains a model with layer weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..processes import is_first
from .common import (
    ImagesFolder,
    Json,
    OptionError,
    OutsideImages,
    Overwrite,
    Pretrained,
    announce,
    load_model,
    show,
    table,
    working,
)

if TYPE_CHECKING:
    from ..finetune import TrainConfig, TrainResult
    from ..tracer.run.workers import Team


def finetune(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="(MODEL DATA | FILE) [SECTION.KEY=VALUE]...",
            help="A model and a folder with captions.jsonl and claims.jsonl; or a configuration: a .yaml file in "
            "sections, or the config.json of a run. Then changes of it, such as optim.lr=0.001.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The run's folder: adapters, configuration, results.", show_default=False),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Layer weights from `tracescribe prescribe`.", show_default=False
        ),
    ] = None,
    weighting: Annotated[
        Literal["uniform", "lr", "update", "gradient"] | None,
        typer.Option(help="How the plan acts (update by default); gradient is the paper's way, which AdamW cancels."),
    ] = None,
    budget: Annotated[
        Literal["mean", "none"] | None,
        typer.Option(help="mean (the default): multipliers of mean 1, comparable with uniform training."),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option(help="Which records to train on: train by default.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=10**9, help="150 by default.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, max=10**6, help="32 by default.", show_default=False)] = None,
    lambda_: Annotated[
        float | None,
        typer.Option(
            "--lambda", min=0, max=1, help="Weight of L_CLIP beside L_claim; 0.5 by default.", show_default=False
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; 0.003 by default.", show_default=False)] = None,
    schedule: Annotated[
        Literal["constant", "linear", "cosine"] | None,
        typer.Option(help="What follows the warm-up; constant by default.", show_default=False),
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, max=10**9, help="Steps of linear warm-up; none by default.", show_default=False)
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "sgd"] | None, typer.Option(help="adamw by default.", show_default=False)
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, max=8192, help="LoRA's rank; 4 by default.", show_default=False)
    ] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(min=0, max=10**9, help="Steps between evaluations on the split val.", show_default=False),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            min=0, max=10**9, help="Steps between checkpoints, in OUTPUT.checkpoint until the end.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the configuration as YAML, and stop.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="0 by default.", show_default=False)] = None,
    images: ImagesFolder = None,
    outside_images: OutsideImages = False,
    overwrite: Overwrite = False,
    pretrained: Pretrained = None,
    device: Annotated[
        str | None, typer.Option(help="cpu (the default), cuda, cuda:1, mps.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Fine-tune a model's text tower by LoRA on L_CLIP and L_claim, uniformly or weighted by a plan.

    A run that is interrupted leaves OUTPUT.checkpoint, from which the same command with --resume goes on.

    Example:  tracescribe finetune phantom data -o runs/nast --plan plan.json
              tracescribe finetune run.yaml optim.lr=0.001 -o runs/nast --resume
              accelerate launch -m tracescribe finetune run.yaml -o runs/nast --device cuda
    """
    if not print_config:
        announce(json)
    if plan is not None and weighting == "uniform":
        raise OptionError("--plan would not be used with --weighting uniform: leave one of the two out")
    given = {
        "plan": plan,
        "weighting": weighting or (None if plan is None else "update"),
        "budget": budget,
        "split": split,
        "steps": steps,
        "batch_size": batch_size,
        "lambda_": lambda_,
        "lr": lr,
        "schedule": schedule,
        "warmup": warmup,
        "optimizer": optimizer,
        "rank": rank,
        "evaluate_every": evaluate_every,
        "checkpoint_every": checkpoint_every,
        "seed": seed,
        "images": images,
        "outside_images": outside_images or None,
        "pretrained": pretrained,
        "device": device,
    }
    if output is not None and not print_config and is_first():
        from ..finetune.training.runs import check_run_folder

        check_run_folder(output, overwrite=overwrite or resume)  # before the configuration is read
    settings = _config(words, {name: value for name, value in given.items() if value is not None})
    from ..finetune.training.config_files import as_yaml

    if print_config:
        typer.echo(as_yaml(settings), nl=False)
        return
    if output is None:
        raise OptionError("say where the run goes: -o FOLDER")
    from ..tracer.run.workers import team

    with team(settings.device) as processes:
        result = _run(settings, output, processes, resume, overwrite, json)
    if result is None:
        return
    share, shares = result.update, result.update.share
    document = {
        "output": output,
        "weighting": settings.weighting,
        "seconds": result.seconds,
        "loss": {"first": result.history.loss[0], "last": result.history.loss[-1]},
        "multipliers": None if result.plan is None else result.plan.multipliers,
        "steps": len(result.history.loss),
        "best": result.best,
        "stopped": result.stopped,
        "update_share": shares,
        "effective_layers": share.effective_layers,
    }
    rows = [
        [str(block + 1), f"{100 * value:.1f}", "█" * round(24 * value / max(float(shares.max()), 1e-12))]
        for block, value in enumerate(shares)
    ]
    drawn = table(["block", "share of the update (%)", ""], rows)
    drawn.columns[-1].justify = "left"
    ended = "" if result.stopped is None else f"stopped early: {result.stopped}; "
    closing = f"{ended}loss {result.history.loss[0]:.3f} -> {result.history.loss[-1]:.3f} in {result.seconds:.0f} s"
    show(
        json, document, drawn, closing, f"saved {output}; score it with: tracescribe evaluate MODEL DATA --run {output}"
    )


def _run(
    settings: TrainConfig, output: Path, processes: Team, resume: bool, overwrite: bool, json: bool
) -> TrainResult | None:
    """Train, and save in the first process; None in the others, and where there was nothing to do."""
    from ..finetune import train
    from ..finetune.training.checkpoints import check_checkpoint_folder, remove_checkpoint
    from ..finetune.training.runs import check_run_folder, is_finished

    checkpoint = output.with_name(f"{output.name}.checkpoint")
    quiet = json or not processes.is_main
    finished = resume and is_finished(output, settings)
    processes.wait()  # nothing is written before all have looked
    if finished:  # a queue starts the command again, whatever the last one reached
        if processes.is_main:
            remove_checkpoint(checkpoint)
            show(json, {"output": output, "finished": True}, f"{output} holds this run, which is finished")
        return None
    if processes.is_main:
        check_run_folder(output, overwrite=overwrite)
        check_checkpoint_folder(checkpoint, resume=resume)
    with working(quiet, f"embedding the images of {settings.captions} with {settings.model}"):
        encoder = load_model(settings.model, settings.pretrained, processes.device)
        try:
            result = train(settings, encoder, checkpoints=checkpoint, resume=resume, progress=not quiet)
        except KeyboardInterrupt:
            if checkpoint.exists():
                raise KeyboardInterrupt(f"stopped; the same command with --resume goes on from {checkpoint}") from None
            raise
        if not processes.is_main:
            return None
        result.save(output, overwrite=overwrite)
        remove_checkpoint(checkpoint)
    return result


def _config(words: Sequence[str], given: dict[str, Any]) -> TrainConfig:
    """The configuration that the words name, with what the options say in its place."""
    from ..finetune.training.config_files import changed_config, read_config

    names = [word for word in words if "=" not in word]
    changes = [word for word in words if "=" in word]
    if len(names) == 1 and Path(names[0]).suffix.lower() in (".yaml", ".yml", ".json"):
        return changed_config(read_config(names[0]), changes, given)
    if len(names) != 2:
        raise OptionError(
            f"expected a model and a data folder, or one .yaml or .json file, not {' '.join(names) or 'nothing'!r}"
        )
    model, data = names[0], Path(names[1])
    files = {name: str(data / f"{name}.jsonl") for name in ("captions", "claims")}
    for path in map(Path, files.values()):
        if not path.is_file():
            raise OptionError(f"there is no {path.name} in {str(data)!r}: `tracescribe build phantom` shows the layout")
    return changed_config(None, changes, {"model": model, **files, **given})

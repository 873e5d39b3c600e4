"""`finetune` and `evaluate`: from layer weights to a trained model, and to its scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .common import (
    Device,
    Json,
    ModelName,
    OptionError,
    Pretrained,
    Seed,
    check_folder,
    load_model,
    progress_bar,
    show,
    table,
    working,
)

if TYPE_CHECKING:
    from ..benchmark import Evaluation
    from ..finetune import TrainConfig

Split = Annotated[
    Literal["train", "val", "test", "all"], typer.Option(help="Which records; those without a split are always taken.")
]


def finetune(
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
    steps: Annotated[int, typer.Option(min=1)] = 150,
    batch_size: Annotated[int, typer.Option(min=2)] = 32,
    lambda_: Annotated[float, typer.Option("--lambda", min=0, max=1, help="Weight of L_CLIP beside L_claim.")] = 0.5,
    lr: Annotated[float, typer.Option(help="Learning rate, fixed.")] = 3e-3,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option()] = "adamw",
    rank: Annotated[int, typer.Option(min=1, help="LoRA's rank.")] = 4,
    seed: Seed = 0,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Fine-tune a model's text tower by LoRA on L_CLIP and L_claim, uniformly or weighted by a plan.

    Example:  tracescribe finetune phantom data -o runs/nast --plan plan.json
    """
    from ..finetune.training.runs import check_run_folder

    check_run_folder(check_folder(output))
    files = {name: data / f"{name}.jsonl" for name in ("captions", "claims")}
    for path in files.values():
        if not path.is_file():
            raise OptionError(f"there is no {path.name} in {str(data)!r}: `tracescribe build phantom` shows the layout")
    config = _config(
        model=model,
        **files,
        plan=plan,
        weighting=weighting or ("uniform" if plan is None else "update"),
        budget=budget,
        split=None if split == "all" else split,
        steps=steps,
        batch_size=batch_size,
        lambda_=lambda_,
        lr=lr,
        optimizer=optimizer,
        rank=rank,
        lora_alpha=2.0 * rank,
        seed=seed,
    )
    from ..finetune import train

    with working(json, f"embedding the images of {data} with {model}"):
        encoder = load_model(model, pretrained, device)
        with progress_bar(json, "fine-tuning", steps) as bar:
            result = train(config, encoder, callbacks=[lambda step: bar.step(f"loss {step.loss:.3f}")])
        folder = result.save(output)
    share, shares = result.update, result.update.share
    document = {
        "output": folder,
        "weighting": config.weighting,
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


def evaluate(
    model: ModelName,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with mcq.jsonl, claims.jsonl, captions.jsonl (any of them), or one such file.",
            exists=True,
            show_default=False,
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A run of `tracescribe finetune`; scored beside the model."),
    ] = None,
    split: Split = "test",
    seed: Seed = 0,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Score a model on multiple choice with and without negation, claims and retrieval, with shortcuts beside them.

    Example:  tracescribe evaluate phantom data --run runs/nast
    """
    from ..benchmark import embed_images
    from ..benchmark import evaluate as score
    from ..finetune import load_run

    chosen = None if split == "all" else split
    with working(json, f"scoring {model} on {data}"):
        encoder = load_model(model, pretrained, device)
        images = embed_images(encoder, data, split=chosen)
        before = score(encoder, data, split=chosen, seed=seed, image_embeddings=images)
        after = None
        if run is not None:
            tuned = load_run(encoder, run)
            after = score(tuned, data, split=chosen, seed=seed, image_embeddings=images, before=before)
    document: dict[str, Any] = {"model": model, "split": split, **before.to_dict()}
    parts = _summaries({model: before})
    if run is not None and after is not None:
        document = {"model": model, "split": split, "before": before.to_dict(), "after": after.to_dict(), "run": run}
        parts = _summaries({f"{model}, before": before, f"{model} with {run}": after})
    show(json, document, *parts)


def _summaries(scored: dict[str, Evaluation]) -> list[str]:
    return [line for name, scores in scored.items() for line in (name, scores.summary())]


def _config(**options: Any) -> TrainConfig:
    from pydantic import ValidationError

    from ..finetune import TrainConfig

    try:
        return TrainConfig(**options)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(map(str, first["loc"])).rstrip("_")
        sentence = first["msg"].removeprefix("Value error, ")
        raise OptionError(f"--{field}: {sentence}" if field else sentence) from None

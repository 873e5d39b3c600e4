"""`evaluate`: a model's scores, and those of a fine-tuned one beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Device, Json, ModelName, OutsideImages, Pretrained, Seed, Split, load_model, show, working

if TYPE_CHECKING:
    from ..benchmark import Evaluation


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
    outside_images: OutsideImages = False,
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
        of: dict[str, Any] = {"split": chosen, "outside_images": outside_images}
        of["image_embeddings"] = embed_images(encoder, data, **of)
        before = score(encoder, data, seed=seed, **of)
        after = None
        if run is not None:
            tuned = load_run(encoder, run)
            after = score(tuned, data, seed=seed, before=before, **of)
    document: dict[str, Any] = {"model": model, "split": split, **before.to_dict()}
    parts = _summaries({model: before})
    if run is not None and after is not None:
        document = {"model": model, "split": split, "before": before.to_dict(), "after": after.to_dict(), "run": run}
        parts = _summaries({f"{model}, before": before, f"{model} with {run}": after})
    show(json, document, *parts)


def _summaries(scored: dict[str, Evaluation]) -> list[str]:
    return [line for name, scores in scored.items() for line in (name, scores.summary())]

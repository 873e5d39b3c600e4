"""`evaluate`: scores a model, and a fine-tuned one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Device,
    Json,
    ModelName,
    OutsideImages,
    Pretrained,
    Seed,
    Split,
    announce,
    check_output,
    load_model,
    show,
    working,
)

if TYPE_CHECKING:
    from ..benchmark import Evaluation


def evaluate(
    model: ModelName,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with mcq.jsonl, claims.jsonl, captions.jsonl (any of them), one such file, or a published "
            "file: NegBench, MedNega-CXR, VALSE, SugarCrepe, ARO, Winoground, COCO, ....",
            exists=True,
            show_default=False,
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A run of `tracescribe finetune`; scored beside the model."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The folder that holds the images; by default that of DATA.", exists=True, file_okay=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a missing image instead of counting it.")] = False,
    items: Annotated[
        Path | None, typer.Option(help="Write the hit of every item: .csv or .parquet; `compare` reads it.")
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
    if items is not None:
        check_output(items, (".csv", ".parquet"), inputs=[data])
    announce(json)
    from ..benchmark import embed_images, load_records
    from ..benchmark import evaluate as score
    from ..finetune import load_run

    chosen = None if split == "all" else split
    with working(json, f"scoring {model} on {data}"):
        encoder = load_model(model, pretrained, device)
        records = load_records(data, split=chosen, images=images, strict=strict, outside_images=outside_images)
        vectors = embed_images(encoder, records)
        before = score(encoder, records, strict=strict, seed=seed, image_embeddings=vectors)
        after = None
        if run is not None:
            tuned = load_run(encoder, run)
            after = score(tuned, records, seed=seed, image_embeddings=vectors, before=before)
        if items is not None:
            (before if after is None else after).save_items(items)
    left_out = {"left_out": records.left_out}
    document: dict[str, Any] = {"model": model, "split": split, **before.to_dict(), **left_out}
    parts = _summaries({model: before})
    if run is not None and after is not None:
        document = {"model": model, "split": split, "before": before.to_dict(), "after": after.to_dict(), "run": run}
        document |= left_out
        parts = _summaries({f"{model}, before": before, f"{model} with {run}": after})
    lines = [f"left out: {count} of the file ({why})" for why, count in records.left_out.items()]
    show(json, document, *parts, *lines)


def _summaries(scored: dict[str, Evaluation]) -> list[str]:
    return [line for name, scores in scored.items() for line in (name, scores.summary())]

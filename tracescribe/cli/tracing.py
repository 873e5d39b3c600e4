"""`info` and `trace`: what a model's text tower is, and what its layers carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from .common import (
    Device,
    Json,
    ModelName,
    PairsFile,
    Pretrained,
    check_output,
    load_model,
    show,
    show_progress,
    table,
    working,
)

if TYPE_CHECKING:
    from ..tracer import CausalTrace, LayerProfile


def info(model: ModelName, pretrained: Pretrained = None, device: Device = "cpu", json: Json = False) -> None:
    """Say what a model's text tower is, after checking that it computes what its source computes.

    Example:  tracescribe info phantom
    """
    with working(json, f"loading {model}"):
        encoder = load_model(model, pretrained, device)
        tower = encoder.text
        shape = {
            "model": encoder.name,
            "source": type(encoder.source).__name__,
            "layers": tower.n_layers,
            "heads": tower.n_heads,
            "width": tower.d_model,
            "embedding": encoder.embed_dim,
            "context_length": tower.context_length,
            "causal": tower.causal,
            "pooling": tower.pooling,
            "text_parameters": sum(parameter.numel() for parameter in tower.parameters()),
            "logit_scale": float(encoder.logit_scale),
        }
    shown = {**shape, "text_parameters": f"{shape['text_parameters']:,}", "logit_scale": f"{shape['logit_scale']:.2f}"}
    show(json, shape, table(["", ""], [[key.replace("_", " "), str(entry)] for key, entry in shown.items()], left=2))


def trace(
    model: ModelName,
    pairs: PairsFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the trace goes: a .safetensors file.")],
    site: Annotated[str, typer.Option(help="What is replaced: resid, the residual stream.")] = "resid",
    direction: Annotated[
        Literal["foil->correct", "correct->foil"], typer.Option(help="Whose states are put into whose run.")
    ] = "foil->correct",
    control: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Pairs of a control swap, to show the excess over.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pairs a batch; as many as fit by default.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16; the model's own by default.")] = None,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Trace caption pairs (JSONL or CSV: correct, foil, image) and save the causal trace.

    Example:  tracescribe trace phantom data/pairs.jsonl -o trace.safetensors
    """
    check_output(output, (".safetensors",))
    from ..tracer import read_pairs
    from ..tracer import trace as run_trace

    with working(json, f"reading {pairs}"):
        records = read_pairs(pairs)
        baseline = None if control is None else read_pairs(control)
    with working(json, f"tracing {len(records)} pairs with {model}"):
        encoder = load_model(model, pretrained, device, dtype)
        options = {
            "site": site,
            "direction": direction,
            "batch_size": "auto" if batch_size is None else batch_size,
            "progress": show_progress(json),
        }
        result = run_trace(encoder, records, **options)
        profile = result.per_layer()
        excess = None
        if baseline is not None:
            excess = result.control(run_trace(encoder, baseline, **options)).per_layer()
        result.save(output)
    document = {"output": output, "summary": result.summary(), **describe(result, profile)}
    if excess is not None:
        document["excess"] = excess.value
    show(json, document, result.summary(), layers(profile, excess), f"saved {output}")


def describe(result: CausalTrace, profile: LayerProfile) -> dict[str, object]:
    """A trace in the numbers a program asks for."""
    return {
        "n_pairs": result.n_pairs,
        "n_layers": result.n_layers,
        "n_valid": int(result.valid.sum()),
        "share_inverted": float(result.share_inverted),
        "direction": result.direction,
        "layers": profile.layers,
        "cte": profile.value,
        "lo": profile.lo,
        "hi": profile.hi,
        "provenance": result.provenance,
    }


def layers(profile: LayerProfile, excess: LayerProfile | None = None) -> Table:
    """The profile as a table with bars: CTE summed over tokens, layer by layer."""
    peak = max(float(abs(profile.value).max()), 1e-12)
    rows = []
    for index, layer in enumerate(profile.layers):
        value = float(profile.value[index])
        spread = (
            "" if profile.lo is None or profile.hi is None else f"{profile.lo[index]:.2f} … {profile.hi[index]:.2f}"
        )
        row = [str(int(layer)), f"{value:.3f}", spread, "█" * round(24 * abs(value) / peak)]
        rows.append(row if excess is None else [*row[:3], f"{float(excess.value[index]):+.3f}", row[3]])
    level = "CI" if profile.ci is None else f"{profile.ci:.0%} CI"
    names = ["layer", f"CTE ({profile.aggregate})", level, *([] if excess is None else ["over control"]), ""]
    drawn = table(names, rows)
    drawn.columns[-1].justify = "left"
    drawn.caption = Text("layer 0 is the embedding output; the first and the last layer are fixed by construction")
    return drawn

"""`info` and `trace`: describes a model's text tower, and traces pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from .common import (
    Device,
    Json,
    ModelName,
    OptionError,
    PairsFile,
    Pretrained,
    RemoteCode,
    check_output,
    load_model,
    progress_bar,
    show,
    table,
    working,
)

if TYPE_CHECKING:
    import torch

    from ..patching import DualEncoder
    from ..tracer import CausalTrace, LayerProfile, Pair
    from ..tracer.run.workers import Team


def info(
    model: ModelName,
    pretrained: Pretrained = None,
    trust_remote_code: RemoteCode = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Say what a model's text tower is, after checking that it computes what its source computes.

    Example:  tracescribe info phantom
    """
    with working(json, f"loading {model}"):
        encoder = load_model(model, pretrained, device, trust_remote_code)
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
            "readout_layers": list(tower.readout_layers),
            "padding": tower.spec.padding,
            "sites": "residual stream" if tower.opaque else "all",
            "path": "resume" if tower.resumable else "generic",
            "text_parameters": sum(parameter.numel() for parameter in tower.parameters()),
            "logit_scale": float(encoder.logit_scale),
        }
    read = ", ".join(map(str, tower.readout_layers))
    shown = {
        **shape,
        "readout_layers": read,
        "text_parameters": f"{shape['text_parameters']:,}",
        "logit_scale": f"{shape['logit_scale']:.2f}",
    }
    show(
        json,
        shape,
        table(["", ""], [[key.replace("_", " "), str(entry)] for key, entry in shown.items()], left=2, header=False),
    )


def trace(
    model: ModelName,
    pairs: PairsFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the trace goes: a .safetensors file.")],
    direction: Annotated[
        Literal["foil->correct", "correct->foil", "negated->affirmative"],
        typer.Option(help="Whose states are put into whose run."),
    ] = "foil->correct",
    site: Annotated[
        str,
        typer.Option(help="resid, resid_pre, resid_mid, resid_post, attn, mlp, z, q, k, v, pattern."),
    ] = "resid",
    positions: Annotated[
        str | None,
        typer.Option(
            help='"each" token by itself (default); or one set: all, differing, "from the first differing", a role '
            'such as "[end]", or numbers such as 3,4.',
            show_default=False,
        ),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help='"each", or numbers such as 0,3; at z, q, k, v, pattern.', show_default=False)
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Layers replaced together, centred on the layer.")] = 1,
    align: Annotated[
        Literal["none", "auto"], typer.Option(help="Whether captions of different lengths are aligned or refused.")
    ] = "none",
    position_policy: Annotated[
        Literal["shift", "keep"], typer.Option(help="With --align auto: whose places the donor's tokens take.")
    ] = "shift",
    method: Annotated[
        Literal["exact", "attribution", "direct"],
        typer.Option(help="Replacements; gradients, with their agreement; or direct effects (path patching)."),
    ] = "exact",
    steps: Annotated[int, typer.Option(min=1, help="With --method attribution: gradients that are averaged.")] = 1,
    attribute: Annotated[str | None, typer.Option(help="Only pairs of this attribute, such as existence.")] = None,
    control: Annotated[
        str | None, typer.Option(help="Another attribute of the same file (a swap without negation), to subtract.")
    ] = None,
    floor: Annotated[float, typer.Option(min=0, help="Least |S_corr - S_foil| (cosine) of a valid pair.")] = 1e-4,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder that keeps what was traced: a stopped run goes on there, a second run is free, and several "
            "processes share one trace.",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Text pairs a batch; chosen by default.")] = None,
    memory: Annotated[float, typer.Option(min=0.01, help="GiB that tracing may take beside the model.")] = 1.0,
    dtype: Annotated[
        Literal["float32", "float64", "float16", "bfloat16"] | None,
        typer.Option(help="Of the text tower's passes; the model's own by default."),
    ] = None,
    pretrained: Pretrained = None,
    trust_remote_code: RemoteCode = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Trace caption pairs (JSONL or CSV: correct, foil, image) and save the causal trace.

    Example:  tracescribe trace phantom data/pairs.jsonl --attribute existence --control severity -o trace.safetensors

    On several GPUs or machines, with a cache folder that all of them see:
    accelerate launch -m tracescribe trace MODEL PAIRS -o trace.safetensors --cache DIR --device cuda
    """
    check_output(output, (".safetensors",))
    from ..tracer import read_pairs
    from ..tracer.run.workers import team

    with working(json, f"reading {pairs}"):
        records = read_pairs(pairs)
        chosen = _of(records, attribute, pairs)
        baseline = None if control is None else _of(records, control, pairs)
    with team(device) as processes:
        with working(json, f"loading {model}"):
            encoder = load_model(model, pretrained, processes.device, trust_remote_code)
        options: dict[str, Any] = {
            "direction": direction,
            "site": site,
            "positions": _numbers(positions),
            "heads": _head_numbers(heads),
            "window": window,
            "align": align,
            "position_policy": position_policy,
            "method": method,
            "steps": steps,
            "batch_size": batch_size or "auto",
            "memory": int(memory * 2**30),
            "dtype": _dtype(dtype),
            "cache": cache,
        }
        if processes.count > 1:
            with working(json, ""):
                _share(encoder, [chosen, *([] if baseline is None else [baseline])], processes, json, options)
            if not processes.is_main:
                return
    options["floor"] = floor
    with working(json, ""):
        result = _trace(encoder, chosen, "tracing", json, options)
        profile = result.per_layer()
        excess = None
        if baseline is not None:
            excess = result.control(_trace(encoder, baseline, f"tracing {control}", json, options)).per_layer()
        result.save(output)
    document = {"output": output, "summary": result.summary(), **describe(result, profile)}
    if excess is not None:
        document["excess"] = {"over": control, "value": excess.value, "lo": excess.lo, "hi": excess.hi}
    caution = [] if profile.caution is None else [f"{profile.caution[0].upper()}{profile.caution[1:]}."]
    show(json, document, result.summary(), layers(profile, excess), *caution, f"saved {output}")


def _trace(encoder: DualEncoder, pairs: list[Pair], name: str, json: bool, options: dict[str, Any]) -> CausalTrace:
    from ..tracer import trace as run_trace

    with progress_bar(json, name, _count(pairs)) as bar:
        return run_trace(encoder, pairs, **options, progress=lambda done, total: bar.to(done, total))


def _share(encoder: DualEncoder, parts: list[list[Pair]], processes: Team, json: bool, options: dict[str, Any]) -> None:
    """Trace this process's share of the pairs into the cache, and wait for the other processes."""
    from ..tracer.run.options import TraceOptions
    from ..tracer.run.trace import fill_cache

    if options["cache"] is None:
        raise OptionError(f"{processes.count} processes share a trace through a folder: give --cache DIR")
    for pairs in parts:
        with progress_bar(json or not processes.is_main, "tracing a share", _count(pairs)) as bar:
            fill_cache(encoder, pairs, TraceOptions(**options), processes.share, progress=bar.to)
    processes.wait()


def _count(pairs: list[Pair]) -> int:
    return len({(pair.correct, pair.foil) for pair in pairs})


def _numbers(text: str | None) -> str | list[int] | None:
    """``"3,4"`` as numbers; any other word as it is.

    >>> _numbers("3,-1"), _numbers("differing")
    ([3, -1], 'differing')
    """
    if text is None:
        return None
    parts = text.split(",")
    return [int(part) for part in parts] if all(part.strip().removeprefix("-").isdigit() for part in parts) else text


def _head_numbers(text: str | None) -> Any:
    numbers = _numbers(text)
    if isinstance(numbers, str) and numbers != "each":
        raise OptionError(f'--heads {text!r}: give "each", one number, or several such as 0,3')
    return numbers[0] if isinstance(numbers, list) and len(numbers) == 1 else numbers


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    return None if name is None else getattr(torch, name)


def _of(pairs: list[Pair], attribute: str | None, source: Path) -> list[Pair]:
    """The pairs of one attribute; all of them without one."""
    if attribute is None:
        return pairs
    found = [pair for pair in pairs if pair.attribute == attribute]
    if not found:
        known = ", ".join(sorted({str(pair.attribute) for pair in pairs if pair.attribute})) or "no attribute at all"
        raise OptionError(f"no pair of {str(source)!r} has the attribute {attribute!r}; the file has {known}")
    return found


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
        "n_groups": profile.n_groups,
        "n_texts": profile.n_texts,
        "caution": profile.caution,
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
    if int(profile.layers[0]) == 0:
        drawn.caption = Text("layer 0 is the embedding output; the first and the last layer are fixed by construction")
    return drawn

"""`trace`: traces pairs, and shows which layers of a text tower carry their distinction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..io.folders import check_growing_folder
from ..io.reading import is_folder
from ..tracer.run.options import TraceOptions
from .common import (
    Device,
    ImagesFolder,
    Json,
    ModelName,
    OptionError,
    OutsideImages,
    PairsFile,
    Pretrained,
    RemoteCode,
    announce,
    check_output,
    load_model,
    progress_bar,
    show,
    table,
    working,
)
from .declared import declared_flags

if TYPE_CHECKING:
    from rich.table import Table

    from ..patching import DualEncoder
    from ..tracer import CausalTrace, LayerProfile, Pair
    from ..tracer.run.workers import Team


@declared_flags(
    TraceOptions, leave_out=("keep_embeddings", "pool", "directions")
)  # a saved trace has no embeddings; the others are files
def trace(
    model: ModelName,
    pairs: PairsFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the trace goes: a .safetensors file.")],
    options: TraceOptions,
    attribute: Annotated[str | None, typer.Option(help="Only pairs of this attribute, such as existence.")] = None,
    control: Annotated[
        str | None, typer.Option(help="Another attribute of the same file (a swap without negation), to subtract.")
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option(help="Captions for --replace mean and resample: a .txt file with one per line, or a pairs file."),
    ] = None,
    directions: Annotated[
        Path | None,
        typer.Option(
            help="Only the component in the span of these directions is replaced: a .npy or .safetensors file of one "
            "matrix with a direction per row.",
            show_default=False,
        ),
    ] = None,
    images: ImagesFolder = None,
    outside_images: OutsideImages = False,
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
    check_output(output, (".safetensors",), inputs=[pairs, pool, directions])
    if options.cache is not None:
        from ..tracer.run.cache import check_cache

        if is_folder(options.cache):
            check_cache(options.cache)
        check_growing_folder(options.cache)
    announce(json)
    from ..io.matrices import read_matrix
    from ..tracer import read_pairs
    from ..tracer.run.columns import check_names
    from ..tracer.run.workers import team

    check_names(options)
    if pool is not None:
        if options.replace not in ("mean", "resample"):
            raise OptionError(f"--pool {pool} has no meaning with --replace {options.replace}: give mean or resample")
        options = replace(options, pool=_captions(pool))
    if directions is not None:
        options = replace(options, directions=read_matrix(directions))
    with working(json, f"reading {pairs}"):
        records = read_pairs(pairs, images=images, outside_images=outside_images)
        chosen = of_attribute(records, attribute, pairs)
        baseline = None if control is None else of_attribute(records, control, pairs)
    with team(device) as processes:
        with working(json, f"loading {model}"):
            encoder = load_model(model, pretrained, processes.device, trust_remote_code)
        if processes.count > 1:
            with working(json, ""):
                _share(encoder, [chosen, *([] if baseline is None else [baseline])], processes, json, options)
            if not processes.is_main:
                return
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


def _trace(encoder: DualEncoder, pairs: list[Pair], name: str, json: bool, options: TraceOptions) -> CausalTrace:
    from ..tracer.run.trace import run_trace

    with progress_bar(json, name, _count(pairs)) as bar:
        return run_trace(encoder, pairs, options, progress=lambda done, total: bar.to(done, total))


def _share(encoder: DualEncoder, parts: list[list[Pair]], processes: Team, json: bool, options: TraceOptions) -> None:
    """Trace this process's share of the pairs into the cache, and wait for the other processes."""
    from ..tracer.run.trace import fill_cache

    if options.cache is None:
        raise OptionError(f"{processes.count} processes share a trace through a folder: give --cache DIR")
    for pairs in parts:
        with progress_bar(json or not processes.is_main, "tracing a share", _count(pairs)) as bar:
            fill_cache(encoder, pairs, options, processes.share, progress=bar.to)
    processes.wait()


def _captions(pool: Path) -> tuple[str, ...]:
    """The captions of a pool's file, each once."""
    from ..io.json_lines import read_text
    from ..tracer import read_pairs

    if pool.suffix.lower() == ".txt":
        captions = [line.strip() for line in read_text(pool).splitlines()]
    else:
        captions = [side for pair in read_pairs(pool, outside_images=True) for side in (pair.correct, pair.foil)]
    found = tuple(dict.fromkeys(caption for caption in captions if caption))
    if not found:
        raise OptionError(f"--pool {str(pool)!r} holds no captions")
    return found


def _count(pairs: list[Pair]) -> int:
    return len({(pair.correct, pair.foil) for pair in pairs})


def of_attribute(pairs: list[Pair], attribute: str | None, source: Path) -> list[Pair]:
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
        from rich.text import Text

        drawn.caption = Text("layer 0 is the embedding output; the first and the last layer are fixed by construction")
    return drawn

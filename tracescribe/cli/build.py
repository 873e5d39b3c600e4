"""`build`: data sets written to a folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OptionError
from ..io.quoting import shown_path
from .common import (
    Device,
    Json,
    ModelName,
    Overwrite,
    Pretrained,
    Seed,
    check_output,
    load_model,
    progress_bar,
    show,
    working,
)

Labels = Annotated[
    Path,
    typer.Argument(
        metavar="LABELS",
        help="Labels as published: CheXpert or MIMIC-CXR-JPG (csv, csv.gz), CAD-Chest, TAIX-Ray, Open-i.",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(help="The folder that holds the images; by default that of the labels.", exists=True, file_okay=False),
]
Format = Annotated[str | None, typer.Option(help="The labels' format, where their content does not tell it.")]
Limit = Annotated[int | None, typer.Option(min=4, help="The most records of each file.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Created if missing.", show_default=False)]


def phantom(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Created if missing.", show_default=False)],
    n: Annotated[int, typer.Option("-n", min=1, max=10**7, help="How many images.")] = 200,
    seed: Seed = 0,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels per side; the miniature reads 64.")] = 64,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw phantom chest radiographs with labels, captions, pairs, claims and multiple choice (PNG and JSONL).

    Example:  tracescribe build phantom data -n 500 --seed 1
    """
    from ..benchmark.phantom import build_phantom
    from ..benchmark.phantom.dataset import check_phantom

    check_phantom(folder, overwrite=overwrite)
    with working(json, ""), progress_bar(json, "drawing", n) as bar:
        build_phantom(folder, n, seed, size=size, overwrite=overwrite, progress=lambda done: bar.to(done, n))
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    show(
        json,
        {"folder": folder, "n": n, "seed": seed, "files": files},
        f"wrote {n} images and {', '.join(files)} to {folder}",
    )


def mednega(
    labels: Labels,
    out: Folder,
    images: Images = None,
    format: Format = None,
    per_study: Annotated[int, typer.Option(min=1, max=64, help="Questions about one study at most.")] = 4,
    limit: Limit = None,
    rewriter: Annotated[
        str | None,
        typer.Option(
            help="Reword statements by an OpenAI-compatible endpoint, http://host:port/v1; sends no patient data."
        ),
    ] = None,
    rewriter_model: Annotated[str | None, typer.Option(help="The model's name at the endpoint.")] = None,
    rewriter_rate: Annotated[float, typer.Option(min=0.001, max=1000, help="Requests per second at most.")] = 5.0,
    rewriter_timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds for one reply.")] = 60.0,
    rewriter_cache: Annotated[
        Path | None, typer.Option(help="Where replies are kept; by default OUT.rewrites.sqlite.", dir_okay=False)
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Build multiple choice with and without negation (the form of MedNega-CXR) from labels; text alone is at chance.

    Example:  tracescribe build mednega mimic-cxr-2.0.0-chexpert.csv.gz --images mimic-cxr-jpg -o mednega
    """
    from ..benchmark.builders import build_mednega
    from ..benchmark.builders.folder import MEDNEGA
    from ..benchmark.builders.rewriting import Rewriter
    from ..benchmark.readers.source import Source
    from ..io.folders import check_folder

    with contextlib.ExitStack() as stack:
        rewording = None
        if rewriter is not None:
            if rewriter_model is None:
                raise OptionError("--rewriter needs --rewriter-model, the model's name at the endpoint")
            if rewriter_cache is not None and _lies_in(rewriter_cache, out):
                raise OptionError(
                    f"--rewriter-cache {shown_path(rewriter_cache)} lies in {shown_path(out)}, which is written as a "
                    "whole: give a file elsewhere"
                )
            check_folder(out, MEDNEGA, overwrite=overwrite)  # before the cache is made
            if rewriter_cache is not None:
                check_output(rewriter_cache)
            Source(labels).fields  # noqa: B018
            cache = rewriter_cache or out.absolute().with_name(out.name + ".rewrites.sqlite")
            if rewriter_cache is None:
                cache.parent.mkdir(parents=True, exist_ok=True)
            rewording = Rewriter(rewriter, rewriter_model, cache, rate=rewriter_rate, timeout=rewriter_timeout)
            stack.enter_context(rewording)
            typer.echo(rewording.announcement, err=True)
        elif rewriter_model is not None or rewriter_cache is not None:
            raise OptionError("--rewriter-model and --rewriter-cache mean something with --rewriter only")
        stack.enter_context(working(json, ""))
        bar = stack.enter_context(progress_bar(json, f"building from {labels.name}: items", limit))
        build_mednega(
            labels,
            out,
            images=images,
            format=format,
            seed=seed,
            per_study=per_study,
            limit=limit,
            rewriter=rewording,
            overwrite=overwrite,
            progress=bar.to,
        )
    _built(json, out)


def contextual(
    labels: Labels,
    out: Folder,
    images: Images = None,
    format: Format = None,
    limit: Limit = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Build contrast sets of claims (existence, severity, side) and captions with explicit negation from labels.

    Example:  tracescribe build contextual cad_disease.json --images mimic-cxr-jpg -o contextual
    """
    from ..benchmark.builders import build_contextual

    with working(json, ""), progress_bar(json, f"building from {labels.name}: records of a file", limit) as bar:
        build_contextual(
            labels, out, images=images, format=format, seed=seed, limit=limit, overwrite=overwrite, progress=bar.to
        )
    _built(json, out)


def pairs(
    model: ModelName,
    labels: Labels,
    out: Annotated[Path, typer.Option("--out", "-o", help="The pairs, .jsonl.", show_default=False)],
    images: Images = None,
    format: Format = None,
    limit: Limit = None,
    with_test: Annotated[
        bool,
        typer.Option(
            "--with-test", help="Also of the test split, which layer weights from a trace must not have seen."
        ),
    ] = False,
    seed: Seed = 0,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Build tracing pairs of equally many tokens for a model: existence, and severity, side and noun as controls.

    Example:  tracescribe build pairs phantom mimic-cxr-2.0.0-chexpert.csv.gz -o pairs.jsonl
    """
    from ..benchmark.builders import write_pairs

    check_output(out, (".jsonl",), inputs=[labels])
    with working(json, f"loading {model}"):
        text = load_model(model, pretrained, device).text
    with working(json, ""), progress_bar(json, f"building from {labels.name}: pairs", limit) as bar:
        report = write_pairs(
            labels,
            out,
            lambda caption: len(text.rows([caption])[0]),
            images=images,
            format=format,
            seed=seed,
            limit=limit,
            with_test=with_test,
            progress=bar.to,
        )
    written = report.pop("pairs")
    lines = [f"wrote {written} pairs to {out}", *(f"left out: {count} ({why})" for why, count in report.items())]
    show(json, {"out": out, "pairs": written, "left_out": report}, *lines)


def _lies_in(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _built(json: bool, folder: Path) -> None:
    from ..io.json_lines import read_json

    facts: dict[str, Any] = read_json(folder / "manifest.json")
    counts = {file: count["records"] for file, count in facts["counts"].items()}
    lines = [f"wrote {', '.join(f'{count} records to {folder / file}' for file, count in counts.items())}"]
    lines += [f"left out: {count} ({why})" for why, count in facts["left_out"].items()]
    if "rewriter" in facts:
        lines += [f"statements, {what}: {count}" for what, count in facts["rewriter"].items() if what != "model"]
    lines.append(f"what the set is, and what it is not: {folder / 'DATASHEET.md'}")
    show(json, {"folder": folder, "counts": facts["counts"], "left_out": facts["left_out"]}, *lines)

"""`plot`: a saved trace as a figure for a page or a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Json, OptionError, TraceFile, check_output, show, working

FIGURES = (".html", ".pdf", ".png", ".svg", ".eps")


def plot(
    trace: TraceFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The figure: .html, .pdf, .png, .svg or .eps.")],
    kind: Annotated[Literal["heatmap", "profile"], typer.Option(help="Layer by token, or layers only.")] = "heatmap",
    pair: Annotated[
        int | None, typer.Option(min=0, help="One pair by its number, instead of the data set's map.")
    ] = None,
    width: Annotated[Literal["column", "page"], typer.Option(help="Paper figures: 3.25 or 6.75 inches.")] = "column",
    json: Json = False,
) -> None:
    """Draw a trace: an interactive page (.html) or a vector figure for a paper (.pdf, .svg, .eps) or a bitmap (.png).

    Example:  tracescribe plot trace.safetensors -o figure.pdf --width column
    """
    check_output(output, FIGURES)
    from .. import viz
    from ..tracer import load_trace
    from ..tracer.files import write_atomically

    with working(json, f"drawing {output}"):
        loaded = load_trace(trace)
        if pair is not None and pair >= loaded.n_pairs:
            raise OptionError(f"--pair {pair}: the trace has {loaded.n_pairs} pairs, numbered from 0")
        if output.suffix.lower() == ".html":
            figure = viz.heatmap(loaded, pair=pair) if kind == "heatmap" else viz.profile(loaded)
            page = figure.to_html(include_plotlyjs=True, full_html=True)
            with write_atomically(output) as handle:
                handle.write(page)
        else:
            subject = loaded if pair is None else loaded.select([pair])
            viz.export(subject.per_layer() if kind == "profile" else subject, output, width=width)
    show(json, {"output": output, "kind": kind, "n_pairs": loaded.n_pairs}, f"saved {output}")

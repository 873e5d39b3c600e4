"""`plot`: a saved trace as a figure for a page or a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Json, TraceFile, check_output, show, working

FIGURES = (".html", ".pdf", ".png", ".svg", ".eps")


def plot(
    trace: TraceFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The figure: .html, .pdf, .png, .svg or .eps.")],
    kind: Annotated[Literal["heatmap", "profile"], typer.Option(help="Layer by token, or layers only.")] = "heatmap",
    pair: Annotated[
        str | None, typer.Option(help="One pair, by its number or id, instead of the data set's map.")
    ] = None,
    width: Annotated[Literal["column", "page"], typer.Option(help="Paper figures: 3.25 or 6.75 inches.")] = "column",
    json: Json = False,
) -> None:
    """Draw a trace: an interactive page (.html), a vector figure for a paper (.pdf, .svg, .eps) or a bitmap (.png).

    Example:  tracescribe plot trace.safetensors -o figure.pdf --width column
    """
    check_output(output, FIGURES)
    from .. import viz
    from ..tracer import load_trace
    from ..viz.figure_data import pair_number

    with working(json, f"drawing {output}"):
        loaded = load_trace(trace)
        chosen = int(pair) if pair is not None and pair.isdecimal() and pair not in loaded.ids else pair
        subject = loaded if chosen is None or kind == "heatmap" else loaded.select([pair_number(loaded, chosen)])
        if output.suffix.lower() == ".html":
            figure = viz.heatmap(loaded, pair=chosen) if kind == "heatmap" else viz.profile(subject)
            viz.save_html(figure, output)
        elif kind == "heatmap":
            viz.export(loaded, output, width=width, pair=chosen)
        else:
            viz.export(subject.per_layer(), output, width=width)
    show(json, {"output": output, "kind": kind, "n_pairs": loaded.n_pairs}, f"saved {output}")

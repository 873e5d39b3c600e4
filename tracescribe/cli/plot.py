"""`plot`: draws a saved trace for a page or a paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import FigureError
from .common import Json, TraceFile, check_output, show, working

FIGURES = (".html", ".pdf", ".png", ".svg", ".eps")


def plot(
    trace: TraceFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The figure: .html, .pdf, .png, .svg or .eps.")],
    kind: Annotated[Literal["heatmap", "profile"], typer.Option(help="Layer by token, or layers only.")] = "heatmap",
    pair: Annotated[
        str | None, typer.Option(help="One pair, by its number or id, instead of the data set's map.")
    ] = None,
    width: Annotated[
        str, typer.Option(help="Paper figures: column, page, icml, neurips, iclr, acl, nature, or inches.")
    ] = "column",
    title: Annotated[str | None, typer.Option(help="A title; a paper's figure has none by default.")] = None,
    notes: Annotated[bool, typer.Option("--notes", help="Paper figures: write what the numbers stand on.")] = False,
    limit: Annotated[float | None, typer.Option(help="Heatmaps: colours run from -LIMIT to LIMIT.")] = None,
    json: Json = False,
) -> None:
    """Draw a trace: an interactive page (.html), a vector figure for a paper (.pdf, .svg, .eps) or a bitmap (.png).

    Example:  tracescribe plot trace.safetensors -o figure.pdf --width column
    """
    check_output(output, FIGURES, inputs=[trace])
    from .. import viz
    from ..tracer import load_trace
    from ..viz.figure_data import pair_number

    if limit is not None and kind == "profile":
        raise FigureError(f"--limit {limit:g} is a limit of colours: it applies to --kind heatmap only")
    with working(json, f"drawing {output}"):
        loaded = load_trace(trace)
        by_number = pair is not None and pair.isdecimal() and len(pair) < 10 and pair not in loaded.ids
        chosen = int(pair) if pair is not None and by_number else pair
        inches = float(width) if re.fullmatch(r"\d{1,3}(\.\d{1,6})?", width) else width
        subject = loaded if chosen is None or kind == "heatmap" else loaded.select([pair_number(loaded, chosen)])
        if output.suffix.lower() == ".html":
            if kind == "heatmap":
                figure = viz.heatmap(loaded, pair=chosen, title=title, limit=limit)
            else:
                figure = viz.profile(subject, title=title)
            viz.save_html(figure, output)
        elif kind == "heatmap":
            viz.export(loaded, output, inches, pair=chosen, title=title, notes=notes, limit=limit)
        else:
            viz.export({"": subject}, output, inches, title=title, notes=notes)
    show(json, {"output": output, "kind": kind, "n_pairs": loaded.n_pairs}, f"saved {output}")

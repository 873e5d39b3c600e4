"""`plot`: draws a saved trace for a page or a paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import FigureError
from .common import Json, TraceFile, check_output, show, working

if TYPE_CHECKING:
    from ..tracer import CausalTrace
    from ..viz import PaperFigure, Plot
    from ..viz.interactive.figure import NotebookFigure

FIGURES = (".html", ".pdf", ".png", ".svg", ".eps", ".pgf")
PALETTES = Literal["RdBu", "PuOr", "BrBG"]


def plot(
    trace: TraceFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The figure: .html, .pdf, .png, .svg, .eps or .pgf.")],
    kind: Annotated[Literal["heatmap", "profile"], typer.Option(help="Layer by token, or layers only.")] = "heatmap",
    pair: Annotated[
        str | None, typer.Option(help="One pair, by its number or id, instead of the data set's map.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another trace in the same figure, on the same scale; may be repeated. Names are the files'.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    difference: Annotated[
        str | None, typer.Option(help="Heatmaps of two traces: name of a third panel, the second minus the first.")
    ] = None,
    width: Annotated[
        str,
        typer.Option(
            help="Paper figures: column, page, icml, neurips, iclr, acl, nature, a measure such as 89mm, or inches."
        ),
    ] = "column",
    title: Annotated[str | None, typer.Option(help="A title; a paper's figure has none by default.")] = None,
    notes: Annotated[bool, typer.Option("--notes", help="Paper figures: write what the numbers stand on.")] = False,
    limit: Annotated[float | None, typer.Option(help="Heatmaps: colours run from -LIMIT to LIMIT.")] = None,
    palette: Annotated[PALETTES, typer.Option(help="Heatmaps: colours, all safe for colour-blind readers.")] = "RdBu",
    size: Annotated[float, typer.Option(min=4, max=14, help="Paper figures: size of ticks in points.")] = 6.5,
    json: Json = False,
) -> None:
    """Draw traces: an interactive page (.html), a vector figure for a paper (.pdf, .svg, .eps, .pgf), or a .png.

    Example:  tracescribe plot trace.safetensors -o figure.pdf --width column
    """
    check_output(output, FIGURES, inputs=[trace])
    from .. import viz
    from ..tracer import load_trace
    from ..viz.figure_data import pair_number

    if limit is not None and kind == "profile":
        raise FigureError(f"--limit {limit:g} is a limit of colours: it applies to --kind heatmap only")
    if pair is not None and beside:
        raise FigureError(f"--pair {pair!r} chooses from one trace: leave --beside out")
    if difference is not None and (kind == "profile" or len(beside or ()) != 1):
        raise FigureError(f"--difference {difference!r} needs heatmaps of two traces: one --beside")
    with working(json, f"drawing {output}"):
        loaded = load_trace(trace)
        by_number = pair is not None and pair.isdecimal() and len(pair) < 10 and pair not in loaded.ids
        chosen = int(pair) if pair is not None and by_number else pair
        inches = float(width) if re.fullmatch(r"\d{1,3}(\.\d{1,6})?", width) else width
        named = _named(trace, loaded, beside or [])
        figure: NotebookFigure | PaperFigure
        if beside and kind == "heatmap":
            figure = viz.panels(named, difference=difference, limit=limit, title=title, palette=palette)
        elif kind == "heatmap":
            figure = viz.heatmap(loaded, pair=chosen, title=title, limit=limit, palette=palette)
        else:
            subject = loaded if chosen is None else loaded.select([pair_number(loaded, chosen)])
            figure = viz.profile(named if beside else subject, title=title)
        if output.suffix.lower() != ".html":
            viz.export(figure, output, inches, title=title, notes=notes, size=size)
        elif isinstance(figure, viz.PaperFigure):
            page = viz.Report(title or "Causal traces", sections=[viz.Section("Maps", figures=[_plot(figure)])])
            viz.report(output, page)
        else:
            viz.save_html(figure, output)
    show(json, {"output": output, "kind": kind, "n_pairs": loaded.n_pairs}, f"saved {output}")


def _named(path: Path, trace: CausalTrace, beside: list[Path]) -> dict[str, CausalTrace]:
    """Traces by the names of their files, which must differ."""
    from ..tracer import load_trace

    named = {path.stem: trace}
    for other in beside:
        if other.stem in named:
            raise FigureError(f"two traces are called {other.stem!r}: give their files different names")
        named[other.stem] = load_trace(other)
    return named


def _plot(figure: PaperFigure) -> Plot:
    from .. import viz

    said = viz.caption(figure)
    return viz.Plot(figure, said, said)

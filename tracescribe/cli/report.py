"""`report`: one page about a saved trace or a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from .common import Json, Seed, announce, check_output, show, working


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|TRACE", help="A folder that finetune wrote, or a saved trace.", exists=True, show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page: a .html file.")],
    control: Annotated[
        Path | None,
        typer.Option(help="A trace of swaps without the distinction: the page says what exceeds it.", dir_okay=False),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The page's title.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a page about a trace or a run: one HTML file that needs no network, for a screen and for paper.

    Example:  tracescribe report trace.safetensors -o trace.html
    """
    check_output(output, (".html",), inputs=[source, control])
    is_run = source.is_dir()
    if is_run and control is not None:
        raise OptionError(f"--control {str(control)!r} belongs to a trace, and {str(source)!r} is a folder of a run")
    announce(json)
    from .. import viz
    from ..tracer import load_trace

    with working(json, f"writing {output}"):
        if is_run:
            from ..finetune.training.page import run_page

            page = run_page(source, title=title)
        else:
            other = None if control is None else load_trace(control)
            page = viz.trace_page(load_trace(source), control=other, title=title, seed=seed)
        viz.report(output, page)
    document = {"output": output, "kind": "run" if is_run else "trace", "title": page.title, "lead": page.lead}
    show(json, document, page.lead, f"saved {output}")

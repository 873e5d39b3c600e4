"""`report`: one page about a saved result or a training run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import OptionError
from .common import Json, Seed, announce, check_output, show, working

if TYPE_CHECKING:
    from ..viz import Report


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|RESULT",
            help="A folder that finetune wrote, or a saved trace, comparison, faithfulness curves, circuit, neurons, "
            "edges between heads, knock-out, or negator attention.",
            exists=True,
            show_default=False,
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

    with working(json, f"writing {output}"):
        kind, page = ("run", _run_page(source, title)) if is_run else _result_page(source, control, title, seed)
        viz.report(output, page)
    document = {"output": output, "kind": kind, "title": page.title, "lead": page.lead}
    show(json, document, page.lead, f"saved {output}")


def _run_page(source: Path, title: str | None) -> Report:
    from ..finetune.training.page import run_page

    return run_page(source, title=title)


def _result_page(source: Path, control: Path | None, title: str | None, seed: int) -> tuple[str, Report]:
    """The kind of a saved result, and its page."""
    from .. import tracer, viz
    from ..io.tensors import is_tensor_file, read_metadata

    def of_trace() -> Report:
        other = None if control is None else tracer.load_trace(control)
        return viz.trace_page(tracer.load_trace(source), control=other, title=title, seed=seed)

    pages: dict[str, Callable[[], Report]] = {
        "trace": of_trace,
        "circuit": lambda: viz.circuit_page(tracer.load_circuit(source), title=title),
        "comparison": lambda: viz.comparison_page(tracer.load_comparison(source), title=title),
        "faithfulness": lambda: viz.faithfulness_page(tracer.load_faithfulness(source), title=title, seed=seed),
        "neurons": lambda: viz.neurons_page(tracer.load_neurons(source), title=title, seed=seed),
        "head_edges": lambda: viz.head_edges_page(tracer.load_head_edges(source), title=title, seed=seed),
        "knock_out": lambda: viz.knock_out_page(tracer.load_knock_out(source), title=title),
        "negator_attention": lambda: viz.negator_attention_page(tracer.load_negator_attention(source), title=title),
    }
    kind = "circuit" if source.suffix.lower() == ".json" else "trace"
    if kind == "trace" and is_tensor_file(source):
        name = str(read_metadata(source).get("format")).partition("/")[0].removeprefix("tracescribe.")
        kind = name if name in pages else kind
    if kind != "trace" and control is not None:
        said = {
            "neurons": "file of neurons",
            "head_edges": "file of edges between heads",
            "knock_out": "knock-out",
            "negator_attention": "file of negator attention",
        }
        raise OptionError(
            f"--control {str(control)!r} belongs to a trace, and {str(source)!r} is a {said.get(kind, kind)}"
        )
    return kind, pages[kind]()

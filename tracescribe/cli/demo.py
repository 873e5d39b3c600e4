"""`demo`: all steps in minutes, with controls."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..progress import Bar, bars
from .common import Json, Overwrite, Seed, announce, show, show_progress, table, working


def demo(
    out: Annotated[Path, typer.Option(help="Where the figures, the scores and the report page go.")] = Path("demo"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few steps, few films: checks the machinery.")] = False,
    json: Json = False,
) -> None:
    """Trace, prescribe, fine-tune with controls, and trace again, on the shipped miniature (minutes, no network).

    Example:  tracescribe demo --out demo
    """
    announce(json)
    from ..demo.result import QUICK, Sizes
    from ..demo.run import check_demo_folder, run_demo
    from ..demo.verdicts import COLUMNS, LEGEND, scores_as_dict, sentences, table_rows

    check_demo_folder(out, overwrite=overwrite)
    with working(json, ""), _stages(json) as notify:
        # the quick one is over before a second process has started
        sizes, processes = (QUICK, 1) if quick else (Sizes(), min(2, os.cpu_count() or 1))
        result = run_demo(out, sizes=sizes, seed=seed, overwrite=overwrite, processes=processes, notify=notify)
    document = {"out": out, "quick": quick, "seconds": result.seconds, "files": result.files, **scores_as_dict(result)}
    verdicts = sentences(result)
    if quick:
        verdicts = ["--quick checks the machinery; its scores say nothing.", *verdicts]
    show(
        json,
        document,
        result.trace.summary(),
        table(list(COLUMNS), table_rows(result)),
        LEGEND,
        "",
        *(f"- {line}" for line in verdicts),
        "",
        f"{result.seconds:.0f} s; open {out / 'report.html'}",
    )


@contextlib.contextmanager
def _stages(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """The stages as they come: bars on a terminal, a line per stage elsewhere (a log), nothing beside --json."""
    started = time.perf_counter()
    shown: dict[str, tuple[Bar, int]] = {}

    with bars(show_progress(as_json)) as drawn:

        def notify(what: str, done: int, total: int) -> None:
            if what not in shown:
                for bar, all_of_it in shown.values():  # a stage that does not count is done when the next begins
                    bar.to(all_of_it, all_of_it)
                shown[what] = drawn.add(what, total), total
                if not as_json and not sys.stderr.isatty():
                    typer.echo(f"{time.perf_counter() - started:6.1f} s  {what}", err=True)
            shown[what][0].to(done, total)

        yield notify

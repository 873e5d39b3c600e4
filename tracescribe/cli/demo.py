"""`demo`: all steps in minutes, with controls."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .common import Json, Overwrite, Seed, show, show_progress, table, working


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


class _stages:
    """The stages as they come: bars on a terminal, a line a stage elsewhere (a log), nothing beside --json."""

    def __init__(self, as_json: bool) -> None:
        self.quiet = as_json
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}", markup=False),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not show_progress(as_json))
        self.stage = ""
        self.task: TaskID | None = None
        self.started = time.perf_counter()

    def __enter__(self) -> _stages:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.stage:
            if self.task is not None:  # a stage that does not count is done when the next begins
                self.progress.update(self.task, completed=self.progress.tasks[-1].total)
            self.stage, self.task = what, self.progress.add_task(what, total=total)
            if not self.quiet and not sys.stderr.isatty():
                typer.echo(f"{time.perf_counter() - self.started:6.1f} s  {what}", err=True)
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total)

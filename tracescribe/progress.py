"""The bars of long runs, in the API and on the command line: on stderr of a terminal or in a notebook, else none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "Bars", "bars"]


class Bar(Protocol):
    """One bar."""

    def to(self, done: int, total: int | None = None, note: str = "") -> None:
        """``done`` of ``total`` are done."""


class Bars(Protocol):
    """Several bars, one below the other."""

    def add(self, name: str, total: int | None) -> Bar:
        """A further bar; ``total`` is None where nobody knows it."""


class _Nothing:
    def to(self, done: int, total: int | None = None, note: str = "") -> None:
        pass

    def add(self, name: str, total: int | None) -> Bar:
        return self


class _RichBar:
    def __init__(self, drawn: Progress, task: TaskID) -> None:
        self._drawn, self._task = drawn, task

    def to(self, done: int, total: int | None = None, note: str = "") -> None:
        self._drawn.update(self._task, completed=done, total=total, note=note)


class _RichBars:
    def __init__(self, drawn: Progress) -> None:
        self._drawn = drawn

    def add(self, name: str, total: int | None) -> Bar:
        return _RichBar(self._drawn, self._drawn.add_task(name, total=total, note=""))


@contextmanager
def bars(wanted: bool, *, keep: bool = True) -> Iterator[Bars]:
    """Bars that are drawn until the block ends; where nobody would see them, or unless ``wanted``, none are.

    keep: leave the finished bars on the screen. rich is imported only where a bar is drawn.

    >>> with bars(False) as drawn:
    ...     drawn.add("tracing", 10).to(3)
    """
    console = _console() if wanted else None
    if console is None:
        yield _Nothing()
        return
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(ProgressColumn):
        """What is done, of how many where that is known."""

        def render(self, task: Task) -> Text:
            of = "" if task.total is None else f"/{task.total:.0f}"
            return Text(f"{task.completed:.0f}{of} {task.fields['note']}")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Count(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )

    with Progress(*columns, console=console, transient=not keep) as drawn:
        yield _RichBars(drawn)


def _console() -> Console | None:
    """stderr, if somebody looks at it."""
    in_notebook = "IPython" in sys.modules
    if not in_notebook and not (sys.stderr is not None and sys.stderr.isatty()):
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal or console.is_jupyter else None

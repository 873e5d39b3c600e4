"""The bars of long runs, in the API and on the command line: on stderr of a terminal or in a notebook, else none."""

from __future__ import annotations

import html
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "Bars", "bars"]

DELAY, EVERY = 0.5, 0.2  # seconds until a notebook's bar is shown, and between two of its states


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


class _NotebookBar:
    """A bar in the output of a notebook's cell, which is changed in place by messages that every front end knows.

    rich and tqdm need ipywidgets for that, whose bars are not in saved notebooks; rich's also takes in, and then
    removes, what the user's code prints while it is drawn.
    """

    def __init__(self, name: str, total: int | None, begun: float) -> None:
        self.name, self.done, self.total, self.note, self.gone = name, 0, total, "", False
        self._begun, self._due = begun, begun + DELAY
        self._shown: Any = None

    def to(self, done: int, total: int | None = None, note: str = "") -> None:
        self.done, self.note = done, note
        self.total = self.total if total is None else total
        now = time.monotonic()
        finished = self.total is not None and done >= self.total
        if now >= self._due or (self._shown is not None and finished):
            self._due = now + EVERY
            self._show()

    def close(self, *, keep: bool) -> None:
        """The last state; nothing where the bar is not kept."""
        self.gone = not keep
        if self._shown is not None:
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        if self._shown is None:
            self._shown = display(self, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._shown.update(self)

    @property
    def _words(self) -> str:
        of = "" if self.total is None else f"/{self.total}"
        return f"{self.done}{of} {self.note}".rstrip()

    def __repr__(self) -> str:
        return "" if self.gone else f"{self.name}: {self._words}"

    def _repr_html_(self) -> str:
        if self.gone:
            return ""
        seconds = time.monotonic() - self._begun
        share = "" if self.total is None else f'value="{self.done}" max="{max(self.total, 1)}" '
        drawn = f'<progress {share}style="width: 20em"></progress>'
        return f"<label>{html.escape(self.name)} {drawn} {html.escape(self._words)} · {seconds:.0f} s</label>"


class _NotebookBars:
    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._bars: list[_NotebookBar] = []

    def add(self, name: str, total: int | None) -> Bar:
        self._bars.append(_NotebookBar(name, total, self._begun))
        return self._bars[-1]

    def close(self, *, keep: bool) -> None:
        for one in self._bars:
            one.close(keep=keep)


@contextmanager
def bars(wanted: bool, *, keep: bool = True) -> Iterator[Bars]:
    """Bars that are drawn until the block ends; where nobody would see them, or unless ``wanted``, none are.

    keep: leave the finished bars on the screen. In a notebook, what takes less than half a second has no bar. rich is
    imported only where a terminal's bar is drawn.

    >>> with bars(False) as drawn:
    ...     drawn.add("tracing", 10).to(3)
    """
    if wanted and _in_notebook():
        in_cell = _NotebookBars()
        try:
            yield in_cell
        finally:
            in_cell.close(keep=keep)
        return
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


def _in_notebook() -> bool:
    """Whether a kernel runs this, and its output is not redirected, to a file or by ``%%capture``."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") and not isinstance(sys.stderr, io.StringIO | io.TextIOWrapper)


def _console() -> Console | None:
    """stderr, if it is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # whatever FORCE_COLOR says
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else None

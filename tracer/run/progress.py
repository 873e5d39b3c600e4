"""Progress of a long run: a bar on a terminal, or the user's own callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...errors import TraceError
from ...io.json_lines import shown

__all__ = ["ProgressCallback", "progress_bar"]

ProgressCallback = Callable[[int, int], None]


@contextmanager
def progress_bar(
    progress: bool | ProgressCallback, total: int, of: str = "text pairs"
) -> Iterator[Callable[[int], None] | None]:
    """What is called with the number of finished items: the user's callback, a bar's, or nothing.

    Raises:
        TraceError: ``progress`` is neither True, False nor callable.
    """
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    if not isinstance(progress, bool):
        raise TraceError(f"progress must be True, False or a function of (done, total), not {shown(progress)}")
    from rich.console import Console

    console = Console(stderr=True)
    if not progress or not (console.is_terminal or console.is_jupyter):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("tracing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(of),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("tracing", total=total)
        yield lambda done: bar.update(task, completed=done)

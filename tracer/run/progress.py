"""Progress of a long run: a bar on a terminal, or the user's own callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...errors import TraceError
from ...io.quoting import shown
from ...progress import bars

__all__ = ["ProgressCallback", "progress_bar"]

ProgressCallback = Callable[[int, int], None]


@contextmanager
def progress_bar(
    progress: bool | ProgressCallback, total: int, of: str = "text pairs"
) -> Iterator[Callable[[int], None]]:
    """What is called with the number of finished items: the user's callback, or a bar's.

    Raises:
        TraceError: ``progress`` is neither True, False nor callable.
    """
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    if not isinstance(progress, bool):
        raise TraceError(f"progress must be True, False or a function of (done, total), not {shown(progress)}")
    with bars(progress, keep=False) as drawn:
        yield drawn.add(f"tracing {of}", total).to

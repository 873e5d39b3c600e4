"""Warnings at the user's own line, so that Python says each once, however many of our functions it passes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["heard", "warn_user"]

_OURS = ("tracescribe", "jaxtyping", "beartype")  # the second and third: where a caller checks shapes at run time

_LISTENER: ContextVar[list[str] | None] = ContextVar("listener", default=None)


@contextmanager
def heard() -> Iterator[list[str]]:
    """The sentences that this package warns of in the block, in this thread; none of them is shown or raised.

    For a page that shows them itself. Filters of warnings belong to the whole process, and are left alone.

    >>> with heard() as sentences:
    ...     warn_user("few pairs")
    >>> sentences
    ['few pairs']
    """
    found: list[str] = []
    before = _LISTENER.set(found)
    try:
        yield found
    finally:
        _LISTENER.reset(before)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is not this package's.

    >>> with warnings.catch_warnings(record=True) as found:
    ...     warnings.simplefilter("default")
    ...     for _ in range(3):
    ...         warn_user("few pairs")
    >>> [str(warning.message) for warning in found]
    ['few pairs']
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener.append(message)
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)

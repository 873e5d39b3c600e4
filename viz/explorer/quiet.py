"""Warnings as values: what a library call warns of, for the page to show, instead of the kernel's log."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["recorded"]

# Filters belong to the process: two threads that change and put them back must not overlap.
_LOCK = threading.RLock()


@contextmanager
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of the block, none of which is shown or raised. For short calls.

    >>> with recorded() as found:
    ...     warnings.warn("few pairs")
    >>> [str(warning.message) for warning in found]
    ['few pairs']
    """
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught

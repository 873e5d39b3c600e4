"""Warnings at the user's own line, so that Python says each once, however many of our functions it passes."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_user"]

_OURS = ("tracescribe", "jaxtyping", "beartype")  # the second and third: where a caller checks shapes at run time


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is not this package's.

    >>> with warnings.catch_warnings(record=True) as found:
    ...     warnings.simplefilter("default")
    ...     for _ in range(3):
    ...         warn_user("few pairs")
    >>> [str(warning.message) for warning in found]
    ['few pairs']
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)

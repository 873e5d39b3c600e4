"""What the tracer says about arguments it cannot use, and about results that need a second look."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import TracescribeError

__all__ = ["TraceError", "TraceInterrupted", "TraceWarning", "check_choice"]


class TraceError(TracescribeError, ValueError):
    """An option, shape or combination of traces that the tracer cannot use."""


class TraceInterrupted(KeyboardInterrupt):
    """Ctrl-C while tracing: says how much was finished, and how to go on. No error, and not caught as one."""


class TraceWarning(UserWarning):
    """A result was computed, but not quite as one would expect."""


def check_choice(option: str, value: object, choices: Iterable[str]) -> str:
    """``value`` if it is one of ``choices``.

    Raises:
        TraceError: it is not; the message quotes it and lists the choices.

    >>> check_choice("align", "rows", ("role", "position"))
    Traceback (most recent call last):
    tracescribe.tracer.options.TraceError: unknown align 'rows'; choose one of: role, position
    """
    allowed = tuple(choices)
    if isinstance(value, str) and value in allowed:
        return value
    raise TraceError(f"unknown {option} {value!r}; choose one of: {', '.join(allowed)}")

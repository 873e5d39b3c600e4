"""Checks of arguments that every folder shares: each refusal quotes what was given and says what is allowed."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import TraceError


def check_choice(option: str, value: object, choices: Iterable[str]) -> str:
    """``value`` if it is one of ``choices``.

    Raises:
        TraceError: it is not; the message quotes it and lists the choices.

    >>> check_choice("align", "rows", ("role", "position"))
    Traceback (most recent call last):
    tracescribe.errors.TraceError: unknown align 'rows'; choose one of: role, position
    """
    allowed = tuple(choices)
    if isinstance(value, str) and value in allowed:
        return value
    raise TraceError(f"unknown {option} {value!r}; choose one of: {', '.join(allowed)}")

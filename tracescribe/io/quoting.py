"""How errors quote what they were given: short, on one line, and safe to print."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["first_line", "plural", "shown", "shown_path"]

_VALUE, _PATH = 80, 240  # characters


def shown(value: Any) -> str:
    """A value as an error quotes it: of a long one, its beginning.

    >>> shown("no " * 100)
    "'no no no no no no no no no no no no no no no no no no no no no no no no n..."
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints, a list that holds itself
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _VALUE else text[: _VALUE - 3] + "..."


def shown_path(path: str | bytes | os.PathLike[Any]) -> str:
    """A path as an error quotes it: of a long one, its beginning and its end.

    >>> shown_path("runs/first")
    "'runs/first'"
    >>> len(shown_path("x" * 5000))
    240
    """
    text = repr(os.fspath(path))
    return text if len(text) <= _PATH else f"{text[: _PATH // 2 - 3]}...{text[-_PATH // 2 :]}"


def plural(n: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "pair"), plural(1200, "pair")
    ('1 pair', '1,200 pairs')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

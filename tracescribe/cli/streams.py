"""stdout and stderr that are closed, full, or of an encoding without bars and arrows."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import TextIO

__all__ = ["give_up_stdout", "shortened", "writable_streams"]

_WORD, _SENTENCE = 200, 4000  # characters of an error message
_SIMPLE = {
    "█": "#", "▏": "|", "…": "...", "→": "->", "−": "-", "–": "-", "—": "-", "“": '"', "”": '"', "‘": "'", "’": "'",
    "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "│": "|", "┃": "|", "─": "-", "━": "-",
}  # fmt: skip


@contextlib.contextmanager
def writable_streams() -> Iterator[None]:
    """Make both streams accept any text, so that no result is lost after its work.

    A closed stream is replaced by one that goes nowhere: a command that writes a file is right to finish. Characters
    that the stream's encoding lacks are written as similar ones, or as "?".
    """
    codecs.register_error("tracescribe.similar", _similar)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        sys.stdout, sys.stderr = (stream if _is_open(stream) else nowhere for stream in before)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # not that of a notebook or of a test
                stream.reconfigure(errors="tracescribe.similar")
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def give_up_stdout() -> None:
    """Send what is left for stdout nowhere: Python would try to write it at exit, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shortened(sentence: str) -> str:
    """An error message that quotes no more of its input than a person reads.

    >>> len(shortened("no such number: " + "9" * 5000))
    118
    """
    words = re.sub(rf"\S{{{_WORD + 1},}}", lambda word: f"{word[0][:80]}... ({len(word[0]):,} characters)", sentence)
    return words if len(words) <= _SENTENCE else words[:_SENTENCE] + "..."


def _is_open(stream: TextIO | None) -> bool:
    if stream is None or stream.closed:
        return False
    try:
        with contextlib.suppress(AttributeError, ValueError):  # a stream without a descriptor
            os.fstat(stream.fileno())
    except OSError:  # the descriptor was closed by whoever started this process
        return False
    return True


def _similar(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_SIMPLE.get(letter, "?") for letter in error.object[error.start : error.end]), error.end

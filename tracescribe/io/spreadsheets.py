"""Cells of CSV files that a spreadsheet would run as formulas: how they are written, and how they are read back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["guarded", "guarded_frame", "unguarded"]

T = TypeVar("T")

# What begins a formula, after OWASP's page "CSV Injection"; the last four are what Japanese input methods write.
_BEGINNING = "[=+\\-@\t\r＝＋－＠]"
_FORMULA = re.compile(f"'*{_BEGINNING}", re.DOTALL)
_GUARDED = re.compile(f"'+{_BEGINNING}", re.DOTALL)
_DECIMAL = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_NUMBER = re.compile(rf"{_DECIMAL}\*?(?: \[{_DECIMAL}, {_DECIMAL}\])?")


def guarded(cell: T) -> T | str:
    """A text that would be run as a formula, such as ``=HYPERLINK(...)``, after an apostrophe; all else as it is.

    Numbers, also with their interval, and single characters are no formulas.

    >>> [guarded(cell) for cell in ("=1+1", "+x", "-3.2 [-4.0, -1.5]", "-", "'=1+1", "a=b", -1.5)]
    ["'=1+1", "'+x", '-3.2 [-4.0, -1.5]', '-', "''=1+1", 'a=b', -1.5]
    """
    if not isinstance(cell, str) or len(cell) < 2 or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def unguarded(cell: str) -> str:
    """The text that `guarded` was given.

    >>> [unguarded(str(guarded(cell))) for cell in ("=1+1", "'=1+1", "-3", "'tis")]
    ['=1+1', "'=1+1", '-3', "'tis"]
    """
    return cell[1:] if cell[:1] == "'" and len(cell) > 2 and _GUARDED.match(cell) else cell


def guarded_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts and column names are `guarded`."""
    texts = {name: column.map(guarded) for name, column in frame.items() if column.dtype.kind not in "biufcmM"}
    return frame.assign(**{str(name): column for name, column in texts.items()}).rename(columns=guarded)

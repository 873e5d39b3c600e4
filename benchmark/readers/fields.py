"""Checks of single fields of published records; errors name the place and the field."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...errors import DataFormatError
from ...io.quoting import shown

__all__ = ["checked", "field", "image", "name", "number", "text", "text_list", "text_or"]

MISSING = ("", "nan", "none", "null", "n/a")
LONGEST_LIST = 100_000  # characters of a list written as text
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,0")  # 1.0 where tables are written with semicolons; "1,000" may be a thousand


@contextmanager
def checked(where: str) -> Iterator[None]:
    """Make a record in the block: one that is not as its type says becomes an error that names the place."""
    try:
        yield
    except DataFormatError as error:
        if str(error).startswith(where):  # a field of it was found wrong before
            raise
        raise DataFormatError(f"{where}: {error}") from None


def field(record: Any, key: str, where: str) -> Any:
    """The value of a field that must be there."""
    if not isinstance(record, Mapping):
        raise DataFormatError(f"{where}: expected an object of fields, not {shown(record)}")
    if key not in record:
        raise DataFormatError(f"{where}: field {key!r} is missing")
    return record[key]


def text(record: Any, key: str, where: str) -> str:
    """A text that says something."""
    value = field(record, key, where)
    if not isinstance(value, str) or not value.strip() or value.strip().lower() == "nan":
        raise DataFormatError(f"{where}: field {key!r}: expected a text, not {shown(value)}")
    return _whole(value.strip(), key, where)


def text_or(record: Any, key: str, where: str, default: str) -> str:
    """A text, or the default where the field is missing, empty, NaN or null."""
    value = record.get(key)
    if value is None or value != value or (isinstance(value, str) and value.strip().lower() in MISSING):
        return default
    return text(record, key, where)


def _whole(value: str, key: str, where: str) -> str:
    """The text, if a file can hold it: JSON may spell half of a character ("\\ud800")."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataFormatError(f"{where}: field {key!r}: {ascii(value)[:80]} holds a lone surrogate") from None
    return value


def image(record: Any, key: str, where: str) -> str:
    """An image's path; of an image as the library `datasets` writes it, ``{"bytes": ..., "path": ...}``, the path."""
    value = field(record, key, where)
    if isinstance(value, Mapping) and "path" in value:
        return text(value, "path", f"{where}, field {key!r}")
    return text(record, key, where)


def name(record: Any, key: str, where: str) -> str:
    """An id, written as a text or as a number: pandas makes 7 into 7.0 where a column has gaps."""
    value = field(record, key, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip().lower() not in MISSING:
        found = _whole(value.strip(), key, where)
        return found[:-2] if found.endswith(".0") and found[:-2].isdigit() else found
    raise DataFormatError(f"{where}: field {key!r}: expected a name or a number, not {shown(value)}")


def number(record: Any, key: str, where: str) -> float | None:
    """A finite number; None for an empty cell, NaN or null."""
    value = field(record, key, where)
    if value is None or (isinstance(value, str) and value.strip().lower() in MISSING):
        return None
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
        value = value.replace(",", ".")
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataFormatError(f"{where}: field {key!r}: expected a number, not {shown(value)}") from None
    if isinstance(value, float) and math.isnan(value):
        return None
    if not math.isfinite(found):
        raise DataFormatError(f"{where}: field {key!r}: expected a finite number, not {shown(value)}")
    return found


def text_list(record: Any, key: str, where: str) -> list[str]:
    """A list of texts, also one that is written out as Python does: ``"['a', 'b']"``. Nothing is evaluated."""
    value = field(record, key, where)
    if isinstance(value, str):
        if not value.strip() or value.strip().lower() in MISSING:
            return []
        try:
            if len(value) > LONGEST_LIST:
                raise ValueError("too long")
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataFormatError(f"{where}: field {key!r}: expected a list of texts, not {shown(value)}") from None
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise DataFormatError(f"{where}: field {key!r}: expected a list of texts, not {shown(value)}")
    return [_whole(item.strip(), key, where) for item in value]

"""Text files of records: UTF-8, and one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DataFormatError

__all__ = ["read_jsonl", "read_text", "shown"]


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, without the mark that Excel and Notepad put in front.

    Raises:
        DataFormatError: the file cannot be read, or is not UTF-8; names the line.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataFormatError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataFormatError(
            f"{path}:{line}: not UTF-8 text (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    Raises:
        DataFormatError: the file cannot be read, or a line is not a JSON object whose fields are given once each.
    """
    # Only line feeds end a record: str.splitlines would also cut at U+2028, which JSON strings may hold.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_no_duplicates)
        except json.JSONDecodeError as error:
            raise DataFormatError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from None
        except DataFormatError as error:
            raise DataFormatError(f"{path}:{number}: {error}") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise DataFormatError(f"{path}:{number}: not JSON that can be read: {error}") from None
        if not isinstance(value, dict):
            raise DataFormatError(f'{path}:{number}: expected a JSON object, {{"field": ...}}, not {shown(value)}')
        yield number, value


def shown(value: Any) -> str:
    """A value as an error quotes it: of a long one, its beginning."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _no_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(items)
    if len(record) < len(items):
        names = [name for name, _ in items]
        raise DataFormatError(f"field {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return record

"""Strict JSON, one document per file or one object per line: unique fields, finite numbers, limited depth."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from typing import IO, Any, NoReturn, cast

from ..errors import DataFormatError, OutputError
from .packed import BROKEN, unpacked
from .quoting import shown, shown_path
from .reading import MAX_DOCUMENT, encoding_of, not_utf8, open_regular, read_text

__all__ = [
    "MAX_DEPTH",
    "MAX_LINE",
    "MAX_LINES",
    "parse_json",
    "read_json",
    "read_jsonl",
    "read_text",
    "shown",
    "to_json",
]

MAX_LINE = 4 * 2**20  # bytes of one record
MAX_LINES = 4 * 2**30  # bytes of a file of records
MAX_DEPTH = 64  # of brackets in brackets
_DIGITS = 20  # of an integer: 64 bits have 19


def read_json(path: str | os.PathLike[str], limit: int = MAX_DOCUMENT, *, lone_surrogates: bool = False) -> Any:
    """The value of a JSON file.

    Raises:
        DataFormatError: the file cannot be read, is larger than ``limit`` bytes, or is not JSON as `parse_json` wants
            it; names the line.
    """
    return parse_json(read_text(path, limit), os.fspath(path), lone_surrogates=lone_surrogates)


def read_jsonl(path: str | os.PathLike[str], *, nan: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank, read one by one; UTF-8 or UTF-16, packed or not.

    nan: accept NaN and give None for it, as `parse_json` does.

    Raises:
        DataFormatError: the file cannot be read or has more than `MAX_LINES` bytes, or a line has more than `MAX_LINE`
            bytes or is not a JSON object as `parse_json` wants it; names the line.
    """
    # Only line feeds end a record: str.splitlines would also cut at U+2028, which JSON strings may hold.
    total = number = 0
    with _readline(path) as readline:
        while raw := readline(MAX_LINE + 1):
            total, number = total + len(raw), number + 1
            if len(raw) > MAX_LINE:
                raise DataFormatError(
                    f"{path}:{number}: a line of more than {MAX_LINE:,} bytes; write one record per line"
                )
            if total > MAX_LINES:  # the file grows while it is read
                raise DataFormatError(f"cannot read {str(path)!r}: it has more than {MAX_LINES:,} bytes")
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataFormatError(not_utf8(path, number, raw[error.start])) from None
            if not line.strip():
                continue
            value = parse_json(line, os.fspath(path), number, nan=nan)
            if not isinstance(value, dict):
                raise DataFormatError(f'{path}:{number}: expected a JSON object, {{"field": ...}}, not {shown(value)}')
            yield number, value


@contextmanager
def _readline(path: str | os.PathLike[str]) -> Iterator[Callable[[int], bytes]]:
    """``readline`` of the file as UTF-8 bytes, decompressed if it is packed, recoded if it is UTF-16."""
    with ExitStack() as handles:
        raw = cast("IO[bytes]", handles.enter_context(open_regular(path, MAX_LINES)))
        try:
            raw = unpacked(raw, handles)
            start = raw.read(4)
            raw.seek(0)
            if encoding_of(start).startswith("utf-8"):
                yield raw.readline
                return
            text = handles.enter_context(TextIOWrapper(raw, encoding=encoding_of(start), newline="\n"))
            yield lambda size: text.readline(size).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise DataFormatError(f"{path}: not {error.encoding} text ({error.reason}); save it as UTF-8") from None
        except BROKEN as error:
            raise DataFormatError(f"cannot read {shown_path(path)}: {error}") from error


def parse_json(
    text: str, where: str, line: int | None = None, *, lone_surrogates: bool = False, nan: bool = False
) -> Any:
    """The value of a JSON text.

    where, line: the file and line that errors name; without a line, the line of the text where reading stopped.
    lone_surrogates: accept strings that no file of UTF-8 text can hold, such as "\\\\ud800".
    nan: accept NaN, which Python and pandas write for an empty cell, and give None for it.

    Raises:
        DataFormatError: not JSON; a field given twice; NaN, infinity or a number of more than 20 digits; brackets
            nested deeper than `MAX_DEPTH`; a lone surrogate.

    >>> parse_json('{"a": [1, 2.5, "severe → no"]}', "x.json")
    {'a': [1, 2.5, 'severe → no']}
    >>> parse_json('{"a": 1, "a": 2}', "x.json", 7)
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: x.json:7: field 'a' is given twice
    """
    place = where if line is None else f"{where}:{line}"
    try:
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_nan_as_none if nan else _refuse,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        place = place if line is not None else f"{where}:{error.lineno}"
        raise DataFormatError(f"{place}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise DataFormatError(f"{place}: brackets are nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # those of the four functions below
        raise DataFormatError(f"{place}: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value):
        raise DataFormatError(f"{place}: brackets are nested deeper than {MAX_DEPTH} levels")
    if not lone_surrogates and "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            broken = ascii(error.object[error.start])
            raise DataFormatError(f"{place}: a text holds {broken}, half of a character (a lone surrogate)") from None
    return value


def to_json(value: Any, path: str | os.PathLike[str], what: str) -> str:
    """A value as a JSON text that :func:`parse_json` reads; in ASCII, so that lone surrogates survive.

    path: of the file that will hold it; what: of it the value is. Both are for the error.

    Raises:
        OutputError: it is not JSON, or holds what would be refused when it is read, such as NaN.

    >>> to_json({"margin": float("nan")}, "a.json", "the provenance")
    Traceback (most recent call last):
    tracescribe.errors.OutputError: cannot write 'a.json': the provenance is not JSON: NaN is not a number that ...
    """
    try:
        text = json.dumps(value)
        parse_json(text, what, lone_surrogates=True)
    except (TypeError, ValueError, RecursionError, DataFormatError) as error:
        reason = str(error).removeprefix(f"{what}: ")
        raise OutputError(f"cannot write {shown_path(path)}: {what} is not JSON: {reason}") from error
    return text


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [entry for entry in level if isinstance(entry, dict | list)]
        if not nested:
            return False
        level = [inner for entry in nested for inner in (entry.values() if isinstance(entry, dict) else entry)]
    return True


def _no_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(items)
    if len(record) < len(items):
        names = [name for name, _ in items]
        raise ValueError(f"field {shown(next(n for n in names if names.count(n) > 1))} is given twice")
    return record


def _nan_as_none(constant: str) -> None:
    if constant != "NaN":
        _refuse(constant)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that JSON knows; leave the field out or give a finite one")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(digits)} is too large")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits.lstrip('-')):,} digits is too large")
    return int(digits)

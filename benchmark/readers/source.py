"""Iterates over the records of a file of any kind, each with the place that an error names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TextIO

from ...errors import DataFormatError
from ...io.json_lines import MAX_LINE, parse_json, read_jsonl
from ...io.quoting import shown
from ...io.reading import MAX_DOCUMENT, open_regular
from ...io.tables import open_text, read_parquet, read_table
from .reports import is_report, read_reports

__all__ = ["Place", "Source"]

Kind = Literal["table", "lines", "array", "object", "tensors", "reports"]
TABLES = (".csv", ".tsv", ".txt")
MAX_TENSORS = 2**32  # bytes of a file of torch.save


class Place(str):
    """Where a record stands, as an error names it. item: its number or name in a JSON document, unshortened."""

    item = ""

    @classmethod
    def of_item(cls, path: Path, item: str) -> Place:
        """The place of an item of a JSON array or object."""
        place = cls(f"{path}, item {shown(item)}")
        place.item = item
        return place


class Source:
    """A file of records.

    kind: "table" (CSV, TSV, or Parquet), "lines" (JSON lines, also in a .json file), "array" or "object" (one JSON
        value, whose items are read one after another), "tensors" (what ``torch.save`` wrote), "reports" (an XML file,
        or a .tgz archive of them). Texts may be gzip or a zip archive of one file.
    is_one_record: a .json file holds one object that is a record itself, as JSON lines of one line do; of other objects
        the values are the records.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_one_record = False
        self.kind: Kind = self._kind()

    def _kind(self) -> Kind:
        names = [suffix.lower() for suffix in self.path.suffixes[-2:]]
        if names and names[-1] in (".gz", ".zip"):
            names.pop()
        suffix = names[-1] if names else ""
        self._parquet = suffix == ".parquet"
        if suffix in TABLES or self._parquet:
            return "table"
        if suffix == ".jsonl":
            return "lines"
        if suffix in (".pt", ".pth"):
            return "tensors"
        if is_report(self.path):
            return "reports"
        if suffix != ".json":
            raise DataFormatError(
                f"{str(self.path)!r}: files end in .csv, .tsv, .json, .jsonl (also .gz, .zip), .parquet, .pt, .xml or "
                f".tgz; to read another file, rename it to what it holds"
            )
        with open_text(self.path) as text:
            try:
                start = text.read(4096).lstrip()
                more = text.read(MAX_LINE) if start[:1] == "{" else ""
                rest = text.read(1)
            except UnicodeDecodeError as error:
                raise DataFormatError(f"{self.path}: not {error.encoding} text; save it as UTF-8") from None
        if start[:1] == "[":
            return "array"
        if start[:1] == "{":
            self.is_one_record = not rest and _is_one_record(start + more)
            return "lines" if self.is_one_record or _is_first_of_several(start + more) else "object"
        raise DataFormatError(f"{self.path}: a .json file must hold an array or an object, found {start[:20]!r}")

    def take_for_items(self) -> None:
        """Of one object, take its values for the records: it is no record of the format that it is said to be."""
        self.is_one_record, self.kind = False, "object"
        for name in ("first", "fields"):
            self.__dict__.pop(name, None)

    def records(self) -> Iterator[tuple[Place, Any]]:
        """Every record with its place: a line (of a table or of JSON lines), or an item's number or name."""
        if self.is_one_record:
            with open_text(self.path) as text:
                yield Place(self.path), parse_json(text.read(), str(self.path), nan=True)
        elif self.kind == "lines":
            for line, record in read_jsonl(self.path, nan=True):
                yield Place(f"{self.path}:{line}"), record
        elif self.kind == "table":
            for line, row in (read_parquet if self._parquet else read_table)(self.path):
                yield Place(f"{self.path}:{line}"), row
        elif self.kind == "tensors":
            yield Place(self.path), _tensors(self.path)
        elif self.kind == "reports":
            for name, report in read_reports(self.path):
                yield Place.of_item(self.path, name), report
        else:
            yield from self._json()

    def items_of(self, name: str) -> Iterator[tuple[Place, Any]]:
        """The items of the list ``name`` of a JSON object, one after another."""
        return self._json(name)

    def fields_of(self, name: str) -> frozenset[str]:
        """Names of the fields of the first item of such a list; none where there is no such list of objects."""
        first = next((value for _, value in self.items_of(name)), None)
        return frozenset(first) if isinstance(first, dict) else frozenset()

    def _json(self, name: str = "") -> Iterator[tuple[Place, Any]]:
        import ijson

        with open_text(self.path) as text:
            raw = _Utf8(text)
            try:
                if self.kind == "array" or name:
                    prefix = f"{name}.item" if name else "item"
                    for number, value in enumerate(ijson.items(raw, prefix, use_float=True)):
                        yield Place.of_item(self.path, str(number)), value
                else:
                    for name, value in ijson.kvitems(raw, "", use_float=True):
                        yield Place.of_item(self.path, name), value
            except ijson.JSONError as error:
                self._say_where_it_breaks()
                raise DataFormatError(f"{self.path}: not JSON: {str(error).partition(chr(10))[0][:200]}") from None
            except (UnicodeDecodeError, RecursionError, OSError, EOFError) as error:
                raise DataFormatError(f"{self.path}: not JSON: {str(error).strip()[:200]}") from None

    def _say_where_it_breaks(self) -> None:
        """Raise the error that names the line, which the parser of large files does not tell."""
        with open_text(self.path) as text:
            whole = text.read(MAX_DOCUMENT)
        parse_json(whole, str(self.path), nan=True)

    @cached_property
    def first(self) -> Any:
        """The first record.

        Raises:
            DataFormatError: there is none.
        """
        for _, value in self.records():
            return value
        raise DataFormatError(f"{self.path}: holds no records")

    def has_most_of(self, names: Collection[str]) -> bool:
        """Whether the first record has more than half of these fields: then the file is meant to have all."""
        return 2 * len(self.fields & set(names)) > len(names)

    def check_columns(self, names: Collection[str]) -> None:
        """Refuse a table without all of these columns; one that is spelt otherwise would be read as empty.

        Raises:
            DataFormatError: names those that are missing.
        """
        missing = [name for name in names if name not in self.fields]
        if missing:
            them, plural = ("them", "s") if len(missing) > 1 else ("it", "")
            raise DataFormatError(
                f"{self.path}: no column{plural} {', '.join(map(repr, missing))}; name {them} so, or add {them}, empty "
                f"where nothing is known"
            )

    @cached_property
    def fields(self) -> frozenset[str]:
        """Names of the first record's fields; none where it is no object."""
        return frozenset(self.first) if isinstance(self.first, dict) else frozenset()


def _is_first_of_several(text: str) -> bool:
    """Whether the first line is an object and another one follows: JSON lines, whatever the file's name says."""
    first, _, rest = text.partition("\n")
    if not rest.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _is_one_record(text: str) -> bool:
    """Whether an object is a record: it has a value that is no object, and none that is a list of objects.

    The items of SugarCrepe and VALSE are objects by name; COCO's and Karpathy's are lists of objects beside others.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    lists = [entry for entry in value.values() if isinstance(entry, list)]
    if any(isinstance(item, dict) for entry in lists for item in entry[:1]):
        return False
    return any(not isinstance(entry, dict) for entry in value.values())


class _Utf8:
    """A text stream as the UTF-8 bytes that a JSON parser takes, whatever the file's encoding; NaN as null.

    Python and pandas write NaN for an empty cell, and no JSON parser accepts it. Of a text only quotes are counted: NaN
    between two of them is a word.
    """

    def __init__(self, text: TextIO) -> None:
        self._text, self._held, self._in_string = text, "", False

    def read(self, size: int = -1) -> bytes:
        more = self._text.read(size)
        while more:
            chunk = self._held + more
            end = len(chunk) - _n_unfinished(chunk)
            self._held = chunk[end:]
            if end:
                return self._without_nan(chunk[:end]).encode("utf-8")
            more = self._text.read(size)
        rest, self._held = self._held, ""
        return rest.encode("utf-8")

    def _without_nan(self, chunk: str) -> str:
        """The chunk, which begins within a string or not, as the quotes before it say."""
        if "NaN" not in chunk:
            self._in_string ^= bool(_ESCAPED.sub("", chunk).count('"') % 2)
            return chunk
        parts = []
        for part in _PARTS.split(chunk):
            self._in_string ^= part == '"'
            parts.append(part if self._in_string else part.replace("NaN", "null"))
        return "".join(parts)


def _n_unfinished(chunk: str) -> int:
    """Characters at the end that the next chunk may complete: a part of NaN, or the backslash of an escape."""
    if chunk.endswith(("N", "Na")) and not chunk.endswith("NaN"):
        return 1 if chunk.endswith("N") else 2
    return (len(chunk) - len(chunk.rstrip("\\"))) % 2


_ESCAPED = re.compile(r"\\.", re.DOTALL)
_PARTS = re.compile(r'(\\.|")', re.DOTALL)


def _tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, as plain values: nothing in the file is executed."""
    import torch

    try:
        with open_regular(path, MAX_TENSORS) as handle:
            return torch.load(handle, map_location="cpu", weights_only=True)
    except DataFormatError:
        raise
    except Exception as error:  # torch's unpickler raises whatever it meets in junk
        raise DataFormatError(
            f"{path}: holds something else than plain values and tensors, or is damaged; it was not executed "
            f"({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]})"
        ) from None

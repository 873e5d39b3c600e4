"""Tables in text files: commas, semicolons or tabs; UTF-8 or UTF-16; packed or not; quoted cells may span lines."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from typing import IO, TYPE_CHECKING, cast

from ..errors import DataFormatError
from .atomic import write_atomically
from .json_lines import MAX_LINES
from .packed import BROKEN, unpacked
from .quoting import shown, shown_path
from .reading import encoding_of, open_regular
from .spreadsheets import guarded_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["open_text", "read_parquet", "read_table", "write_csv"]

DELIMITERS = ",;\t"
LONGEST_CELL = 10_000_000  # characters; csv's own limit of 131,072 is shorter than a base64 image
LONGEST_LINE = 2**26  # characters


@contextmanager
def open_text(path: str | os.PathLike[str]) -> Iterator[TextIOWrapper]:
    """A text file for reading, decompressed if it is packed, in the encoding that its first bytes say (else UTF-8).

    Raises:
        DataFormatError: it is no regular file, or cannot be read.
    """
    with ExitStack() as handles:
        raw = cast("IO[bytes]", handles.enter_context(open_regular(path, MAX_LINES)))
        try:
            raw = unpacked(raw, handles)
            start = raw.read(4)
            raw.seek(0)
        except BROKEN as error:
            raise DataFormatError(f"cannot read {shown_path(path)}: {error}") from error
        yield handles.enter_context(TextIOWrapper(raw, encoding=encoding_of(start), newline=""))


def read_table(
    path: str | os.PathLike[str], check: Callable[[list[str], str], None] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of every record; cells and column names are stripped.

    The first line names the columns; which of comma, semicolon and tab separates them is read off it. A first column
    without a name (the index that pandas writes) is left out, as are empty columns without a name at the end.

    check: is called with the columns' names and their place, "file:line", and may refuse them.

    Raises:
        DataFormatError: the file cannot be read, has no columns, a column twice, or a record of another width; names
            file and line.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.csv")
    ...     _ = path.write_text('x; y\\n1;"two\\nlines"\\n')
    ...     list(read_table(path))
    [(2, {'x': '1', 'y': 'two\\nlines'})]
    """
    line = 1
    with open_text(path) as text:
        csv.field_size_limit(LONGEST_CELL)
        try:
            lines = _lines(text, path)
            header, first = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (1, None))
            if first is None:
                raise DataFormatError(f"{path}: the file is empty")
            delimiter = max(DELIMITERS, key=first.count)
            names = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
            width, index = len(names), bool(names) and not names[0]
            while len(names) > 1 and not names[-1]:  # columns that a spreadsheet saved although they are empty
                names.pop()
            _check_columns(names[index:], f"{path}:{header}")
            if check is not None:
                check(names[index:], f"{path}:{header}")
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            while True:
                line = header + reader.line_num + 1  # where the record begins
                row = next(reader, None)
                if row is None:
                    return
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != width or any(cell.strip() for cell in row[len(names) :]):
                    raise DataFormatError(
                        f"{path}:{line}: {len(row)} cells for {len(names)} columns; a cell that holds "
                        f"{delimiter!r} must stand in double quotes"
                    )
                cells = zip(names[index:], row[index : len(names)], strict=True)
                yield line, {name: cell.strip() for name, cell in cells}
        except csv.Error as error:
            raise DataFormatError(f"{path}:{line}: not a table of text: {error}") from None
        except UnicodeDecodeError as error:
            raise DataFormatError(f"{path}: not {error.encoding} text ({error.reason}); save it as UTF-8") from None
        except BROKEN as error:
            raise DataFormatError(f"cannot read {shown_path(path)}: {error}") from error


def read_parquet(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Row number (from 1) and cells by column of every row of a Parquet file, as `read_table` gives those of its CSV.

    Numbers and lists are written as Python writes them, an empty cell is "". Of a column of images, as the library
    `datasets` writes it, the file's name is read; other nested values are not. No more than some thousand rows are in
    memory.

    Raises:
        DataFormatError: the file cannot be read, or is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_regular(path, MAX_LINES) as handle:
        try:
            file = pq.ParquetFile(handle)
            columns = []
            for field in file.schema_arrow:
                if not pa.types.is_struct(field.type) and not pa.types.is_binary(field.type):
                    columns.append(field.name)
                elif pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0:
                    columns.append(f"{field.name}.path")
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    flat = {name: value["path"] if isinstance(value, dict) else value for name, value in row.items()}
                    yield number, {name: _as_text(value) for name, value in flat.items()}
        except (pa.ArrowException, UnicodeDecodeError, *BROKEN) as error:
            raise DataFormatError(f"{shown_path(path)}: cannot be read as Parquet: {str(error)[:200]}") from None


def write_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """A pandas table as a CSV file, without its row numbers; no half-written file is left.

    A text that a spreadsheet would run as a formula stands after an apostrophe, see :mod:`.spreadsheets`.

    Raises:
        OutputError: the file cannot be written.
    """
    frame = guarded_frame(frame)
    # pandas puts no quotes around a lone carriage return, which ends the row where it is read
    texts = [frame[name] for name in frame if frame[name].dtype.kind not in "biufcmM"]
    returns = any("\r" in cell for column in texts for cell in column if isinstance(cell, str))
    with write_atomically(path, binary=True) as handle:
        frame.to_csv(
            handle,
            index=False,
            encoding="utf-8",
            lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL,
        )


def _as_text(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()


def _lines(text: TextIOWrapper, path: str | os.PathLike[str]) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataFormatError(f"{path}:{number}: a line of more than {LONGEST_LINE:,} characters")
        yield line


def _check_columns(names: list[str], where: str) -> None:
    if not names or not all(names):
        raise DataFormatError(f"{where}: the first line must name every column, found {shown(names)}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataFormatError(f"{where}: column {shown(twice)} is given twice")

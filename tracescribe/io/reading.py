"""Opens files for reading: regular files only, with a limit of size."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import DataFormatError
from .quoting import shown_path

__all__ = [
    "MAX_DOCUMENT",
    "MAX_TEXT",
    "encoding_of",
    "is_file",
    "is_folder",
    "not_utf8",
    "open_regular",
    "read_bytes",
    "read_text",
]

MAX_TEXT = 2**30  # bytes of a table that is read as a whole
MAX_DOCUMENT = 2**28  # bytes of a JSON document: a plan, a configuration, a manifest


_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"))


def encoding_of(start: bytes) -> str:
    """The encoding of a text by its first four bytes: what its mark says, UTF-16 also without one, else UTF-8.

    Of UTF-16 without a mark every second byte of ASCII characters is 0, which no UTF-8 text holds.

    >>> [encoding_of("a;b".encode(name)[:4]) for name in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")]
    ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be']
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    first, second = start[:1], start[1:2]
    if (first == b"\0") == (second == b"\0"):
        return "utf-8"
    return "utf-16-be" if first == b"\0" else "utf-16-le"


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is there; unlike `Path.is_file` also False of a name that is too long for any file.

    >>> is_file("x" * 300), is_folder("a\\0b")
    (False, False)
    """
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is there; False, too, of a name that none can have."""
    return os.path.isdir(path)  # noqa: PTH112


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> BinaryIO:
    """A binary handle of a regular file; pipes, devices and folders are refused without waiting for them.

    limit: the largest size in bytes that is accepted.

    Raises:
        DataFormatError: there is no such file, it may not be read, it is not a regular file, or it is too large.

    >>> open_regular("/dev/zero")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read '/dev/zero': it is a device, and only regular files are read
    """
    name = shown_path(path)
    try:
        # O_NONBLOCK: opening a named pipe would wait for somebody to write into it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL character, a lone surrogate
        raise DataFormatError(f"cannot read {name}: no file can have this name ({error})") from None
    except OSError as error:
        raise DataFormatError(f"cannot read {name}: {error.strerror or error}") from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and (limit is None or found.st_size <= limit):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise DataFormatError(f"cannot read {name}: it has {found.st_size:,} bytes, and at most {limit:,} are read")
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "device")
    raise DataFormatError(f"cannot read {name}: it is a {kind}, and only regular files are read")


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; raises `DataFormatError` as `open_regular` does."""
    with open_regular(path, limit) as handle:
        try:
            raw = handle.read(limit + 1)  # the size that some virtual files state is 0
        except OSError as error:
            raise DataFormatError(f"cannot read {shown_path(path)}: {error.strerror or error}") from error
    if len(raw) > limit:
        raise DataFormatError(f"cannot read {shown_path(path)}: it has more than the {limit:,} bytes that are read")
    return raw


def read_text(path: str | os.PathLike[str], limit: int = MAX_TEXT) -> str:
    """The text of a UTF-8 file, without the mark that Excel and Notepad put in front.

    Raises:
        DataFormatError: the file cannot be read, is larger than ``limit`` bytes, or is not UTF-8; names the line.
    """
    raw = read_bytes(path, limit)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFormatError(not_utf8(path, raw.count(b"\n", 0, error.start) + 1, raw[error.start])) from None


def not_utf8(path: str | os.PathLike[str], line: int, byte: int) -> str:
    """The sentence about a byte that no UTF-8 text holds."""
    return f"{Path(path)}:{line}: not UTF-8 text (byte 0x{byte:02x}); save the file as UTF-8"

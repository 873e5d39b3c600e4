"""Reads what is inside a compressed file: gzip, or a zip archive of one file."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from contextlib import ExitStack
from typing import IO, cast

__all__ = ["BROKEN", "unpacked"]

BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError)
"""What a disk, a damaged stream or an unknown way of packing raises."""


def unpacked(raw: IO[bytes], handles: ExitStack) -> IO[bytes]:
    """The bytes of a file, decompressed if it is packed; whether it is, its first bytes say, not its name.

    Raises:
        OSError: a zip archive of no file, of several, or with a password; one of `BROKEN` where the file is damaged.
    """
    start = raw.read(4)
    raw.seek(0)
    if start[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", handles.enter_context(gzip.GzipFile(fileobj=raw)))
    if start == b"PK\x03\x04":
        archive = handles.enter_context(zipfile.ZipFile(raw))
        listed = [info for info in archive.infolist() if not info.is_dir()]
        inside = [info for info in listed if not info.filename.startswith("__MACOSX/")]
        if len(inside) != 1:
            raise OSError(f"a zip archive of {len(inside)} files; unpack it and give one of them")
        if inside[0].flag_bits & 1:
            raise OSError("a zip archive with a password; unpack it first")
        return handles.enter_context(archive.open(inside[0]))
    return raw

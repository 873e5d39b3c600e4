"""Writes files completely or not at all: a reader never sees a partial result, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import OutputError
from .places import locked_temporary, real_place, refusing, remove_abandoned, try_to_write
from .quoting import shown_path

__all__ = ["check_output", "ensure_writable", "remove_abandoned", "write_atomically"]

# Raised by the caller's own write() calls; any other error of the block is the caller's and passes through unchanged.
DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def ensure_writable(path: str | os.PathLike[str]) -> Path:
    """The path, once a file was really written there and removed again: call it *before* a long computation.

    Nothing that exists is touched; a file that is already there will be replaced by the later write. What killed
    processes left in the folder is removed.

    Raises:
        OutputError: the path is a folder, a device, a mounted file or a link that leads nowhere; or its folder is
            missing or not a folder, or may not be written to, or is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ensure_writable(f"{folder}/trace.safetensors").name
    'trace.safetensors'
    >>> ensure_writable("no/such/out.pdf")
    Traceback (most recent call last):
    tracescribe.errors.OutputError: cannot write 'no/such/out.pdf': the folder 'no/such' does not exist; create it first
    """
    with refusing(path):
        place = _file_place(path)
        try_to_write(place)
        remove_abandoned(place.parent)
    return Path(path)


def check_output(
    path: str | os.PathLike[str],
    suffixes: tuple[str, ...] = (),
    *,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
) -> Path:
    """`ensure_writable`, after the ending of the name is found among ``suffixes``.

    inputs: files that are read for it, which it must not replace.

    Raises:
        OutputError: as `ensure_writable`, or the name has another ending, or is that of an input.

    >>> check_output("plan.txt", (".json",))
    Traceback (most recent call last):
    tracescribe.errors.OutputError: cannot write 'plan.txt': its name must end in .json
    """
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise OutputError(f"cannot write {shown_path(path)}: its name must end in {', '.join(suffixes)}")
    if any(given is not None and _same_file(path, given) for given in inputs):
        raise OutputError(f"cannot write {shown_path(path)}: it is read, and would be lost; give another name")
    return ensure_writable(path)


@contextmanager
def write_atomically(path: str | os.PathLike[str], binary: bool = False) -> Iterator[IO[Any]]:
    """A handle whose content appears at ``path`` when the block ends, or never.

    The block writes to a temporary file in the same folder, which is flushed to the disk and then moved over ``path``
    (``os.replace``, atomic on one file system). If the block raises, the temporary file is removed and whatever was at
    ``path`` before is still there. Where ``path`` is a link, the file that it leads to is replaced. Text is UTF-8 with
    ``\\n`` line ends on every system.

    Raises:
        OutputError: as `ensure_writable`.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "note.txt")
    ...     with write_atomically(path) as handle:
    ...         _ = handle.write("severe → no")
    ...     path.read_text(encoding="utf-8")
    'severe → no'
    """
    with refusing(path):
        target = _file_place(path)
        temporary, descriptor = locked_temporary(target.parent)
    assert descriptor is not None  # only folders have none
    try:
        handle: IO[Any] = (
            os.fdopen(descriptor, "w+b") if binary else os.fdopen(descriptor, "w+", encoding="utf-8", newline="\n")
        )
        with handle:
            yield handle
            with refusing(path):
                handle.flush()
                os.fsync(handle.fileno())
        with refusing(path):
            temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise OutputError(f"cannot write {shown_path(path)}: {error.strerror}") from error
        raise


def _same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except (OSError, ValueError):  # one of them does not exist
        return False


def _file_place(path: str | os.PathLike[str]) -> Path:
    if Path(path).is_dir():
        raise IsADirectoryError("it is a folder; give a file name inside it")
    place = real_place(path)
    if place.exists() and not place.is_file():  # a device such as /dev/null would be replaced by a file
        raise FileExistsError("it exists and is not a regular file")
    folder = Path(path).parent
    if not folder.exists():
        raise FileNotFoundError(f"the folder {shown_path(folder)} does not exist; create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"{shown_path(folder)} is a file, not a folder")
    return place

"""Write files whole or not at all: a reader never sees half a result, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import OutputError

__all__ = ["ensure_writable", "write_atomically"]

# Raised by the caller's own write() calls; any other error of the block is the caller's and passes through unchanged.
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def ensure_writable(path: str | os.PathLike[str]) -> Path:
    """The path, once a file can be written there: call it *before* a long computation whose result goes there.

    Nothing that exists is touched; a file that is already there will be replaced by the later write.

    Raises:
        OutputError: the path is a folder, its folder is missing or not a folder, or may not be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ensure_writable(f"{folder}/trace.safetensors").name
    'trace.safetensors'
    >>> ensure_writable("no/such/out.pdf")
    Traceback (most recent call last):
    tracescribe.errors.OutputError: cannot write 'no/such/out.pdf': the folder 'no/such' does not exist; create it first
    """
    with _refusing(path):
        probe = _temporary_beside(Path(path))
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        probe.unlink()
    return Path(path)


@contextmanager
def write_atomically(path: str | os.PathLike[str], binary: bool = False) -> Iterator[IO[Any]]:
    """A handle whose content appears at ``path`` when the block ends, or never.

    The block writes to a temporary file in the same folder, which is flushed to the disk and then moved over ``path``
    (``os.replace``, atomic on one file system). If the block raises, the temporary file is removed and whatever was at
    ``path`` before is still there. Text is UTF-8 with ``\\n`` line ends on every system.

    Raises:
        OutputError: ``path`` is a folder, or its folder is missing, unwritable or full.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "note.txt")
    ...     with write_atomically(path) as handle:
    ...         _ = handle.write("severe → no")
    ...     path.read_text(encoding="utf-8")
    'severe → no'
    """
    target = Path(path)
    with _refusing(path):
        temporary = _temporary_beside(target)
        # 0o666 less the umask: the file gets the rights that a plain open() would have given it.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        handle: IO[Any] = (
            os.fdopen(descriptor, "w+b") if binary else os.fdopen(descriptor, "w+", encoding="utf-8", newline="\n")
        )
        with handle:
            yield handle
            with _refusing(path):
                handle.flush()
                os.fsync(handle.fileno())
        with _refusing(path):
            temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise OutputError(f"cannot write {os.fspath(path)!r}: {error.strerror}") from error
        raise


def _temporary_beside(path: Path) -> Path:
    if path.is_dir():
        raise IsADirectoryError("it is a folder; give a file name inside it")
    if path.exists() and not path.is_file():  # a device such as /dev/null would be replaced by a file
        raise FileExistsError("it exists and is not a regular file")
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(f"the folder {str(folder)!r} does not exist; create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, not a folder")
    # The name is kept short: a long but legal file name must not become illegal by its temporary name.
    return folder / f".tracescribe-{secrets.token_hex(8)}.tmp"


@contextmanager
def _refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {os.fspath(path)!r}: {reason}") from error

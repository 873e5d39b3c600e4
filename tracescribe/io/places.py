"""Output paths: resolved, and tested by writing before any long work begins."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from .quoting import shown_path

__all__ = ["abandoned", "locked_temporary", "real_place", "refusing", "release", "remove_abandoned", "try_to_write"]

_PREFIX, _PROBE = ".tracescribe-", 4096  # bytes that are written to try a place
_STALE = 7 * 24 * 3600  # seconds after which unfinished files are abandoned where files cannot be locked
_MOUNTS = Path("/proc/self/mountinfo")


def real_place(path: str | os.PathLike[str], *, replaced: bool = True) -> Path:
    """The absolute path that a result is written to: links are followed.

    replaced: what is there will be moved away, as something mounted cannot be.

    Raises:
        OSError: the name cannot be a file's, a link leads nowhere or in a circle, or something is mounted there.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise OSError(errno.EINVAL, "its name holds a NUL character")
    if not text:
        raise OSError(errno.ENOENT, "the name is empty")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise OSError(errno.EINVAL, "its name holds half of a character (a lone surrogate)") from None
    target = Path(text)
    if target.is_symlink():
        try:
            os.stat(target)  # noqa: PTH116  # names the reason: no such file, too many levels of links
        except OSError as error:
            to = shown_path(target.readlink())
            raise OSError(error.errno, f"it is a link to {to}, which cannot be reached ({error.strerror})") from None
    place = Path(os.path.realpath(target))
    if replaced and place.exists() and _is_mount_point(place):
        raise OSError(errno.EBUSY, "something is mounted there, so that it cannot be replaced; give a name inside it")
    return place


def try_to_write(place: Path) -> None:
    """Write a few bytes under the last parts of ``place`` that do not exist yet, and remove them again.

    Permissions say little about root and about read-only, full or virtual file systems, and nothing about the names
    that a file system takes.

    Raises:
        OSError: it cannot be done.
    """
    missing = [place.name]
    for folder in place.parents:
        if folder.exists():
            break
        missing.append(folder.name)
    probe, descriptor = locked_temporary(folder, is_folder=True)
    inside = probe
    try:
        for name in reversed(missing[1:]):
            inside = inside / name
            inside.mkdir()
        with (inside / missing[0]).open("wb") as handle:
            handle.write(bytes(_PROBE))
            handle.flush()
            os.fsync(handle.fileno())
    finally:
        try:
            shutil.rmtree(probe, ignore_errors=True)
        finally:
            release(descriptor)


def locked_temporary(folder: Path, of: str = "", *, is_folder: bool = False) -> tuple[Path, int | None]:
    """A new file or folder, and the descriptor that keeps `abandoned` from finding it until `release` closes it.

    Its name is short, so that a long but legal name does not become illegal by its temporary name. The descriptor of a
    folder is None where the system opens no folders (Windows).
    """
    while True:
        path = folder / f"{_PREFIX}{of}{secrets.token_hex(8)}.tmp"
        if is_folder:
            path.mkdir()
            if os.name == "nt":
                return path, None
        try:
            # 0o666 less the umask: the file gets the rights that a plain open() would have given it.
            flags = os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:
            if is_folder and path.parent.is_dir():
                continue  # another process found the folder before the lock was on it, and removed it
            raise
        if _lock(descriptor) is not False and path.exists():
            return path, descriptor
        os.close(descriptor)


def release(descriptor: int | None) -> None:
    """Close the descriptor of `locked_temporary`."""
    if descriptor is not None:
        os.close(descriptor)


def abandoned(folder: Path, of: str = "") -> Iterator[Path]:
    """The temporary files and folders in ``folder`` whose writer is gone, locked while the caller looks at each.

    A living writer holds a lock, which the system releases when it is killed. Where files cannot be locked, a week
    without a change counts as abandoned.
    """
    pattern = re.compile(re.escape(_PREFIX + of) + r"[0-9a-f]{16}\.tmp")
    try:
        found = [folder / name for name in os.listdir(folder) if pattern.fullmatch(name)]  # noqa: PTH208
    except OSError:
        return
    for path in found:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                locked = _lock(descriptor)
                if locked or (locked is None and time.time() - os.fstat(descriptor).st_mtime > _STALE):
                    yield path
            finally:
                os.close(descriptor)


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files and trials to write that killed processes left in a folder."""
    for path in abandoned(Path(folder)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _lock(descriptor: int) -> bool | None:
    """True once this process holds the lock of an open file or folder; False if another one does; None: unknown."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; network file systems without locks
        return None
    return True


@contextmanager
def refusing(path: str | os.PathLike[str], what: str = "") -> Iterator[None]:
    """Turn the system's errors into one sentence about ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {what}{shown_path(path)}: {reason}") from error


def _is_mount_point(place: Path) -> bool:
    """Also of files and of folders of the same file system, which `os.path.ismount` cannot tell."""
    if os.path.ismount(place):
        return True
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return False
    points = (line.split(" ")[4] for line in lines if line.count(" ") > 4)
    return str(place) in {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point) for point in points}

"""Folders of results: written completely or not at all, with a manifest of their format, options and files.

A folder that exists is replaced only if its manifest names the same format and it holds nothing but the files that the
manifest lists: files that somebody else put there are never deleted. At every instant the earlier or the new result is
at its name; where the file system cannot exchange two folders in one step, a process that is killed between two steps
leaves the earlier one aside, and the next start puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataFormatError, OutputError
from .json_lines import read_json
from .places import abandoned, locked_temporary, real_place, refusing, release, remove_abandoned, try_to_write
from .quoting import shown, shown_path
from .reading import MAX_DOCUMENT, is_file

__all__ = [
    "MANIFEST",
    "Manifest",
    "check_folder",
    "check_growing_folder",
    "file_hash",
    "put_back",
    "read_folder",
    "write_folder",
]

MANIFEST = "manifest.json"
_FRESH, _EARLIER = "fresh", "earlier"  # inside the work folder, which lies beside the target
_AT_FDCWD, _EXCHANGE = -100, 2  # of renameat2(2)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What a folder of results says about itself: its format, further facts, and the SHA-256 of every file."""

    format: str
    facts: Mapping[str, Any]
    sha256: Mapping[str, str]


def check_folder(
    path: str | os.PathLike[str],
    format: str,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
) -> Path:
    """The path, once it is sure that a folder of this format can be written there; nothing is created or changed.

    Call it before the first step of work. What killed processes left of an earlier attempt is removed, and an earlier
    result that they left aside is put back.

    inputs: files and folders that are read for it, which must not lie in the folder.

    Raises:
        OutputError: the place holds something else than a result of this format, a file that its manifest does not
            list, an input, or an earlier result without ``overwrite``; or nothing can be written there (tried by
            writing).
    """
    with refusing(path, "the folder "):
        target = _folder_place(path)
        for given in inputs:
            if given is not None and Path(os.path.realpath(given)).is_relative_to(target):
                raise OSError(errno.EBUSY, f"{shown_path(given)} is read, and would be lost; give another name")
        put_back(target)
        _check_replaceable(target, path, format, overwrite)
        try_to_write(target)
    return Path(path)


def check_growing_folder(path: str | os.PathLike[str]) -> Path:
    """The path, once it is sure that files can be added to a folder there; nothing is created or changed.

    Of a folder that is not replaced as a whole, such as a study or a cache: it may exist, also as a mount point.

    Raises:
        OutputError: a file is there, or nothing can be written there (tried by writing).
    """
    with refusing(path, "in the folder "):
        target = real_place(path, replaced=False)
        if target.exists() and not target.is_dir():
            raise FileExistsError("it is a file, and a folder is needed")
        try_to_write(target / "a file" if target.exists() else target)
    return Path(path)


@contextmanager
def write_folder(
    path: str | os.PathLike[str],
    format: str,
    *,
    overwrite: bool = False,
    facts: dict[str, Any] | None = None,
    sync: bool = True,
) -> Iterator[Path]:
    """A folder to fill, which appears at ``path`` with a manifest when the block ends, or never.

    facts: go into the manifest; read when the block has ended, so that the block may add to them.
    sync: wait until the files are on the disk, as for results that took long; a power failure loses others.

    Raises:
        OutputError: as `check_folder`; also when something appeared at ``path`` meanwhile.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with write_folder(f"{parent}/result", "example/1", facts={"seed": 0}) as folder:
    ...         _ = (folder / "scores.txt").write_text("1")
    ...     manifest = read_folder(f"{parent}/result", "example/1")
    ...     manifest.facts, list(manifest.sha256)
    ({'seed': 0}, ['scores.txt'])
    """
    check_folder(path, format, overwrite=overwrite)
    with refusing(path, "the folder "):
        target = _folder_place(path)
        made = _make_parents(target)
        work, descriptor = locked_temporary(target.parent, _of(target), is_folder=True)
    try:
        fresh = work / _FRESH
        with refusing(path, "the folder "):
            fresh.mkdir()
        yield fresh
        with refusing(path, "the folder "):
            _write_manifest(fresh, format, facts or {}, sync)
            _check_replaceable(target, path, format, overwrite)  # hours may have passed
            _move_into_place(fresh, target, work / _EARLIER)
    except BaseException as error:
        _clear(work, target)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        problem = _of_safetensors(error) or error
        if isinstance(problem, OSError) and not isinstance(problem, OutputError) and _is_inside(problem, work):
            raise OutputError(f"cannot write the folder {shown_path(path)}: {problem.strerror or problem}") from error
        raise
    else:
        _clear(work, target)
    finally:
        release(descriptor)


def read_folder(
    path: str | os.PathLike[str], format: str, *, needs: Iterable[str] = (), outdated: Mapping[str, str] | None = None
) -> Manifest:
    """The manifest of a folder of results, after every file that it lists was compared with its SHA-256.

    needs: files that will be read, and that the manifest must therefore list.
    outdated: earlier formats that are not read any more, and what to tell the user about each.

    Raises:
        DataFormatError: the folder is no result of this format, or a file of it is missing or changed.
    """
    name = shown_path(path)
    with suppress(OSError, OutputError):
        put_back(_folder_place(path))
    manifest = _manifest(Path(path))
    if manifest is None:
        raise DataFormatError(f"{name} is no result of tracescribe: it has no {MANIFEST} of format {format!r}")
    if manifest.format != format:
        advice = (outdated or {}).get(manifest.format)
        hint = f": {advice}" if advice else ""
        raise DataFormatError(f"{name} has format {shown(manifest.format)}, expected {format!r}{hint}")
    unlisted = next((file for file in needs if file not in manifest.sha256), None)
    if unlisted is not None:
        raise DataFormatError(f"{name} is damaged: its {MANIFEST} does not list {unlisted!r}, which is read")
    for file, expected in manifest.sha256.items():
        place = Path(path, file)
        if not is_file(place):
            raise DataFormatError(f"{name} is damaged: {shown(file)}, which its {MANIFEST} lists, is missing")
        if file_hash(place) != expected:
            raise DataFormatError(
                f"{name} is damaged: {shown(file)} is not the file that was written (its SHA-256 differs from the one "
                f"in {MANIFEST})"
            )
    return manifest


def file_hash(path: Path, sync: bool = False) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        if sync:
            os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()


def put_back(target: Path) -> None:
    """Finish what killed processes left undone beside ``target``: put an earlier result back, remove work folders."""
    for work in abandoned(target.parent, _of(target)):
        _clear(work, target)
    remove_abandoned(target.parent)


def _folder_place(path: str | os.PathLike[str]) -> Path:
    target = real_place(path)
    if target.exists() and not target.is_dir():
        raise FileExistsError("it is a file, and a folder is needed")
    here = Path.cwd()
    if target == here or target in here.parents:
        raise OSError(
            errno.EBUSY, "it is the folder you are in, or holds it, and cannot be replaced; give a name in it"
        )
    return target


def _of(target: Path) -> str:
    """What the names of a target's work folders begin with."""
    return hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12] + "-"


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above the target; those that were made, the deepest first."""
    missing = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _check_replaceable(target: Path, path: str | os.PathLike[str], format: str, overwrite: bool) -> None:
    name = shown_path(path)
    if not target.exists() or not any(target.iterdir()):
        return
    manifest = _manifest(target)
    if manifest is None or manifest.format != format:
        found = "has no such manifest" if manifest is None else f"has format {shown(manifest.format)}"
        raise OutputError(
            f"{name} exists and is not an earlier result of this command (format {format!r}): it {found}; give another "
            "name, nothing in it was touched"
        )
    foreign = _foreign(target, manifest)
    if foreign:
        raise OutputError(
            f"{name} holds {shown(foreign[0])}, which this command did not write; move it away or give another name"
        )
    if not overwrite:
        raise OutputError(
            f"{name} holds an earlier result; give another name, or --overwrite (overwrite=True) to replace it"
        )


def _manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where it has none that can be read."""
    try:
        content = read_json(folder / MANIFEST, MAX_DOCUMENT)
        format, hashes = content.pop("format"), content.pop("sha256")
    except (DataFormatError, KeyError, AttributeError, TypeError):
        return None
    known = isinstance(hashes, dict) and all(isinstance(value, str) for value in hashes.values())
    inside = known and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in hashes)
    return Manifest(format, content, hashes) if inside and isinstance(format, str) else None


def _foreign(folder: Path, manifest: Manifest) -> list[str]:
    """What lies in a folder of results and is not in its manifest: files, links, empty folders."""
    listed = {*manifest.sha256, MANIFEST}
    folders = {parent.as_posix() for name in listed for parent in Path(name).parents}
    foreign = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        expected = name in folders if path.is_dir() and not path.is_symlink() else name in listed
        if not expected or path.is_symlink():
            foreign.append(name)
    return foreign


def _write_manifest(folder: Path, format: str, facts: Mapping[str, Any], sync: bool) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): file_hash(path, sync) for path in files}
    text = json.dumps({"format": format, **facts, "sha256": hashes}, indent=2, ensure_ascii=False) + "\n"
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="\n") as handle:
        handle.write(text)
        if sync:
            handle.flush()
            os.fsync(handle.fileno())


def _move_into_place(fresh: Path, target: Path, earlier: Path) -> None:
    """Put ``fresh`` at ``target``; what was there ends at ``fresh`` or at ``earlier``."""
    if not target.exists() or not any(target.iterdir()):
        fresh.replace(target)  # an empty folder may be in its place
        return
    if _exchange(fresh, target):
        return
    try:
        target.replace(earlier)
        fresh.replace(target)
    except BaseException:
        if earlier.exists() and not target.exists():
            earlier.replace(target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, as Linux can; False where the system or the file system cannot."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0)


def _clear(work: Path, target: Path) -> None:
    """Remove a work folder; an earlier result in it goes back to its name if nothing is there."""
    with suppress(OSError):
        if (work / _EARLIER).exists() and not target.exists():
            (work / _EARLIER).replace(target)
    for folder in (work / _FRESH, work / _EARLIER):
        if folder.exists():
            _discard(folder, target)
    with suppress(OSError):
        work.rmdir()


def _discard(folder: Path, target: Path) -> None:
    """Delete a result; files that its manifest does not list, added while it was being replaced, are kept aside."""
    manifest = _manifest(folder)
    foreign = [] if manifest is None else _foreign(folder, manifest)
    if not foreign:
        shutil.rmtree(folder, ignore_errors=True)
        return
    kept = target.parent / f"{target.name}.earlier-{folder.parent.name[-20:-4]}"
    with suppress(OSError):
        folder.replace(kept)
        logger.warning("%s was kept: it held %s, which its manifest does not list", shown_path(kept), shown(foreign[0]))


def _of_safetensors(error: BaseException) -> OSError | None:
    """The system's error in one of safetensors' writer, which says it in words only."""
    number = (
        re.search(r"serializ.*\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    )
    return None if number is None else OSError(int(number[1]), os.strerror(int(number[1])))


def _is_inside(error: OSError, folder: Path) -> bool:
    """Whether an error of the caller's block is about the folder that it fills."""
    if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return True
    names = (error.filename, error.filename2)
    return any(isinstance(name, str) and name.startswith(str(folder)) for name in names)

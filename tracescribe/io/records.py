"""Small results as JSON files that say their own checksum, and folders that hold one file per step of a long work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import DataFormatError, OutputError
from .atomic import remove_abandoned, write_atomically
from .folders import check_growing_folder
from .json_lines import read_json, to_json
from .places import refusing
from .quoting import shown_path

__all__ = ["check_record_folder", "open_folder", "read_record", "write_record"]


def read_record(path: Path) -> dict[str, Any]:
    """What :func:`write_record` wrote.

    Raises:
        DataFormatError: the file was changed or damaged since, or is no such file.
    """
    content = read_json(path, lone_surrogates=True)
    if not isinstance(content, dict) or content.pop("sha256", None) != _checksum(content):
        raise DataFormatError(f"{path}: was changed or damaged after it was written; delete it, and it is made again")
    return content


def write_record(path: Path, content: dict[str, Any], *, what: str = "the result") -> None:
    """Write what JSON can hold, with a checksum; the same content gives the same bytes.

    what: of the result an error speaks.

    Raises:
        OutputError: nothing can be written at ``path``, or the content is nothing that :func:`read_record` would read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_record(Path(folder, "run.json"), {"scores": (1, 2)})
    ...     read_record(Path(folder, "run.json"))
    {'scores': [1, 2]}
    """
    plain = json.loads(to_json(content, path, what))
    with write_atomically(path) as handle:
        handle.write(json.dumps({**plain, "sha256": _checksum(plain)}, indent=1) + "\n")


def check_record_folder(folder: str | Path, name: str, *, what: str) -> Path:
    """The folder, if a work of this kind can begin or go on in it, and so before the work's inputs are read.

    What killed processes left unfinished in it is removed; nothing else is changed.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    with refusing(folder, "in the folder "):
        here = list(folder.iterdir()) if folder.is_dir() else []
        for part in (folder, *(path for path in here if path.is_dir())):
            remove_abandoned(part)
        if here and not (folder / name).exists() and any(folder.iterdir()):
            raise OutputError(f"{shown_path(folder)} holds other files and no {what}; choose a new folder")
    return check_growing_folder(folder)


def open_folder(
    folder: Path,
    name: str,
    content: dict[str, Any],
    *,
    what: str,
    fixed: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Make a folder for a work that may be stopped, or go on in one; its record ``name`` then holds ``content``.

    fixed: of a record, the settings that files which exist depend on; those that both records have must be equal.

    Raises:
        OutputError: the folder holds something else, or a work of this kind with other fixed settings.
    """
    check_record_folder(folder, name, what=what)
    path = folder / name
    if path.exists():
        mine, theirs = fixed(json.loads(json.dumps(content))), fixed(read_record(path))
        different = [name for name in mine if name in theirs and mine[name] != theirs[name]]
        if different:
            raise OutputError(
                f"the {what} in {folder} has other settings ({', '.join(different)}): go on with these, or choose "
                "another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_record(path, content)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

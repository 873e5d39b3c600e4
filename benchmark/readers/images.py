"""Finds the images of a file under one folder, by the end of the path that a record gives."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...errors import DataFormatError
from ...io.quoting import shown_path
from ...io.reading import is_folder

__all__ = ["ImageFolder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")


class ImageFolder:
    """Finds images under ``root``; records keep the path, or None where no file is there.

    A published path often starts at a folder of its author's machine: the longest end of it that exists under ``root``
    is taken. Nothing outside ``root`` is ever found.

    missing: paths that records gave and that were not found, in their order.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not is_folder(root):
            raise DataFormatError(f"the image folder {shown_path(root)} does not exist")
        self.missing: dict[str, None] = {}
        self._found: dict[str, str | None] = {}

    def find(self, name: str) -> str | None:
        """The file that a record means by ``name``; None, and noted as missing, where there is none."""
        if name not in self._found:
            self._found[name] = self._search(name)
            if self._found[name] is None:
                self.missing[name] = None
        return self._found[name]

    def _search(self, name: str) -> str | None:
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
        for start in range(len(parts)):
            path = self.root.joinpath(*parts[start:])
            with suppress(OSError, ValueError):  # a name that no file can have: too long, a NUL, a lone surrogate
                if path.is_file() and path.resolve().is_relative_to(self._resolved):
                    return str(path)
        return None

    @cached_property
    def _resolved(self) -> Path:
        return self.root.resolve()

    def find_study(self, subject: str, study: str) -> str | None:
        """The first image of a study in the layout of MIMIC-CXR-JPG: ``[files/]p10/p10000032/s50414267/*.jpg``."""
        name = f"p{subject[:2]}/p{subject}/s{study}"
        if name not in self._found:
            self._found[name] = None
            with suppress(OSError, ValueError):
                self._found[name] = next(
                    (
                        str(path)
                        for top in (self.root / "files", self.root)
                        for path in sorted((top / name).glob("*"))
                        if path.suffix.lower() in SUFFIXES
                    ),
                    None,
                )
            if self._found[name] is None:
                self.missing[name] = None
        return self._found[name]

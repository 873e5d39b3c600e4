"""Finds the images of a file under one folder, by the end of the path that a record gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...errors import DataFormatError
from ...io.quoting import shown_path
from ...io.reading import is_folder

__all__ = ["ImageFolder", "study_folder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
FRAMES = 4  # of a video, as NegBench samples


class ImageFolder:
    """Finds images under ``root``; records keep the path, or None where no file is there.

    A published path often starts at a folder of its author's machine: the longest end of it that exists under ``root``
    is taken; an image that is there in another format than the path says is taken too. Nothing outside ``root`` is ever
    found.

    missing: paths that records gave and that were not found, in their order.
    keep_missing: give also the path of an image that is not there, where it would be; for sets that are built on one
        machine and used on another. Nothing is remembered then: labels name each image once, and millions of them.
    """

    def __init__(self, root: str | os.PathLike[str], *, keep_missing: bool = False) -> None:
        self.root, self._keep = Path(root), keep_missing
        if not is_folder(root):
            raise DataFormatError(f"the image folder {shown_path(root)} does not exist")
        self.missing: dict[str, None] = {}
        self._found: dict[str, str | tuple[str, ...] | None] = {}
        self._studies: dict[str, str | None] = {}

    def find(self, name: str) -> str | tuple[str, ...] | None:
        """The file that a record means by ``name``; None, and noted as missing, where there is none.

        A video is a folder of its frames, named like the video without its ending: `FRAMES` of them, evenly spaced.
        """
        if name in self._found:
            return self._found[name]
        video = PurePosixPath(name).suffix.lower() in VIDEOS
        found = self._frames(name) if video else self._search(name)
        if self._keep:
            return found or self._would_be(*_parts(name))
        if found is None:
            self.missing[name] = None
        self._found[name] = found
        return found

    def _would_be(self, *parts: str) -> str | None:
        return str(self.root.joinpath(*parts)) if parts else None

    def _search(self, name: str) -> str | None:
        """The file of that name, or else the same image with another ending, in the folder of the longest end."""
        *folders, file = _parts(name) or [""]
        for start in range(len(folders) + 1):
            folder = self.root.joinpath(*folders[start:])
            with suppress(OSError, ValueError):  # a name that no file can have: too long, a NUL, a lone surrogate
                for path in map(folder.joinpath, _endings(file)) if folder.is_dir() else ():
                    if path.is_file() and self._is_inside(path):
                        return str(path)
        return None

    def _frames(self, name: str) -> tuple[str, ...] | None:
        for path in self._ends(str(PurePosixPath(name).with_suffix(""))):
            found = [str(frame) for frame in sorted(path.glob("*")) if frame.suffix.lower() in SUFFIXES]
            if found:
                count = min(FRAMES, len(found))
                return tuple(found[i * (len(found) - 1) // max(1, count - 1)] for i in range(count))
        return None

    def _ends(self, name: str) -> Iterator[Path]:
        """What ends of the path mean inside the folder, the longest first."""
        parts = _parts(name)
        for start in range(len(parts)):
            path = self.root.joinpath(*parts[start:])
            with suppress(OSError, ValueError):  # a name that no file can have: too long, a NUL, a lone surrogate
                if path.exists() and self._is_inside(path):
                    yield path

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._resolved)

    @cached_property
    def _resolved(self) -> Path:
        return self.root.resolve()

    def find_study(self, subject: str, study: str, image: str | None = None) -> str | None:
        """An image of a study in the layout of MIMIC-CXR-JPG: ``[files/]p10/p10000032/s50414267/*.jpg``.

        image: its name without ending; by default the first in alphabetical order.
        """
        name, key = study_folder(subject, study), f"{study}/{image}"
        if key in self._studies:
            return self._studies[key]
        found = self._search_study(name, image)
        if self._keep:
            return found or (None if image is None else self._would_be("files", *name.split("/"), f"{image}.jpg"))
        if found is None:
            self.missing[name] = None
        self._studies[key] = found
        return found

    def _search_study(self, name: str, image: str | None) -> str | None:
        with suppress(OSError, ValueError):
            for top in (self.root / "files", self.root):
                for path in sorted((top / name).glob("*")):
                    if path.suffix.lower() in SUFFIXES and image in (None, path.stem):
                        return str(path)
        return None


def study_folder(subject: str, study: str) -> str:
    """Where MIMIC-CXR keeps a study's images."""
    return f"p{subject[:2]}/p{subject}/s{study}"


def _parts(name: str) -> list[str]:
    """The parts of a path of any system, without its beginning."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return [part for part in parts if part not in ("/", "..", ".") and not part.endswith(":")]


def _endings(file: str) -> Iterator[str]:
    """A file's name, then the names it would have in other formats: CheXpert Plus lists ``.jpg`` and ships ``.png``."""
    yield file
    path = PurePosixPath(file)
    if path.suffix.lower() in SUFFIXES:
        yield from (path.stem + ending for ending in SUFFIXES if ending != path.suffix)

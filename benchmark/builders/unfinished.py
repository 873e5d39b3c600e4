"""A build that may be stopped: its files so far, and from where the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import DataFormatError, OutputError, RewriterError, TracescribeError
from ...io.atomic import write_atomically
from ...io.json_lines import read_json
from ...io.places import refusing, remove_abandoned
from ...io.quoting import shown_path

__all__ = ["EVERY", "Unfinished"]

EVERY = 20_000  # records of the source between two savings
STATE, FAMILY, FORMAT = "state.json", "tracescribe.unfinished/", "tracescribe.unfinished/2"


class Unfinished:
    """The folder ``TARGET.part`` of a build.

    Entering it goes on from what an earlier build of the same arguments and the same bytes of labels saved; anything
    else that a build left there is removed. Leaving it removes the folder, except where the build was stopped after
    something was saved: by a signal, a full disk, an endpoint that is down. Input that is refused leaves nothing.

    made_from: what the result follows from; another one starts afresh.
    files: by what is written, what was saved: bytes written of each file, position in the source, and what the builder
        knew.
    """

    def __init__(self, target: str | os.PathLike[str], made_from: Mapping[str, Any]) -> None:
        self.folder = Path(f"{os.fspath(target)}.part")
        self._made_from = json.loads(json.dumps(made_from))
        self.files: dict[str, dict[str, Any]] = {}
        self._parents: list[Path] = []

    def __enter__(self) -> Unfinished:
        if self.folder.exists():
            state = self._state()
            if state["made_from"] == self._made_from and self._holds(state["files"]):
                self.files = state["files"]
                return self
            self._remove()
        try:
            self._parents = [parent for parent in self.folder.parents if not parent.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write the folder {shown_path(self.folder)}: {error.strerror}") from error
        self._save()
        return self

    def _state(self) -> dict[str, Any]:
        """What an earlier build saved; a folder of somebody else is refused."""
        with suppress(OSError):
            remove_abandoned(self.folder)
            if not any(self.folder.iterdir()):  # the build was killed before it had saved anything
                return {"made_from": None, "files": {}}
        with suppress(DataFormatError):
            state = read_json(self.folder / STATE)
            if isinstance(state, dict) and str(state.get("format")).startswith(FAMILY):
                made_from = state.get("made_from") if state["format"] == FORMAT else None
                return {"made_from": made_from, "files": dict(state.get("files") or {})}
        raise OutputError(
            f"{shown_path(self.folder)} is where an unfinished build is kept, and holds something else: move it away"
        )

    def _holds(self, files: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether all bytes that were saved are there."""
        sizes = [(name, size) for known in files.values() for name, size in known["bytes"].items()]
        with suppress(OSError):
            return all((self.folder / name).stat().st_size >= size for name, size in sizes)
        return False

    def keep(self, what: str, sizes: Mapping[str, int], **known: Any) -> None:
        """Save how far the files are whose ``sizes`` are given; so many bytes of them must be on the disk."""
        self.files[what] = {"bytes": dict(sizes), **known}
        self._save()

    def _save(self) -> None:
        with write_atomically(self.folder / STATE) as out:
            json.dump({"format": FORMAT, "made_from": self._made_from, "files": self.files}, out)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        refused = isinstance(error, TracescribeError) and not isinstance(error, OutputError | RewriterError)
        if kind is not None and self.files and not refused:
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"stopped; the same build goes on from {shown_path(self.folder)}") from None
            return
        self._remove()
        for parent in self._parents if kind is not None else ():
            with suppress(OSError):
                parent.rmdir()

    def _remove(self) -> None:
        """Remove the folder, the state last: what a killed removal leaves is still known to be a build's."""
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != STATE:
                    path.unlink(missing_ok=True)
            (self.folder / STATE).unlink(missing_ok=True)
            self.folder.rmdir()

    @contextmanager
    def open(self, file: str, size: int) -> Iterator[BinaryIO]:
        """A file to append to, cut to the ``size`` that was saved; a copy where a finished result shares its bytes."""
        path = self.folder / file
        if path.exists() and path.stat().st_nlink > 1:
            with write_atomically(path, binary=True) as copy, path.open("rb") as shared:
                shutil.copyfileobj(shared, copy)
        with refusing(self.folder, "the folder "), path.open("ab") as out:
            out.truncate(size)
            out.seek(0, os.SEEK_END)
            yield out

    def hand_over(self, file: str, work: Path) -> None:
        """A finished file under the folder of the result: the same bytes on the disk where links are possible.

        A folder is moved: a build that is killed after it makes it again.
        """
        if (self.folder / file).is_dir():
            shutil.move(self.folder / file, work / file)
            return
        try:
            os.link(self.folder / file, work / file)
        except OSError:
            shutil.copyfile(self.folder / file, work / file)

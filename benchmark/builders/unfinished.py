"""A build that may be stopped: its files so far, and from where the same command goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import DataFormatError, OutputError, RewriterError, TracescribeError
from ...io.atomic import write_atomically
from ...io.json_lines import read_json
from ...io.quoting import shown_path

__all__ = ["EVERY", "Unfinished"]

EVERY = 20_000  # records of the source between two savings
STATE, FORMAT = "state.json", "tracescribe.unfinished/1"


class Unfinished:
    """The folder ``TARGET.part`` of a build.

    Entering it goes on from what an earlier build of the same arguments and the same bytes of labels saved; anything
    else that a build left there is removed. Leaving it removes the folder, except where the build was stopped after
    something was saved: by a signal, a full disk, an endpoint that is down. Input that is refused leaves nothing.

    made_from: what the result follows from; another one starts afresh.
    files: by file, what was saved: position in the source, bytes written, and what the builder knew.
    """

    def __init__(self, target: str | os.PathLike[str], made_from: Mapping[str, Any]) -> None:
        self.folder = Path(f"{os.fspath(target)}.part")
        self._made_from = json.loads(json.dumps(made_from))
        self.files: dict[str, dict[str, Any]] = {}
        self._parents: list[Path] = []

    def __enter__(self) -> Unfinished:
        if self.folder.exists():
            state = self._state()
            if state["made_from"] == self._made_from:
                self.files = state["files"]
                return self
            shutil.rmtree(self.folder)
        try:
            self._parents = [parent for parent in self.folder.parents if not parent.exists()]
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"cannot write the folder {shown_path(self.folder)}: {error.strerror}") from error
        self._save()
        return self

    def _state(self) -> dict[str, Any]:
        """What an earlier build saved; a folder of somebody else is refused."""
        with suppress(DataFormatError):
            state = read_json(self.folder / STATE)
            if isinstance(state, dict) and state.get("format") == FORMAT:
                return {"made_from": state.get("made_from"), "files": dict(state.get("files") or {})}
        raise OutputError(
            f"{shown_path(self.folder)} is where an unfinished build is kept, and holds something else: move it away"
        )

    def keep(self, file: str, **known: Any) -> None:
        """Save how far a file is; its bytes must be on the disk."""
        self.files[file] = known
        self._save()

    def _save(self) -> None:
        with write_atomically(self.folder / STATE) as out:
            json.dump({"format": FORMAT, "made_from": self._made_from, "files": self.files}, out)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        refused = isinstance(error, TracescribeError) and not isinstance(error, OutputError | RewriterError)
        if kind is not None and self.files and not refused:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in self._parents if kind is not None else ():
            with suppress(OSError):
                parent.rmdir()

    def hand_over(self, file: str, work: Path) -> None:
        """A finished file under the folder of the result; the same bytes on the disk where links are possible."""
        try:
            os.link(self.folder / file, work / file)
        except OSError:
            shutil.copyfile(self.folder / file, work / file)

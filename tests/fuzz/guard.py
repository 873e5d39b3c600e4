"""What is asked of a call with odd input: one of our errors, short, soon, and nothing done outside its folder."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracescribe.errors import TracescribeError

LONGEST = 5.0  # seconds of wall clock
LONGEST_MESSAGE = 1000  # characters

_WRITES = {"os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr"}
_MOVES = {"os.rename", "os.link", "os.symlink"}
HARMLESS = {"fc-list", "uname"}  # by which matplotlib finds fonts, and Python's platform module names the processor
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"}
_CONNECTIONS = {"socket.connect", "socket.getaddrinfo", "socket.sendto"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TooLongError(BaseException):
    """No Exception, so that nothing between the call and its guard takes it for its own."""


@dataclass
class Watch:
    """Listens to Python's audit events: what is written, deleted, started or connected to, wherever that is."""

    allowed: str = ""
    found: list[str] = field(default_factory=list)
    listening: bool = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listening:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & _WRITING
            paths = [path] if writes else []
        elif event == "os.mkdir" and isinstance(arguments[0], str) and os.path.isdir(arguments[0]):  # noqa: PTH112
            return  # a folder that is there is not made
        elif event in _WRITES:
            paths = [arguments[0]]
        elif event in _MOVES:
            paths = list(arguments[:2]) if event == "os.rename" else [arguments[1]]
        elif event == "subprocess.Popen" and arguments[0] in HARMLESS:
            return
        elif event in _PROGRAMS or event in _CONNECTIONS:
            self.found.append(f"{event} {arguments[:2]!r}"[:300])
            return
        else:
            return
        for path in paths:
            if not isinstance(path, int) and not self._may_be_written(os.fsdecode(path)):
                self.found.append(f"{event} {path!r}"[:300])

    def _may_be_written(self, path: str) -> bool:
        place = os.path.abspath(path)  # noqa: PTH100
        return place.startswith(self.allowed) or place == os.devnull or "__pycache__" in place


WATCH = Watch()
_heard = False


def _listen() -> None:
    global _heard
    if not _heard:  # an audit hook stays for good
        sys.addaudithook(WATCH.hear)
        _heard = True


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file, folder and link under a folder, with its kind, size and time of change."""
    found = {}
    level = [str(folder)]
    while level:
        for entry in os.scandir(level.pop()):
            state = entry.stat(follow_symlinks=False)
            is_folder = entry.is_dir(follow_symlinks=False)
            # a folder's times change when a trial to write comes and goes in it
            changing = (0, 0) if is_folder else (state.st_size, state.st_mtime_ns)
            found[entry.path] = (state.st_mode, *changing)
            if is_folder:
                level.append(entry.path)
    return found


@contextmanager
def limited(seconds: float = LONGEST) -> Iterator[None]:
    """Stop the block by an exception when it takes longer, also when it sleeps.

    Time in which it could run, and the machine ran something else, does not count.
    """

    def taken() -> float:
        return time.monotonic() - started - (_starved() - starved)

    def stop(*_: object) -> None:
        left = seconds - taken()
        if left <= 0:
            raise TooLongError(f"not over after {seconds:g} s")
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))

    before = signal.signal(signal.SIGALRM, stop)
    started, starved = time.monotonic(), _starved()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if taken() > seconds:  # a library swallowed the exception, or it came during a step that cannot be interrupted
        raise TooLongError(f"took {taken():.1f} s")


def _starved() -> float:
    """Seconds for which this thread has waited for a processor; 0 on systems that do not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


class Case:
    """A folder in which calls are tried, files beside it that are nobody's business, and a folder for temporary files.

    inside: the case's folder, which is the current one. beside: what no call may touch.
    """

    def __init__(self, root: Path, monkeypatch: Any) -> None:
        from huggingface_hub import constants

        self.root, self.inside, self.beside, self.temporary = (root, root / "case", root / "beside", root / "temporary")
        for folder in (self.inside, self.beside, self.temporary, self.beside / "data"):
            folder.mkdir()
        for name in ("notes.txt", "data/manifest.json", "case", "weights.pt"):
            (self.beside / name).write_text('{"format": "tracescribe.run/1", "sha256": {}}')
        (self.root / "trace.safetensors").write_text("of somebody else")
        monkeypatch.chdir(self.inside)
        monkeypatch.setenv("TMPDIR", str(self.temporary))
        monkeypatch.setattr(tempfile, "tempdir", str(self.temporary))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        _listen()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """The block does nothing outside the case's folder, is over in time, and leaves no temporary files."""
        before = {path: state for path, state in snapshot(self.root).items() if not path.startswith(f"{self.inside}/")}
        WATCH.allowed, WATCH.found, WATCH.listening = f"{self.root}/", [], True
        try:
            with limited():
                yield
        finally:
            WATCH.listening = False
        after = snapshot(self.root)
        outside = {path: state for path, state in after.items() if not path.startswith(f"{self.inside}/")}
        touched = sorted(set(outside.items()) ^ set(before.items()))
        assert not touched, f"touched outside the case's folder: {touched}"
        assert not WATCH.found, WATCH.found
        left = [path for path in after if "/.tracescribe-" in path]
        assert not left, f"left behind: {left}"

    def attempt(self, call: Callable[[], Any], *, reads_only: bool = True) -> BaseException | None:
        """Run a call: it succeeds, or raises one of our errors in few words. Files change only if it may write."""
        before = snapshot(self.inside)
        error: TracescribeError | None = None
        with self.guarded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call()
            except TracescribeError as problem:
                error = problem
        if error is not None:
            check_message(str(error))
        if reads_only or error is not None:
            assert snapshot(self.inside) == before, "a failing or a reading call changed files"
        return error


def check_message(said: str) -> None:
    """A message that a person reads: neither empty nor endless, and no traceback."""
    assert said.strip()
    assert len(said) <= LONGEST_MESSAGE, f"{len(said)} characters: {said[:400]} ... {said[-200:]}"
    assert "Traceback (most recent call last)" not in said

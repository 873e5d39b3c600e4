"""Places that cannot be written to are found by writing; what killed processes left is removed, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from pathlib import Path

import pytest

from tracescribe.errors import OptionError, OutputError
from tracescribe.io import places, provenance
from tracescribe.io.atomic import check_output, ensure_writable, write_atomically

fork = multiprocessing.get_context("fork")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_impossible_names_of_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    cases = {
        tmp_path / ("x" * 300): "File name too long",
        tmp_path / "a\0b": "NUL",
        tmp_path / "dangling": "it is a link to 'nowhere'",
        tmp_path / "loop": "it is a link to 'loop'",
        tmp_path / "half \ud800": "lone surrogate",
        "/proc/new": "No such file|Permission|not permitted",
        "/dev/full": "not a regular file",
    }
    for path, reason in cases.items():
        with pytest.raises(OutputError, match=reason) as caught:
            ensure_writable(path)
        assert len(str(caught.value)) < 600
        with pytest.raises(OutputError, match=reason), write_atomically(path) as handle:
            handle.write("x")
    assert names(tmp_path) == before


def test_a_mounted_file_is_refused() -> None:
    """As containers mount them: it can be written into, but not replaced."""
    mounted = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    file = next((path for path in mounted if re.fullmatch(r"/etc/\w+(\.\w+)?", path) and Path(path).is_file()), None)
    if file is None:
        pytest.skip("no file is mounted here")
    with pytest.raises(OutputError, match="something is mounted there"):
        ensure_writable(file)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("deep/real.txt")
    with write_atomically(check_output(tmp_path / "link.txt", (".txt",))) as handle:
        handle.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "deep" / "real.txt").read_text() == "new"


def write_and_wait(path: Path, ready: object) -> None:
    with write_atomically(path) as handle:
        handle.write("half")
        ready.set()
        time.sleep(60)


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "out"
    ready = fork.Event()
    process = fork.Process(target=write_and_wait, args=(path, ready))
    process.start()
    ready.wait(30)
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))  # a clock that is wrong by decades
    ensure_writable(path)
    assert names(tmp_path) == [left.name]
    process.kill()
    process.join()
    (tmp_path / ".tracescribe-mine.tmp").write_text("of the user")
    ensure_writable(path)
    assert names(tmp_path) == [".tracescribe-mine.tmp"]


def test_without_locks_only_what_is_a_week_old_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_lock", lambda descriptor: None)
    old, new = (tmp_path / f".tracescribe-{digit * 16}.tmp" for digit in "01")
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
    places.remove_abandoned(tmp_path)
    assert names(tmp_path) == [new.name]


def test_the_creation_time_can_be_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert provenance.creation_time() == "1970-01-01T00:00:00+00:00"
    for bad in ("", "yesterday", "1.5", "9" * 30, "nan"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", bad)
        with pytest.raises(OptionError, match="SOURCE_DATE_EPOCH"):
            provenance.creation_time()

"""Folders of results: whole or not at all, nobody's files are deleted, and a failure at any step loses nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tracescribe.errors import DataFormatError, OutputError
from tracescribe.io import folders
from tracescribe.io.folders import check_folder, read_folder, write_folder

FORMAT = "example.result/1"
fork = multiprocessing.get_context("fork")


def write(path: Path, content: str, **options: object) -> None:
    with write_folder(path, FORMAT, facts={"content": content}, **options) as folder:
        (folder / "deep").mkdir()
        for number in range(3):
            (folder / "deep" / f"{number}.txt").write_text(content)
        (folder / "note.txt").write_text(content)


def content(path: Path) -> str:
    """The one content of a folder, after all of it was checked."""
    manifest = read_folder(path, FORMAT)
    found = {manifest.facts["content"], *(file.read_text() for file in path.rglob("*.txt"))}
    assert len(found) == 1
    assert len(manifest.sha256) == 4
    return found.pop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(params=["exchange", "two renames"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Linux, and a system that cannot exchange two folders in one step."""
    if request.param == "two renames":
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    return request.param


def test_a_folder_appears_with_everything_in_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "result"
    with write_folder(target, FORMAT) as folder:
        (folder / "a.txt").write_text("a")
        assert not target.exists()
    assert names(target) == ["a.txt", "manifest.json"]
    assert json.loads((target / "manifest.json").read_text())["format"] == FORMAT
    assert names(tmp_path / "new") == ["result"]


def test_a_failing_block_leaves_nothing_not_even_the_folders_above(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write_folder(tmp_path / "new" / "result", FORMAT):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_an_earlier_result_is_replaced_only_when_asked(tmp_path: Path, system: str) -> None:
    write(tmp_path / "result", "old")
    with pytest.raises(OutputError, match="holds an earlier result; give another name, or --overwrite"):
        write(tmp_path / "result", "new")
    assert content(tmp_path / "result") == "old"
    write(tmp_path / "result", "new", overwrite=True)
    assert content(tmp_path / "result") == "new"
    assert names(tmp_path) == ["result"]


def foreign_folders(folder: Path) -> None:
    """What people have: data with notes, a manifest of something else, results with additions."""
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("mine")
    (folder / "other").mkdir()
    (folder / "other" / "manifest.json").write_text('{"format": "tracescribe.phantom/1", "sha256": {}}')
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{")
    (folder / "deep").mkdir()
    (folder / "deep" / "manifest.json").write_text("[" * 100_000)
    (folder / "climbing").mkdir()
    (folder / "climbing" / "thesis.txt").write_text("mine")
    (folder / "climbing" / "manifest.json").write_text(
        json.dumps({"format": FORMAT, "sha256": {"../notes/thesis.txt": "0", "thesis.txt": 1}})
    )
    write(folder / "added", "old")
    (folder / "added" / "deep" / "thesis.txt").write_text("mine")
    write(folder / "added folder", "old")
    (folder / "added folder" / "mine").mkdir()
    write(folder / "linked", "old")
    (folder / "linked" / "note.txt").unlink()
    (folder / "linked" / "note.txt").symlink_to(folder / "notes" / "thesis.txt")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_an_earlier_result_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    foreign_folders(tmp_path)
    (tmp_path / "file").write_text("mine")
    before = everything(tmp_path)
    for name in names(tmp_path):
        with pytest.raises(OutputError, match=r"touched|move it away|a file"):
            check_folder(tmp_path / name, FORMAT, overwrite=overwrite)
        with pytest.raises(OutputError), write_folder(tmp_path / name, FORMAT, overwrite=overwrite):
            pytest.fail("refused before any work")
    assert everything(tmp_path) == before


def test_files_that_are_added_while_the_new_result_is_made_are_not_deleted(tmp_path: Path, system: str) -> None:
    write(tmp_path / "result", "old")
    replacing = write_folder(tmp_path / "result", FORMAT, overwrite=True)
    with pytest.raises(OutputError, match=r"thesis\.txt"), replacing as folder:
        (folder / "note.txt").write_text("new")
        (tmp_path / "result" / "thesis.txt").write_text("mine")
    assert (tmp_path / "result" / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "result" / "note.txt").read_text() == "old"


def test_files_that_are_added_at_the_last_moment_are_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    write(tmp_path / "result", "old")
    move = folders._move_into_place

    def late(fresh: Path, target: Path, earlier: Path) -> None:
        (target / "thesis.txt").write_text("mine")
        move(fresh, target, earlier)

    monkeypatch.setattr(folders, "_move_into_place", late)
    write(tmp_path / "result", "new", overwrite=True)
    assert content(tmp_path / "result") == "new"
    (kept,) = (path for path in tmp_path.iterdir() if path.name != "result")
    assert kept.name.startswith("result.earlier-")
    assert (kept / "thesis.txt").read_text() == "mine"


def test_links_are_followed_and_dangling_ones_are_refused(tmp_path: Path, system: str) -> None:
    write(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == "new"
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("dangling", "loop"):
        with pytest.raises(OutputError, match=f"{name}.*it is a link to"):
            check_folder(tmp_path / name, FORMAT, overwrite=True)
        assert (tmp_path / name).is_symlink()


def test_impossible_places_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    (tmp_path / "file").write_text("mine")
    cases = {
        ".": "the folder you are in",
        "..": "the folder you are in, or holds it",
        str(tmp_path): "or holds it",
        "/dev/shm": "mounted",
        "/proc/new": "No such file|Permission|not permitted",
        "": "empty",
        "a\0b": "NUL",
        "x" * 300: "File name too long",
        str(tmp_path / "new" / ("x" * 300) / "result"): "File name too long",
        str(tmp_path / "file" / "result"): "Not a directory",
        "half \ud800": "lone surrogate",
    }
    for path, reason in cases.items():
        if path == "/dev/shm" and not os.path.ismount(path):
            continue
        with pytest.raises(OutputError, match=reason) as caught:
            check_folder(path, FORMAT)
        assert len(str(caught.value)) < 600
    assert everything(tmp_path) == {str(tmp_path / "file"): b"mine"}
    assert names(tmp_path / "here" / "below") == []


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_result(tmp_path: Path) -> None:
    write(tmp_path / "result", "old")
    with pytest.raises(OutputError, match="No space left"), write_folder(tmp_path / "result", FORMAT, overwrite=True):
        raise OSError(28, "No space left on device")
    assert content(tmp_path / "result") == "old"
    with pytest.raises(FileNotFoundError), write_folder(tmp_path / "result", FORMAT, overwrite=True):
        (tmp_path / "an input").read_text()  # the caller's own failure is not disguised
    assert names(tmp_path) == ["result"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_disk_that_safetensors_finds_full_is_one_sentence(tmp_path: Path) -> None:
    """Its writer says the system's error in words only; a limit of the size of files stands for the disk."""
    import resource

    from safetensors.numpy import save_file

    write(tmp_path / "result", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(OutputError, match=r"cannot write the folder .*result': File too large$"),
        write_folder(tmp_path / "result", FORMAT, overwrite=True) as folder,
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        try:
            save_file({"large": np.zeros(1 << 18)}, folder / "large.safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content(tmp_path / "result") == "old"
    assert names(tmp_path) == ["result"]


def test_every_changed_bit_and_every_missing_file_is_found(tmp_path: Path) -> None:
    target = tmp_path / "result"
    write(target, "old")
    (target / "added.txt").write_text("somebody may add files to read")
    read_folder(target, FORMAT)
    for file in ("note.txt", "deep/1.txt"):
        good = (target / file).read_bytes()
        for bit in range(8 * len(good)):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            (target / file).write_bytes(bad)
            with pytest.raises(DataFormatError, match=f"damaged: '{file}'"):
                read_folder(target, FORMAT)
        (target / file).unlink()
        with pytest.raises(DataFormatError, match=f"'{file}', which its manifest.json lists, is missing"):
            read_folder(target, FORMAT)
        (target / file).write_bytes(good)
    with pytest.raises(DataFormatError, match=r"has format 'example\.result/1', expected 'other/1'"):
        read_folder(target, "other/1")
    with pytest.raises(DataFormatError, match=r"has no manifest\.json"):
        read_folder(tmp_path, FORMAT)


SYSTEM_CALLS = ("replace", "mkdir", "unlink", "rmdir", "fsync", "listdir", "open")


@pytest.mark.parametrize(
    ("when", "error"), [("before", OSError(5, "Input/output error")), ("after", KeyboardInterrupt())]
)
def test_a_failure_at_any_step_leaves_the_earlier_or_the_new_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, when: str, error: BaseException
) -> None:
    """Every system call fails once: before it did anything, or after (as when Ctrl-C comes just then)."""
    seen = []
    real = {name: getattr(os, name) for name in SYSTEM_CALLS}
    real["exchange"] = folders._exchange
    steps = 1

    def failing(name: str):
        def call(*arguments, **options):
            seen.append(name)
            if len(seen) == steps and when == "before":
                raise error
            result = real[name](*arguments, **options)
            if len(seen) == steps:
                if name == "open":
                    os.close(result)
                raise error
            return result

        return call

    outcomes = set()
    write(tmp_path / "old" / "result", "old")
    while True:
        shutil.rmtree(tmp_path / "place", ignore_errors=True)
        shutil.copytree(tmp_path / "old", tmp_path / "place")
        seen.clear()
        with monkeypatch.context() as patch:
            for name in SYSTEM_CALLS:
                patch.setattr(os, name, failing(name))
            patch.setattr(folders, "_exchange", failing("exchange"))
            try:
                write(tmp_path / "place" / "result", "new", overwrite=True)
            except (OutputError, KeyboardInterrupt, OSError):
                failed = True
            else:
                failed = False
        if len(seen) < steps:
            break
        folders.put_back(tmp_path / "place" / "result")  # as the next start does
        outcome = content(tmp_path / "place" / "result")
        assert outcome == "new" or failed
        outcomes.add(outcome)
        assert names(tmp_path / "place") == ["result"], f"step {steps}, {seen[-1]}"
        steps += 1
    assert steps > 15
    assert outcomes == {"old", "new"}


def replace_for_ever(target: Path) -> None:
    number = 0
    while True:
        number += 1
        write(target, f"content {number}", overwrite=True, sync=False)


def killed(target: Path, kills: int) -> None:
    chance = random.Random(0)
    for _ in range(kills):
        process = fork.Process(target=replace_for_ever, args=(target,))
        process.start()
        time.sleep(chance.uniform(0.005, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert content(target).startswith("content ")  # reading is a start: it puts back what lies aside


def test_a_process_killed_at_any_moment_leaves_a_result(tmp_path: Path, system: str) -> None:
    write(tmp_path / "result", "content 0")
    killed(tmp_path / "result", 25)
    write(tmp_path / "result", "last", overwrite=True)
    assert names(tmp_path) == ["result"]


def write_often(target: Path, name: str, failures: multiprocessing.Queue) -> None:
    for _ in range(40):
        try:
            write(target, name, overwrite=True, sync=False)
        except OutputError:
            pass  # the other one was faster
        except BaseException as error:
            failures.put(repr(error))


def test_writers_of_one_folder_see_no_raw_error_and_leave_one_result(tmp_path: Path, system: str) -> None:
    failures = fork.Queue()
    writers = [fork.Process(target=write_often, args=(tmp_path / "result", f"w{i}", failures)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert failures.empty()
    assert content(tmp_path / "result") in {"w0", "w1", "w2"}
    check_folder(tmp_path / "result", FORMAT, overwrite=True)
    assert names(tmp_path) == ["result"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with write_folder(tmp_path / "result", FORMAT) as folder:
        (folder / "a.txt").write_text("a")
        check_folder(tmp_path / "result", FORMAT)
        assert (folder / "a.txt").read_text() == "a"
    assert names(tmp_path / "result") == ["a.txt", "manifest.json"]


def test_a_file_that_is_read_must_be_listed(tmp_path: Path) -> None:
    """A manifest without the file passes its check, and then nothing would show that the file was changed."""
    write(tmp_path / "result", "a")
    assert read_folder(tmp_path / "result", FORMAT, needs=["note.txt"]).format == FORMAT
    (tmp_path / "result" / "later.txt").write_text("of somebody else")
    with pytest.raises(DataFormatError, match=r"does not list 'later\.txt', which is read"):
        read_folder(tmp_path / "result", FORMAT, needs=["note.txt", "later.txt"])


def test_a_folder_that_holds_an_input_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "result", "a")
    (tmp_path / "link").symlink_to("result")
    for given in ("result", "result/note.txt", "link/note.txt", "link"):
        with pytest.raises(OutputError, match="is read, and would be lost"):
            check_folder(tmp_path / "result", FORMAT, overwrite=True, inputs=[None, tmp_path / given])
    (tmp_path / "beside.txt").write_text("a")
    assert check_folder(tmp_path / "result", FORMAT, overwrite=True, inputs=[tmp_path / "beside.txt"])

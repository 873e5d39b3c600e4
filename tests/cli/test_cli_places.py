"""Impossible outputs of every command are refused before the inputs are looked at, and nothing is touched."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import Run, refused
from fuzz.guard import limited, snapshot

from tracescribe.cli.app import app

MANY = 10**7  # images or steps: a command that began its work would not end in time

OUTPUTS: dict[tuple[str, str], tuple[tuple[object, ...], str]] = {
    ("demo", "out"): (("--out",), ""),
    ("trace", "output"): (("phantom", "junk.jsonl", "-o"), ".safetensors"),
    ("trace", "cache"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--cache"), ""),
    ("faithfulness", "output"): (("phantom", "junk.safetensors", "junk.jsonl", "-o"), ".safetensors"),
    ("faithfulness", "figure"): (
        ("phantom", "junk.safetensors", "junk.jsonl", "-o", "fine.safetensors", "--figure"),
        ".pdf",
    ),
    ("circuit", "output"): (("phantom", "junk.safetensors", "junk.jsonl", "-o"), ".json"),
    ("neurons", "output"): (("phantom", "junk.jsonl", "-o"), ".safetensors"),
    ("neurons", "out"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--out"), ".csv"),
    ("neurons", "figure"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--figure"), ".pdf"),
    ("head-edges", "output"): (("phantom", "junk.jsonl", "-o"), ".safetensors"),
    ("head-edges", "out"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--out"), ".csv"),
    ("head-edges", "figure"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--figure"), ".pdf"),
    ("knock-out", "output"): (("phantom", "junk.jsonl", "-o"), ".safetensors"),
    ("knock-out", "out"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--out"), ".csv"),
    ("knock-out", "figure"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--figure"), ".pdf"),
    ("negator-attention", "output"): (("phantom", "junk.jsonl", "-o"), ".safetensors"),
    ("negator-attention", "out"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--out"), ".csv"),
    ("negator-attention", "figure"): (("phantom", "junk.jsonl", "-o", "fine.safetensors", "--figure"), ".pdf"),
    ("plot", "output"): (("junk.safetensors", "-o"), ".pdf"),
    ("prescribe", "output"): (("junk.safetensors", "-o"), ".json"),
    ("report", "output"): (("junk.safetensors", "-o"), ".html"),
    ("finetune", "output"): (("phantom", "data", "--steps", MANY, "-o"), ""),
    ("study", "output"): (("study.yaml", "-o"), ""),
    ("study", "out"): (("junk.yaml", "-o", "fine", "--out"), ".csv"),
    ("study", "figure"): (("junk.yaml", "-o", "fine", "--figure"), ".pdf"),
    ("atlas", "output"): (("junk.yaml", "junk.jsonl", "-o"), ""),
    ("atlas", "out"): (("junk.yaml", "junk.jsonl", "-o", "fine", "--out"), ".csv"),
    ("evaluate", "items"): (("phantom", "junk.jsonl", "--items"), ".csv"),
    ("compare", "out"): (("junk.csv", "junk.csv", "-o"), ".csv"),
    ("build phantom", "folder"): (("-n", MANY), ""),
    ("build mednega", "out"): (("junk.csv", "-o"), ""),
    ("build mednega", "rewriter_cache"): (
        ("junk.csv", "-o", "fine", "--rewriter", "http://127.0.0.1:9", "--rewriter-model", "m", "--rewriter-cache"),
        ".sqlite",
    ),
    ("build contextual", "out"): (("junk.csv", "-o"), ""),
    ("export", "output"): (("run", "-o"), ""),
    ("build pairs", "out"): (("phantom", "junk.csv", "-o"), ".jsonl"),
}
"""By command and parameter: valid arguments up to the output, whose inputs hold junk, and the ending of its name."""

NOT_WRITTEN = {("report", "control"), ("trace", "pool"), ("trace", "directions")}
FOLDERS = {key for key, (_, suffix) in OUTPUTS.items() if not suffix}


def callbacks() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every registered command's name and function."""

    def walk(application: typer.Typer, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        for command in application.registered_commands:
            assert command.callback is not None
            yield f"{name} {command.name or command.callback.__name__}".strip(), command.callback
        for group in application.registered_groups:
            assert group.typer_instance is not None
            yield from walk(group.typer_instance, f"{name} {group.name}".strip())

    yield from walk(app, "")


def paths(callback: Callable[..., Any]) -> Iterator[str]:
    """The parameters of a command that are paths and need not exist."""
    for name, hint in typing.get_type_hints(callback, include_extras=True).items():
        kind, *about = typing.get_args(hint) or (hint,)
        is_path = kind is Path or Path in typing.get_args(kind)
        if is_path and not any(getattr(each, "exists", False) for each in about):
            yield name


def test_every_output_of_every_command_is_tried() -> None:
    found = {(name, parameter) for name, callback in callbacks() for parameter in paths(callback)}
    written_otherwise = {("trace", "cache")}  # a declared option, which is a text for typer
    assert found - NOT_WRITTEN == set(OUTPUTS) - written_otherwise


def junk(folder: Path) -> None:
    """Inputs that exist and hold nothing that can be read: a command that looks at them first says so."""
    for name in ("junk.jsonl", "junk.safetensors", "junk.csv", "junk.yaml"):
        (folder / name).write_bytes(b"\xff\xfejunk")
    (folder / "study.yaml").write_text("data: data\narms: [uniform]\n")
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_bytes(b"\xff\xfejunk")
    (folder / "data").mkdir()
    for name in ("captions.jsonl", "claims.jsonl"):
        (folder / "data" / name).write_bytes(b"\xff\xfejunk")
    (folder / "file").write_text("mine")


def impossible(folder: Path, suffix: str, *, is_folder: bool, grows: bool) -> Iterator[str]:
    """Places where nothing can be written. grows: files are added to the folder, so that it may exist."""
    (folder / f"dangling{suffix}").symlink_to("nowhere")
    (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
    yield from (f"dangling{suffix}", f"loop{suffix}", "x" * 300 + suffix, f"file/out{suffix}", f"a\0b{suffix}")
    yield f"/proc/out{suffix}"  # a file system in which not even root makes files
    if not is_folder:
        (folder / f"folder{suffix}").mkdir()
        yield from (f"folder{suffix}", f"missing/out{suffix}")
        return
    yield "file"
    if not grows:
        yield from (".", "..", str(folder))
        if os.path.ismount("/dev/shm"):
            yield "/dev/shm"


@pytest.mark.parametrize("key", OUTPUTS, ids=" ".join)
def test_impossible_outputs_are_refused_before_the_inputs_are_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: tuple[str, str]
) -> None:
    (words, suffix), command = OUTPUTS[key], key[0].split()
    monkeypatch.chdir(tmp_path)
    junk(tmp_path)
    grows = key in {("study", "output"), ("atlas", "output"), ("trace", "cache")}
    for name in impossible(tmp_path, suffix, is_folder=key in FOLDERS, grows=grows):
        before = snapshot(tmp_path)
        with limited():
            done = run(*command, *words, name)
        found_by_typer = "\0" in name or (key[1] == "rewriter_cache" and name.startswith("folder"))
        refused(done, *([] if found_by_typer else ["cannot write"]))
        assert "junk" not in done.err and len(done.err) < 1000, done.err
        assert snapshot(tmp_path) == before, name


def test_an_output_inside_a_folder_that_is_itself_replaced(run: Run, tmp_path: Path) -> None:
    """The first build makes the folder; the second would find a file in it that is not its own, or lose the replies."""
    junk(tmp_path)
    words = ("build", "mednega", tmp_path / "junk.csv", "--rewriter", "http://127.0.0.1:9", "--rewriter-model", "m")
    inside = tmp_path / "out" / "replies.sqlite"
    refused(run(*words, "-o", tmp_path / "out", "--rewriter-cache", inside), "lies in", "replies.sqlite")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "a.csv", "b.csv", "-o", "./a.csv"),
        ("evaluate", "phantom", "a.csv", "--items", "a.csv"),
        ("build", "pairs", "phantom", "a.jsonl", "-o", "link.jsonl"),
        ("plot", "a.svg", "-o", "a.svg"),
        ("prescribe", "a.json", "-o", "a.json"),
        ("report", "a.html", "-o", "a.html"),
        ("trace", "phantom", "a.safetensors", "-o", "a.safetensors"),
        ("faithfulness", "phantom", "a.safetensors", "a.jsonl", "-o", "a.safetensors"),
        ("circuit", "phantom", "a.safetensors", "a.json", "-o", "a.json"),
        ("neurons", "phantom", "a.safetensors", "-o", "a.safetensors"),
        ("head-edges", "phantom", "a.csv", "-o", "fine.safetensors", "--out", "a.csv"),
        ("knock-out", "phantom", "a.svg", "-o", "fine.safetensors", "--figure", "a.svg"),
        ("negator-attention", "phantom", "a.csv", "-o", "fine.safetensors", "--out", "a.csv"),
        ("study", "a.csv", "-o", "out", "--out", "a.csv"),
        ("atlas", "b.csv", "a.csv", "-o", "out", "--out", "a.csv"),
    ],
    ids=lambda words: words[0],
)
def test_an_input_is_never_replaced_by_the_output(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "a.jsonl", "a.svg", "a.json", "a.html", "a.safetensors"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    before = snapshot(tmp_path)
    refused(run(*words), "it is read, and would be lost")
    assert snapshot(tmp_path) == before

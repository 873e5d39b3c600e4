"""Odd command lines of every command."""

from __future__ import annotations

import contextlib
import io
import shutil
import warnings
from pathlib import Path

import pytest

from fuzz.commands import LONG, VALID, command_lines, prepare, registered
from fuzz.guard import Case, check_message, snapshot
from fuzz.trying import QUICK, try_many
from tracescribe.cli import main

DIFFERS = {"reproduce": 1}
"""Exit codes beside 0 and 2 that a command documents."""


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_every_command_is_tried() -> None:
    assert set(VALID) == {name for name, _ in registered()}


@pytest.mark.parametrize("name", VALID)
def test_odd_command_lines(case: Case, name: str) -> None:
    try_command(case, name, QUICK)


def try_command(case: Case, name: str, times: float) -> None:
    """A command writes what it is told and ends with 0, or ends with 2 and one message and has written nothing."""
    files = prepare(case.inside)
    kept = set(case.inside.iterdir())
    valid = [*VALID[name], *([LONG[name], "notes"] if name in LONG else [])]
    assert run(name, valid)[0] in (0, 1, 2)  # whatever is lazy is loaded here
    clear(case.inside, kept)
    content = {path: path.read_bytes() for path in kept if path.is_file()}

    def call(line: list[str]) -> None:
        before = snapshot(case.inside)
        with case.guarded():
            code, said = run(name, line)
        if code == 0:
            clear(case.inside, kept)
            after = snapshot(case.inside)
            changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
            told = {str(case.inside / word) for word in line}
            assert changed <= told, f"changed {changed - told}"  # a file may be replaced if it is named as the output
            for path in map(Path, changed):
                path.write_bytes(content[path])
            return
        assert code in (2, DIFFERS.get(name))
        if code == 2:
            check_said(said)
        assert snapshot(case.inside) == before, "a refusal changed files"

    number = 12 if name in ("info", "evaluate", "finetune", "build pairs") else 30
    share = times if times == QUICK else times / 4
    try_many(f"command {name}", command_lines(name, dict(registered())[name], files), call, number, share)


def run(name: str, line: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")  # as in a process of its own: the command shows them
        leaving = stack.enter_context(pytest.raises(SystemExit))
        main([*name.split(), *line])
    return int(leaving.value.code or 0), err.getvalue()


def check_said(said: str) -> None:
    """One message, which begins with the program's name, and perhaps warnings before it."""
    lines = [line for line in said.splitlines() if not line.startswith("tracescribe: warning: ")]
    assert sum(line.startswith("tracescribe: ") for line in lines) == 1, said[:2000]
    assert lines[0].startswith("tracescribe: "), said[:2000]
    check_message("\n".join(lines))


def clear(folder: Path, kept: set[Path]) -> None:
    """Remove what a command wrote."""
    for path in set(folder.iterdir()) - kept:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

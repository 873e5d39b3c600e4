"""What tests of the command line share: running a command, a small data set, and a trace of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Done, Run

from tracescribe.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(int(leaving.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom data set, built by the command."""
    folder = tmp_path_factory.mktemp("cli") / "data"
    with pytest.raises(SystemExit) as leaving:
        main(["build", "phantom", str(folder), "-n", "60", "--seed", "3", "--json"])
    assert leaving.value.code == 0
    return folder


@pytest.fixture(scope="session")
def traced(data: Path) -> Path:
    path = data.parent / "trace.safetensors"
    command = ["trace", "phantom", str(data / "pairs.jsonl"), "--attribute", "existence", "-o", str(path), "--json"]
    with pytest.raises(SystemExit) as leaving:
        main(command)
    assert leaving.value.code == 0
    return path

"""Folders of which one file is damaged."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from fuzz.folders import KINDS, Kind
from fuzz.guard import Case
from fuzz.trying import QUICK, try_many


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", KINDS)
def test_folders_with_one_damaged_file(case: Case, name: str) -> None:
    try_folder(case, name, KINDS[name], QUICK)


def try_folder(case: Case, name: str, kind: Kind, times: float) -> None:
    """The folder is read or refused; reading changes no file of it, except that a cache mends itself."""
    folder, whole = case.inside / "folder", case.beside / "whole"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind.make(whole)
        shutil.copytree(whole, folder)
        kind.read(folder)

    def damage(drawn: tuple[str, bytes]) -> None:
        file, content = drawn
        (folder / file).write_bytes(content)
        if kind.seal is not None and file != "manifest.json":
            kind.seal(folder)
        case.attempt(lambda: kind.read(folder), reads_only="cache" not in name)
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)

    try_many(name, kind.inputs(whole), damage, kind.quick, times if times == QUICK else times / kind.slowdown)

"""Damaged files of every kind that is read."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from published import PUBLISHED

import tracescribe as ts
from fuzz.files import Kind, kinds, picture
from fuzz.guard import Case
from fuzz.trying import QUICK, try_many


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_every_published_format_is_tried() -> None:
    assert set(PUBLISHED) == set(ts.benchmark.formats())


@pytest.mark.parametrize("name", kinds())
def test_damaged_files(case: Case, name: str) -> None:
    try_file(case, name, kinds()[name], QUICK)


def make_special(kind: str, path: Path) -> None:
    """Put something at a path that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):  # a long path is none for sockets
            server.bind(path.name)
    else:
        path.symlink_to(
            {"endless device": "/dev/zero", "link to itself": path.name, "link to nowhere": "nowhere"}[kind]
        )


SPECIAL = ("pipe", "folder", "socket", "endless device", "link to itself", "link to nowhere")


@pytest.mark.parametrize("special", SPECIAL)
def test_pipes_devices_and_links_in_place_of_every_kind_of_file(case: Case, special: str) -> None:
    for kind in kinds().values():
        path = case.inside / kind.name
        make_special(special, path)
        assert case.attempt(lambda kind=kind, path=path: kind.read(path)) is not None, kind.name
        path.rmdir() if special == "folder" else path.unlink()


def test_names_that_no_file_has(case: Case) -> None:
    for kind in kinds().values():
        for name in ("x" * 300, "a\0b", "\ud800", "x/" * 3000 + "y"):
            path = Path(f"{name}{kind.name}")
            assert case.attempt(lambda kind=kind, path=path: kind.read(path)) is not None, (kind.name, name[:9])


def try_file(case: Case, name: str, kind: Kind, times: float) -> None:
    """A valid file is read, and a damaged one is read or refused; nothing is changed by either."""
    (case.inside / "film.png").write_bytes(picture("PNG"))
    path = case.inside / kind.name
    path.write_bytes(kind.content)
    kind.read(path)  # whatever is lazy is loaded here

    def damage(raw: bytes) -> None:
        path.write_bytes(raw)
        case.attempt(lambda: kind.read(path))

    try_many(name, kind.inputs, damage, kind.quick, times if times == QUICK else times / kind.slowdown)

"""A file appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracescribe.errors import OutputError
from tracescribe.io.atomic import ensure_writable, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["severe → no\n", "a\r\nb", b"\x00\r\n\xff"])
def test_content_arrives_unchanged(tmp_path, content):
    path = tmp_path / "out"
    with write_atomically(path, binary=isinstance(content, bytes)) as handle:
        handle.write(content)
        assert not path.exists()
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(tmp_path) == ["out"]


def test_a_failing_block_keeps_the_old_file_and_its_own_error(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as handle:
        handle.write("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_an_unrelated_os_error_of_the_block_is_not_disguised(tmp_path):
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "out"):
        (tmp_path / "no such input").read_text()
    assert names(tmp_path) == []


def test_a_full_disk_is_reported_with_the_path(tmp_path):
    with pytest.raises(OutputError, match="out"), write_atomically(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("where", ["missing/out", ".", "file/out", "/dev/null"])
@pytest.mark.parametrize("check", ["before", "while writing"])
def test_impossible_places_are_refused_and_left_alone(tmp_path, where, check):
    (tmp_path / "file").write_text("I am a file")
    path = tmp_path / where
    with pytest.raises(OutputError) as caught:
        if check == "before":
            ensure_writable(path)
        else:
            with write_atomically(path) as handle:
                handle.write("x")
    assert repr(str(path)) in str(caught.value)
    assert names(tmp_path) == ["file"]
    assert not Path("/dev/null").is_file()


def test_ensure_writable_touches_nothing(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")
    assert ensure_writable(path) == path
    assert ensure_writable(tmp_path / "new") == tmp_path / "new"
    assert names(tmp_path) == ["out"]
    assert path.read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            ensure_writable(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)

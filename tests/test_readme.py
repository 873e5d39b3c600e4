"""The README's snippets run as they stand, in one session, in a folder of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracescribe.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
# Sizes only: the snippets show what one would use, the test what is quick.
SMALLER = {"steps=150": "steps=2", "-n 300": "-n 60"}


def smaller(text: str) -> str:
    for shown, run in SMALLER.items():
        text = text.replace(shown, run)
    return text


def test_the_sizes_that_the_test_changes_are_in_the_readme() -> None:
    assert all(README.count(shown) == 1 for shown in SMALLER)


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^\.venv/bin/tracescribe (build .*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)
    with pytest.raises(SystemExit) as leaving:
        main(smaller(command).split())
    assert leaving.value.code == 0
    assert len(SNIPPETS) >= 5
    session: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(compile(smaller(snippet), "README.md", "exec"), session)  # the README is ours
    assert {"figure.pdf", "map.csv", "cells.csv", "trace.safetensors"} <= {path.name for path in tmp_path.iterdir()}


def test_the_commands_of_the_table_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^\| `tracescribe ([a-z -]+)", README, flags=re.MULTILINE)
    assert len(commands) == 23
    for command in commands:
        with pytest.raises(SystemExit) as leaving:
            main([*command.split(), "--help"])
        assert leaving.value.code == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_files_that_the_pages_name_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([^)#:]+)\)", text)) | set(re.findall(r"`(docs/[\w./]+|[A-Z]+\.md)`", text))
    beside = (ROOT / page).parent  # links are relative to the page, paths in code to the repository
    assert [name for name in named if not ((ROOT / name).exists() or (beside / name).exists())] == []

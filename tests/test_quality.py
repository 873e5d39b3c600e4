"""Lint, format, types, and the project's rules that no tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ("tracescribe", "patching", "tracer", "viz", "finetune", "benchmark")
MODULES = sorted(path for part in PACKAGE for path in (ROOT / part).rglob("*.py"))
LONGEST = 400  # lines of a module; about 250 is a good size

# Pieces that would name one machine or one package registry. Joined here so that this file does not hold them itself.
MACHINE_PATHS = [f"/{folder}/" for folder in ("home", "root", "Users", "work", "tmp/w", "opt/pypi", "opt/wheels")]
REGISTRY_HOSTS = ["files.python" + "hosted.org", "pypi" + ".org/simple", "download." + "pytorch.org", "index-url"]


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def tracked_texts() -> list[tuple[str, str]]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")
    texts = []
    for name in sorted(set(filter(None, listed))):
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and b"\0" not in (data := path.read_bytes()):
            texts.append((name, data.decode("utf-8")))
    return texts


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=["lint", "format"])
def test_ruff(arguments: tuple[str, ...]) -> None:
    done = tool("ruff", *arguments, ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy() -> None:
    done = tool("mypy", "-p", "tracescribe")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files belong to the project")
@pytest.mark.parametrize("banned", MACHINE_PATHS + REGISTRY_HOSTS)
def test_no_file_names_a_machine_or_a_registry(banned: str) -> None:
    # a path, not the end of a longer one: ".../work/" inside a URL or a relative path is no machine path
    pattern = re.compile(r"(?<![\w./~-])" + re.escape(banned) if banned.startswith("/") else re.escape(banned))
    here = Path(__file__).relative_to(ROOT).as_posix()
    assert [name for name, text in tracked_texts() if name != here and pattern.search(text)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_says_what_it_is_for_and_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the first line says what the module is for"
    assert len(text.splitlines()) <= LONGEST
    prints = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]
    assert not prints, "logging for libraries, the console for people"

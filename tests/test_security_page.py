"""Every promise of SECURITY.md names the tests that hold it, by names that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
LINKS = re.findall(r"`(tests/[^`]*)`", PAGE)


def test_the_page_links_single_tests() -> None:
    assert len(LINKS) > 20
    assert [link for link in LINKS if not re.fullmatch(r"tests/[\w/]+\.py::test_\w+", link)] == []


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.rpartition("::")[2])
def test_a_promise_is_held_by_a_test(link: str) -> None:
    file, _, name = link.partition("::")
    module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test() -> None:
    """Bold beginnings are promises; each paragraph that has one has a link, too."""
    promises = [part for part in re.split(r"\n(?=- |\n)", PAGE) if part.startswith("- **")]
    assert len(promises) > 8
    assert [part for part in promises if "`tests/" not in part] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_page_is_found_from(page: str) -> None:
    assert "(SECURITY.md)" in (ROOT / page).read_text(encoding="utf-8")

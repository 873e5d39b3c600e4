"""Every test that SECURITY.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROMISES = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))


def test_the_page_links_its_promises() -> None:
    assert len(PROMISES) > 20


@pytest.mark.parametrize(("file", "name"), PROMISES, ids=lambda part: part.rpartition("/")[2])
def test_a_promise_is_held_by_a_test(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert f"def {name or 'test_'}" in text

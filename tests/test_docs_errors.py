"""docs/errors.md has one section per class of tracescribe.errors, and says of each when it is raised."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from tracescribe import errors

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^#|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))


def test_every_error_class_has_a_section_and_every_section_a_class() -> None:
    classes = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}
    assert set(SECTIONS) == classes
    assert all(len(text.split()) >= 10 for text in SECTIONS.values())


def test_the_page_example_prints_both_captions(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(snippet, "docs/errors.md", "exec"), {})  # the page is ours
    said = capsys.readouterr().out
    assert "have 8 and 9" in said and "there | is | no |" in said and "there | is | a | severe |" in said

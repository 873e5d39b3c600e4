"""Commands of tracescribe as tests run them, and what is asked of one that refuses its input."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as the one JSON document that it must be."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


Run = Callable[..., Done]


def refused(done: Done, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one message on stderr that holds the words and no traceback."""
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("tracescribe: ")]) == 1
    for word in words:
        assert word in done.err

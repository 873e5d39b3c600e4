"""Every example runs as it stands and writes what it says."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WRITES = {
    "trace_and_look.py": {"negation.html", "profiles.html"},
    "paper_figure.py": {"figure.pdf", "figure.svg", "cte.csv", "trace.safetensors"},
    "weights_for_training.py": {"plan.json"},
}


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(WRITES)


@pytest.mark.parametrize("name", WRITES)
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    written = {path.name for path in tmp_path.iterdir() if path.is_file() and path.stat().st_size}
    assert written >= WRITES[name]

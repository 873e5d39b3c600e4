"""The attribution benchmark works, and its page has a line for each kind of map, number of steps and model."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "perf"


def test_the_page_compares_every_kind_of_map(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # which the script sets for its own process
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    threads = torch.get_num_threads()
    perf = importlib.import_module("bench_attribution")
    try:
        perf.main(["--quick", "--out", str(tmp_path / "page.md")])
    finally:
        torch.set_num_threads(threads)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert {tuple(line[:3]) for line in lines[2:]} == {
        (model, name, str(steps))
        for model in ("miniature", "tiny, random")
        for name in list(perf.SWEEPS)[:2]
        for steps in perf.STEPS
    }
    for line in lines[2:]:
        assert -1 <= float(line[6].split()[0]) <= 1 and int(line[8]) > 0
    assert str(Path.home()) not in page and str(FOLDER) not in page

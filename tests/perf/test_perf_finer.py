"""The benchmark of finer cells works, and its page has a line for each of them."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "perf"


@pytest.mark.slow
def test_the_page_has_a_line_for_every_kind_of_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # which the script sets for its own process
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    threads = torch.get_num_threads()
    perf = importlib.import_module("bench_finer")
    try:
        perf.main(["--quick", "--out", str(tmp_path / "page.md")])
    finally:
        torch.set_num_threads(threads)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert [line[0] for line in lines[2:]] == list(perf.ARMS)
    assert all(int(line[1]) > 0 and float(line[3].removesuffix("×")) > 0 for line in lines[2:])

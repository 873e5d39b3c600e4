"""The benchmark of the builders runs, and its table has every builder."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "perf"


@pytest.mark.slow  # three processes that import torch
def test_rates_and_memory_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TQDM_DISABLE"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    threads = torch.get_num_threads()
    try:
        importlib.import_module("bench_build").main(["--quick", "--out", str(tmp_path / "section.md")])
    finally:
        torch.set_num_threads(threads)
    section = (tmp_path / "section.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| [\d,]+ \| ([\d,]+) \| ([\d,]+) MiB \|", section, flags=re.MULTILINE)
    assert [row[0] for row in rows] == ["mednega", "contextual", "pairs"]
    for _, rate, written, peak in rows:
        assert int(rate.replace(",", "")) > 0
        assert int(written.replace(",", "")) > 1000
        assert 0 < int(peak.replace(",", "")) < 1024  # the claim: less than 1 GiB, imports included

"""The benchmark of scores among candidates runs, and its table has every metric that takes candidates."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "perf"


@pytest.mark.slow
def test_what_candidates_add_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TQDM_DISABLE"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    threads = torch.get_num_threads()
    try:
        importlib.import_module("bench_metrics").main(["--quick", "--out", str(tmp_path / "section.md")])
    finally:
        torch.set_num_threads(threads)
    section = (tmp_path / "section.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`[^|]* \| ([\d.e-]+) \(", section, flags=re.MULTILINE)
    assert [name for name, _ in rows] == ["cosine", "margin", "log_probability", "rank", "log_probability", "rank"]
    assert all(float(seconds) > 0 for _, seconds in rows)

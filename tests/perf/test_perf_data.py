"""A million claims are prepared for training in less than 2 GiB, as docs/finetuning.md says."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "perf"
LIMIT = 2 * 2**30


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TQDM_DISABLE"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    threads = torch.get_num_threads()
    module = importlib.import_module("bench_data")
    torch.set_num_threads(threads)
    return module


@pytest.mark.slow  # writes and reads 300 MB of JSON lines
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux' /proc")
def test_a_million_contrast_sets(bench: ModuleType) -> None:
    peak, _, seconds_per_batch, texts, sets = bench.measured(1_000_000)
    assert (texts, sets) == (len(bench.statements()), 1_000_000)
    assert peak < LIMIT / 4
    assert seconds_per_batch < 0.1  # a look-up in tables: it does not grow with them


@pytest.mark.slow  # two processes that import torch
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux' /proc")
def test_a_million_claims_of_which_no_two_are_the_same(bench: ModuleType) -> None:
    """By the growth from 10,000 to 40,000 sets of four; doubling of hash tables is within the factor of two."""
    (small, *_), (large, _, _, texts, _) = (bench.measured(sets, distinct=True) for sets in (10_000, 40_000))
    assert texts == 160_000 + 1_000  # and a caption for each image
    each = (large - small) / 120_000
    assert 100 < each * 2 < LIMIT / 1_000_000


@pytest.mark.slow  # three processes that import torch
def test_the_table_has_every_row(bench: ModuleType, tmp_path: Path) -> None:
    bench.main(["--quick", "--out", str(tmp_path / "section.md")])
    section = (tmp_path / "section.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| \d+ \| [\d,]+ MiB \|", section, flags=re.MULTILINE)
    assert [row[:2] for row in rows] == [("200", "5"), ("2,000", "50"), ("500", "13")]
    assert rows[2][2] == "2,013"

"""The training benchmark works: the plain loop shows our losses, and the page says what was measured."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "perf"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as `python perf/bench_train.py` sees it, on small batches; threads are put back afterwards."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    threads = torch.get_num_threads()
    module = importlib.import_module("bench_train")
    monkeypatch.setitem(module.MODELS, "miniature", module.Size(batch=4, plain_steps=1, our_steps=3))
    yield module  # type: ignore[misc]
    torch.set_num_threads(threads)


def test_the_page_says_what_was_measured(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "train.md"
    bench.main(["--quick", "--out", str(out)])
    page = out.read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    ways = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")}
    assert {bench.PLAIN, bench.CACHED, bench.PLAIN + bench.UPPER, bench.OURS, bench.OURS + bench.UPPER} <= ways
    assert "Layer-wise scaling adds to our step: `lr`" in page
    assert str(Path.home()) not in page and str(FOLDER) not in page


def test_what_a_plan_adds_to_full_fine_tuning_is_reported(bench: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "modes.md"
    importlib.import_module("bench_modes").main(["--quick", "--out", str(out)])
    rows = [line.split("|")[1:-1] for line in out.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["arm", "ordinary", "param_groups", "update"]
    assert all(row[2].strip(" *").endswith("%") for row in rows[2:])


def test_other_losses_stop_the_benchmark(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = bench.our_losses
    monkeypatch.setattr(bench, "our_losses", lambda case, steps: [1.01 * loss for loss in honest(case, steps)])
    with pytest.raises(AssertionError, match=r"differ from the plain loop's by 1\.0e-02"):
        bench.measure("miniature", quick=True, turns=1)


def test_the_ways_to_write_an_adapted_layer_are_compared(bench: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "lowrank.md"
    lowrank = importlib.import_module("bench_lowrank")
    lowrank.main(["--quick", "--out", str(out)])
    page = out.read_text(encoding="utf-8")
    assert all(f"| miniature | {way} |" in page for way in lowrank.WAYS)


def test_a_way_with_other_losses_stops_the_comparison(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    lowrank = importlib.import_module("bench_lowrank")
    monkeypatch.setitem(
        lowrank.WAYS,
        "without adapters",
        lambda x, weight, bias, adapters: 0 * lowrank.merged(x, weight, bias, adapters),
    )
    with pytest.raises(AssertionError, match="without adapters: the losses differ"):
        lowrank.measure("miniature", 1, 60)

"""The benchmark works: peers return our numbers, operations are counted as torch counts them, the page is written."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from models import WordTokenizer, open_clip_model
from torch.utils.flop_counter import FlopCounterMode

import tracescribe as ts
from tracescribe.patching import PatchingEngine

FOLDER = Path(__file__).parents[2] / "perf"


@pytest.fixture
def perf(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as `python perf/bench_trace.py` sees it; it sets the number of threads, which is put back."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    threads = torch.get_num_threads()
    yield importlib.import_module("bench_trace")  # type: ignore[misc]
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("base", "donor"),
    [
        ("there is no edema .", "there is severe edema ."),  # one token differs
        ("there is no edema .", "there are some masses ."),  # several do: cells of layer 0 are run too
        ("no", "a"),
        ("the lungs are clear", "the lungs are dark"),  # the last word
    ],
)
@pytest.mark.parametrize("shape", [{"layers": 3}, {"layers": 1}, {"layers": 2, "width": 64, "heads": 4}])
def test_operations_are_those_that_torch_counts(perf: ModuleType, base: str, donor: str, shape: dict[str, int]) -> None:
    tower = ts.wrap(open_clip_model(**shape), tokenizer=WordTokenizer()).text
    rows = tower.rows([base, donor])
    engine = PatchingEngine(tower)
    with FlopCounterMode(display=False) as counter:
        engine.patch(rows[:1], rows[1:], checks=0)
    assert perf.trace_flops(tower, *rows) == counter.get_total_flops()


def test_peers_return_our_scores_and_the_page_says_so(
    perf: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "RESULTS.md"
    perf.main(["--quick", "--conditions", "8", "--out", str(out)])  # 8: two lengths, so two batches
    page = out.read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert {"published algorithm", "nnsight, batched + skip, trimmed", "import tracescribe"} <= {
        line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")
    }
    assert str(Path.home()) not in page and str(FOLDER) not in page


def test_a_peer_that_disagrees_stops_the_benchmark(perf: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = perf.published

    def wrong(*args: object) -> object:
        scores = honest(*args)
        scores[1, 3] += 3 * perf.TOLERANCE
        return scores

    monkeypatch.setattr(perf, "published", wrong)
    with pytest.raises(AssertionError, match="published algorithm differs from ours by 6"):
        perf.measure(quick=True, repeats=1, conditions=1)

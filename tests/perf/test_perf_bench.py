"""The benchmarks work: peers return our numbers, operations are those that torch counts, the page is written."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from subprocess import CalledProcessError
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
    """The benchmark as `python perf/bench_trace.py` sees it; the number of threads that it sets is put back."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TQDM_DISABLE"):
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
        ("a b c d e f g h i j", "a b c d e x g h i j"),  # as long as the context
        ("a b c d e f g h i j", "k l m n o p q r s t"),
        ("a b c d e f", "a x c d y f"),  # equal tokens between differing ones
    ],
)
@pytest.mark.parametrize("shape", [{"layers": 3}, {"layers": 1}, {"layers": 2, "width": 64, "heads": 4}, {"layers": 7}])
def test_operations_are_those_that_torch_counts(perf: ModuleType, base: str, donor: str, shape: dict[str, int]) -> None:
    tower = ts.wrap(open_clip_model(**shape), tokenizer=WordTokenizer()).text
    rows = tower.rows([base, donor])
    engine = PatchingEngine(tower)
    with FlopCounterMode(display=False) as counter:
        engine.patch(rows[:1], rows[1:], checks=0)
    assert perf.trace_flops(tower, rows[:1], rows[1:]) == counter.get_total_flops()


def test_rows_that_texts_of_a_batch_share_are_run_once(perf: ModuleType) -> None:
    """However pairs of several lengths, alike and unlike, are put together: no row is padded, none is run twice."""
    tower = ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer()).text
    texts = [
        ("no edema", "an edema"),
        ("no edema .", "some edema ."),
        ("a b c d", "a x c y"),
        ("no mass", "a mass"),
        *[(f"there is no {word} .", f"there is some {word} .") for word in "abcdef"],
    ] * 2
    base, donor = tower.rows([a for a, _ in texts]), tower.rows([b for _, b in texts])
    with FlopCounterMode(display=False) as counter:
        PatchingEngine(tower).patch(base, donor, checks=0)
    together = counter.get_total_flops()
    assert together == perf.trace_flops(tower, base, donor)
    apart = sum(perf.trace_flops(tower, [b], [d]) for b, d in zip(base, donor, strict=True))
    assert perf.least_flops(tower, base, donor) < together < 0.95 * apart


def table(page: str) -> set[str]:
    """The first cells of a page's tables."""
    return {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")}


def test_peers_return_our_scores_and_the_section_says_so(
    perf: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "section.md"
    perf.main(["--quick", "--conditions", "8", "--out", str(out)])  # 8: two lengths, so two batches
    section = out.read_text(encoding="utf-8")
    assert section in capsys.readouterr().out
    peers = {"published algorithm", "nnsight, batched + skip", "nnsight, a trace a patch", "TransformerLens"}
    assert peers <= table(section)
    assert ("pyvene" in table(section)) == perf.PyvenePeer.available


def test_the_chart_has_a_line_for_every_tower(perf: ModuleType, tmp_path: Path) -> None:
    limit = importlib.import_module("bench_limit")
    limit.main(["--quick", "--out", str(tmp_path / "section.md")])
    assert all(f"{name}: " in (tmp_path / "limit.svg").read_text(encoding="utf-8") for name in limit.TINY)
    assert set(limit.TINY) <= table((tmp_path / "section.md").read_text(encoding="utf-8"))


def test_a_run_puts_the_sections_into_one_page(
    perf: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = importlib.import_module("run")
    for name in ("bench_b", "bench_a", "bench_trace"):
        code = f"import sys, pathlib; pathlib.Path(sys.argv[2]).write_text('## {name}, ' + sys.argv[3])"
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    run.main(["--quick", "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## {name}, --quick" for name in ("bench_trace", "bench_a", "bench_b")
    ]
    assert str(tmp_path) not in page


def test_a_benchmark_that_fails_leaves_the_results_as_they_are(
    perf: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = importlib.import_module("run")
    (tmp_path / "RESULTS.md").write_text("earlier", encoding="utf-8")
    (tmp_path / "bench_a.py").write_text("raise SystemExit(1)", encoding="utf-8")
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    with pytest.raises(CalledProcessError):
        run.main([])
    assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8") == "earlier"


def test_a_peer_that_disagrees_stops_the_benchmark(perf: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = perf.published

    def wrong(*args: object) -> object:
        scores = honest(*args)
        scores[0, 1, 3] += 3 * perf.TOLERANCE
        return scores

    monkeypatch.setattr(perf, "published", wrong)
    with pytest.raises(AssertionError, match="published algorithm, full context differs from ours by 6"):
        perf.measure(quick=True, repeats=1, conditions=1)


@pytest.mark.slow
def test_every_benchmark_runs(perf: ModuleType, tmp_path: Path) -> None:
    importlib.import_module("run").main(["--quick", "--out", str(tmp_path)])
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert {"import tracescribe"} <= {cell.strip("`") for cell in table(page)}
    assert "](limit.svg)" in page and (tmp_path / "limit.svg").exists()

"""The command line end to end on the miniature: results, and JSON for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import Run, refused

import tracescribe as ts


def test_info(run: Run) -> None:
    found = run("info", "phantom", "--json").document
    assert (found["layers"], found["heads"], found["causal"]) == (8, 4, True)
    assert "phantom" in run("info", "phantom").out


def test_build_writes_what_it_says(run: Run, tmp_path: Path) -> None:
    done = run("build", "phantom", tmp_path / "new" / "set", "-n", 5, "--json").document
    assert set(done["files"]) == {path.name for path in (tmp_path / "new" / "set").iterdir() if path.is_file()}
    assert len(list((tmp_path / "new" / "set" / "images").glob("*.png"))) == 5


def test_trace_json_is_the_saved_trace(run: Run, data: Path, traced: Path) -> None:
    pairs = data / "pairs.jsonl"
    out = data.parent / "again.safetensors"
    options = ("--attribute", "existence", "--control", "severity", "-o", out, "--json")
    found = run("trace", "phantom", pairs, *options).document
    saved = ts.load_trace(out)
    np.testing.assert_array_equal(found["cte"], saved.per_layer().value)
    assert found["n_pairs"] == saved.n_pairs == ts.load_trace(traced).n_pairs
    assert len(found["excess"]["value"]) == saved.n_layers + 1


def test_trace_for_people_shows_every_layer(run: Run, data: Path, tmp_path: Path) -> None:
    done = run("trace", "phantom", data / "pairs.jsonl", "-o", tmp_path / "trace.safetensors")
    assert done.code == 0
    assert all(f"│ {layer} " in done.out for layer in range(9))


@pytest.mark.parametrize("name", ["map.html", "map.pdf", "map.png", "map.svg"])
@pytest.mark.parametrize("options", [(), ("--pair", "0"), ("--kind", "profile")], ids=["map", "pair", "profile"])
def test_plot(run: Run, traced: Path, tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    magic = {".html": b"<!doctype html>", ".pdf": b"%PDF-", ".png": b"\x89PNG", ".svg": b"<?xml"}
    out = tmp_path / name
    assert run("plot", traced, "-o", out, *options).code == 0
    assert out.read_bytes().startswith(magic[out.suffix])


def test_plot_puts_several_traces_into_one_figure(run: Run, traced: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(traced.read_bytes())
    for suffix, kind in (("svg", "heatmap"), ("pgf", "heatmap"), ("html", "heatmap"), ("svg", "profile")):
        out = tmp_path / f"{kind}.{suffix}"
        third = () if kind == "profile" else ("--difference", "other − first")
        done = run("plot", traced, "--beside", other, *third, "-o", out, "--kind", kind, "--width", "page")
        assert done.code == 0, done.err
        text = out.read_text(encoding="utf-8")
        assert (">trace<" in text and ">other<" in text) or suffix != "svg"
        assert ("other − first" in text) == (kind == "heatmap" and suffix == "svg") or suffix != "svg"
    out = tmp_path / "x.svg"
    refused(run("plot", traced, "--beside", other, "--pair", 0, "-o", out), "--pair")
    refused(run("plot", traced, "--difference", "d", "-o", out), "--difference")
    refused(run("plot", traced, "--beside", traced, "-o", out), "different names")
    assert not out.exists()


def test_plot_takes_widths_titles_and_notes(run: Run, traced: Path, tmp_path: Path) -> None:
    for width, points in (("neurips", "396pt"), ("2.5", "180pt")):
        out = tmp_path / f"{width}.svg"
        for kind in ("heatmap", "profile"):
            args = ("--kind", kind, "--width", width, "--title", "A title", "--notes")
            assert run("plot", traced, "-o", out, *args).code == 0
            text = out.read_text(encoding="utf-8")
            assert f'width="{points}"' in text and "A title" in text and "S_corr ≤ S_foil" in text


def test_prescribe_writes_the_plan_that_python_makes(run: Run, traced: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    found = run("prescribe", traced, "-o", out, "--beta", 2, "--json").document
    plan = ts.prescribe(ts.load_trace(traced), beta=2)
    np.testing.assert_allclose(found["multipliers"], plan.multipliers)
    np.testing.assert_allclose(ts.load_plan(out).alpha, plan.alpha)
    assert found["warnings"] == list(plan.warnings)
    front = run("prescribe", traced, "-o", out, "--by", "front", "--k", 2, "--budget", "mean", "--json").document
    assert front["alpha"] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert front["multipliers"] == [4, 4, 0, 0, 0, 0, 0, 0]
    assert "needs k" in run("prescribe", traced, "-o", out, "--by", "front").err
    people = run("prescribe", traced, "-o", out)
    assert all(line in people.out for line in plan.warnings)
    assert people.err == ""  # the doubts are said once


def test_finetune_then_evaluate(run: Run, data: Path, traced: Path, tmp_path: Path) -> None:
    plan, folder = tmp_path / "plan.json", tmp_path / "runs" / "weighted"
    assert run("prescribe", traced, "-o", plan).code == 0
    sizes = ("--steps", 2, "--batch-size", 4)
    done = run("finetune", "phantom", data, "-o", folder, "--plan", plan, *sizes, "--json").document
    assert done["weighting"] == "update"
    assert sum(done["update_share"]) == pytest.approx(1)
    scores = run("evaluate", "phantom", data, "--run", folder, "--split", "all", "--json").document
    # the adapters were read back: two steps of training changed the captions' embeddings, but not beyond recognition
    assert 0.5 < scores["after"]["preservation"] < 1 - 1e-6
    page = run("report", folder, "-o", tmp_path / "run.html", "--json").document
    assert page["kind"] == "run" and page["title"] == "Fine-tuning of phantom"
    shares, written = done["update_share"], (tmp_path / "run.html").read_text(encoding="utf-8")
    assert f"{100 * max(shares):.0f} % of the whole update" in page["lead"] and f">{100 * shares[0]:.2f}<" in written
    refused(run("report", folder, "-o", tmp_path / "run.html", "--control", traced), "--control")
    (folder / "result.json").write_text("{}")
    refused(run("report", folder, "-o", tmp_path / "run.html"), "damaged")
    alone = run("evaluate", "phantom", data, "--split", "all", "--json").document
    assert alone["affirmative"] == scores["before"]["affirmative"]


def test_report_writes_the_page_that_python_writes(run: Run, traced: Path, tmp_path: Path) -> None:
    found = run("report", traced, "-o", tmp_path / "a.html", "--control", traced, "--json").document
    trace = ts.load_trace(traced)
    trace.report(tmp_path / "b.html", control=trace)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert found["kind"] == "trace" and found["title"] == "Causal trace of phantom"
    assert found["lead"] in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_demo_quick(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = run("demo", "--quick", "--out", out, "--json").document
    assert {path.name for path in out.iterdir()} == set(done["files"])
    assert {"report.html", "heatmap.html", "heatmap.pdf", "heatmap.png", "plan.json", "manifest.json"} <= set(
        done["files"]
    )
    assert {entry["name"] for entry in done["runs"]} == {"uniform", "NAST", "permuted", "gradient scaling"}
    assert len(done["verdicts"]) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]  # no scratch folder is left


def test_a_result_replaces_an_earlier_one(run: Run, traced: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    out.write_text("earlier")
    assert run("prescribe", traced, "-o", out).code == 0
    assert json.loads(out.read_text())["format"] == "tracescribe.plan/1"


def test_a_closed_pipe_is_no_error_message(traced: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m tracescribe prescribe {traced} -o {tmp_path / 'plan.json'} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


COMMANDS = ["demo", "info", "trace", "plot", "report", "prescribe", "finetune", "evaluate", "build phantom"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_names_the_command(run: Run, command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.code == 0
    assert f"Example:  tracescribe {command} " in done.out
    assert "--json" in done.out


def test_help_is_fast() -> None:
    # seconds of processor time: wall-clock time would measure what else the machine does
    code = "import time; s = time.process_time(); from tracescribe.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print(time.process_time() - s)"
    seconds = [
        float(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
        )
        for _ in range(3)
    ]
    assert min(seconds) <= 0.3


def test_module_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tracescribe", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"tracescribe {ts.__version__}"


def test_trace_takes_the_sites_and_methods_of_the_library(run: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "heads.safetensors"
    common = ("trace", "phantom", data / "pairs.jsonl", "--attribute", "existence", "-o", out, "--json")
    document = run(*common, "--site", "z", "--heads", "each").document
    assert document["layers"] == list(range(1, 9)) and document["provenance"]["heads"] == "each"
    assert ts.load_trace(out).columns == tuple(f"head {head}" for head in range(4))
    assert run("plot", out, "-o", tmp_path / "heads.png").code == 0
    two = run(*common, "--positions", "3,-1", "--window", 2).document["provenance"]
    assert two["positions"] == [3, -1] and two["window"] == 2
    quick = run(*common, "--method", "attribution").document["provenance"]
    assert quick["agreement"]["text_pairs"] == 4
    out.unlink()
    for bad, reason in (
        (("--site", "residual"), "unknown site 'residual'"),
        (("--heads", "first", "--site", "z"), "--heads must be"),
        (("--heads", "9", "--site", "z"), "no head 9"),
        (("--positions", "ends"), "unknown positions 'ends'"),
        (("--steps", "3"), "steps= has no meaning with method='exact'"),
    ):
        done = run(*common, *bad)
        assert done.code == 2 and reason in done.err and not out.exists()

"""The flags of `trace` are the declared options; odd arguments of any command are refused before anything is read."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from commands import Run, refused

import tracescribe as ts
from tracescribe.cli import common
from tracescribe.cli.declared import flag_name
from tracescribe.tracer.run.options import TraceOptions

HUGE = "9" * 5_000
PAIR = {"correct": "There is no effusion.", "foil": "There is severe effusion.", "image": {"text": "Clear lungs."}}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIR) + "\n")
    return path


def spy(monkeypatch: pytest.MonkeyPatch) -> list[TraceOptions]:
    """The options that reach the tracer, which then stops."""
    found: list[TraceOptions] = []

    def run_trace(model: object, pairs: object, options: TraceOptions, progress: object) -> None:
        found.append(options)
        raise ts.errors.TraceError("seen")

    monkeypatch.setattr("tracescribe.tracer.run.trace.run_trace", run_trace)
    return found


def test_every_declared_option_has_a_flag_with_its_help_and_its_default(
    run: Run, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    shown = " ".join(run("trace", "--help").out.split())
    for each in dataclasses.fields(TraceOptions):
        if each.name in ("pool", "directions"):  # a file, see test_cli_pool; an array
            continue
        if each.name == "keep_embeddings":  # a saved trace has none
            assert flag_name(each.name) not in shown
            continue
        assert f"{flag_name(each.name)} " in shown
        assert each.metadata["help"].removeprefix("Bytes ") in shown
    found = spy(monkeypatch)
    run("trace", "phantom", pairs, "-o", pairs.with_name("t.safetensors"))
    assert found == [TraceOptions()]


GIVEN = {
    "--site": ("z", "z"),
    "--window": ("3", 3),
    "--path": ("generic", "generic"),
    "--batch-size": ("2", 2),
    "--dtype": ("float64", "float64"),
    "--floor": ("1e-3", 1e-3),
    "--seed": ("7", 7),
    "--positions": ("3, -1", (3, -1)),
    "--heads": ("1", 1),
    "--align": ("auto", "auto"),
    "--position-policy": ("keep", "keep"),
    "--direction": ("correct->foil", "correct->foil"),
    "--method": ("direct", "direct"),
    "--through-mlps": (None, True),
    "--memory": ("0.5", 2**29),
    "--cache": ("kept", "kept"),
    "--metric": ("probability", "probability"),
    "--against": ("caption", "caption"),
    "--logit-scale": ("20", 20.0),
}


def test_every_flag_reaches_the_tracer_in_its_type(run: Run, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = spy(monkeypatch)
    flags = [part for name, (text, _) in GIVEN.items() for part in (name, text) if part is not None]
    run("trace", "phantom", pairs, "-o", pairs.with_name("t.safetensors"), *flags)
    run("trace", "phantom", pairs, "-o", pairs.with_name("t.safetensors"), "--method", "attribution", "--steps", "5",
        "--exact-sample", "0")  # fmt: skip
    run("trace", "phantom", pairs, "-o", pairs.with_name("t.safetensors"), "--replace", "resample", "--donors", "3")
    run("trace", "phantom", pairs, "-o", pairs.with_name("t.safetensors"), "--site", "edges", "--replace", "cut",
        "--queries", "3,-1")  # fmt: skip
    assert found == [
        TraceOptions(**{name[2:].replace("-", "_"): value for name, (_, value) in GIVEN.items()}),
        TraceOptions(method="attribution", steps=5, exact_sample=0),
        TraceOptions(replace="resample", donors=3),
        TraceOptions(site="edges", replace="cut", queries=(3, -1)),
    ]
    named = {flag_name(each.name) for each in dataclasses.fields(TraceOptions)} - {
        "--keep-embeddings",
        "--pool",
        "--directions",
    }
    assert {*GIVEN, "--steps", "--exact-sample", "--replace", "--queries", "--donors", "--candidates"} == named


BAD = [
    *(("--memory", value) for value in ("inf", "nan", "-5", "0", "²", HUGE, "1e300", "much")),
    *(("--window", value) for value in ("nan", "inf", "0", "2.5", "²", HUGE, "True", "")),
    *(("--positions", value) for value in ("²", HUGE, "nowhere", "", "1.5", "3,²", "\0")),
    *(("--heads", value) for value in ("²", HUGE, "some", "-1", "1.5", "0")),  # the default site has no heads
    *(("--seed", value) for value in (str(2**64), "-1", "nan", HUGE)),
    *(("--floor", value) for value in ("nan", "inf", "-1")),
    *(("--batch-size", value) for value in ("0", "²", "none", HUGE)),
    *(("--dtype", value) for value in ("int8", "float")),
    *(("--site", value) for value in ("residual", "", "x" * 300)),
    *(("--cache", value) for value in ("", "a\0b", "\ud800")),
    *(("--metric", value) for value in ("euclid", "", "cosine,rank")),
    *(("--candidates", value) for value in ("no/such.txt", "pool.csv", "", "\0", "5")),
    *(("--logit-scale", value) for value in ("0", "nan", "10")),  # a cosine has none
    *(("--against", "image"), ("--against", "target")),
    *(("--queries", "[end]"), ("--replace", "cut")),
    *(("--steps", "5"), ("--position-policy", "keep"), ("--align", "rows"), ("--direction", "foil")),
]


@pytest.mark.parametrize("flag", BAD, ids=lambda flag: f"{flag[0]} {flag[1][:12]!r}")
def test_a_bad_value_is_refused_before_anything_is_read(
    run: Run, pairs: Path, monkeypatch: pytest.MonkeyPatch, flag: tuple[str, str]
) -> None:
    def read(*args: object, **options: object) -> None:
        pytest.fail("pairs were read")

    monkeypatch.setattr("tracescribe.tracer.read_pairs", read)
    done = run("trace", "phantom", pairs, "-o", pairs.with_name("t.safetensors"), *flag)
    refused(done, flag[0][2:].split("-")[0])
    assert len(done.err) < 600
    assert [path.name for path in pairs.parent.iterdir()] == [pairs.name]


def test_candidates_of_a_file_are_what_python_is_given(run: Run, pairs: Path, tmp_path: Path) -> None:
    texts = ["There is no effusion.", "There is severe effusion.", "There is mild effusion."]
    (tmp_path / "pool.txt").write_text("\n".join(texts), encoding="utf-8")
    out = tmp_path / "t.safetensors"
    flags = ("--metric", "log_probability", "--candidates", tmp_path / "pool.txt")
    done = run("trace", "phantom", pairs, "-o", out, "--floor", "0", *flags)
    assert done.code == 0 and "log probability among 3 candidates" in done.out
    given = ts.read_pairs(pairs)
    expected = ts.trace(ts.load("phantom"), given, metric="log_probability", candidates=texts, floor=0, progress=False)
    assert ts.load_trace(out).scores.patched.tobytes() == expected.scores.patched.tobytes()


@pytest.mark.filterwarnings("default:the model prefers the foil")  # a line on stderr here, no error
def test_images_outside_of_the_folder_are_read_when_asked(run: Run, data: Path, tmp_path: Path) -> None:
    film = next((data / "images").glob("*.png")).resolve()
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({**PAIR, "image": str(film)}) + "\n")
    out = tmp_path / "t.safetensors"
    refused(run("trace", "phantom", path, "-o", out), "--outside-images")
    done = run("trace", "phantom", path, "-o", out, "--outside-images", "--floor", "0")
    assert done.code == 0 and ts.load_trace(out).n_pairs == 1


@pytest.mark.parametrize("stated", ["yesterday", "", "1.5", "9" * 30])
def test_a_date_that_is_none_is_refused_by_every_command(
    run: Run, data: Path, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", stated)
    for arguments in (
        ("trace", "phantom", data / "pairs.jsonl", "-o", tmp_path / "t.safetensors"),
        ("finetune", "phantom", data, "-o", tmp_path / "run"),
        ("prescribe", traced, "-o", tmp_path / "plan.json"),
        ("plot", traced, "-o", tmp_path / "map.pdf"),
        ("demo", "--quick", "--out", tmp_path / "demo"),
    ):
        refused(run(*arguments), "SOURCE_DATE_EPOCH")
    assert not list(tmp_path.iterdir())


COMMANDS = {
    "trace": ("trace", "phantom", "{}", "-o", "out.safetensors"),
    "trace -o": ("trace", "phantom", "PAIRS", "-o", "{}"),
    "trace --cache": ("trace", "phantom", "PAIRS", "-o", "out.safetensors", "--cache", "{}"),
    "trace --device": ("trace", "phantom", "PAIRS", "-o", "out.safetensors", "--device", "{}"),
    "trace --pretrained": ("trace", "phantom", "PAIRS", "-o", "out.safetensors", "--pretrained", "{}"),
    "info": ("info", "{}"),
    "info open_clip": ("info", "open_clip:{}"),
    "plot": ("plot", "{}", "-o", "out.pdf"),
    "plot -o": ("plot", "TRACE", "-o", "{}"),
    "report": ("report", "{}", "-o", "out.html"),
    "report -o": ("report", "TRACE", "-o", "{}"),
    "report --control": ("report", "TRACE", "-o", "out.html", "--control", "{}"),
    "prescribe": ("prescribe", "{}", "-o", "plan.json"),
    "prescribe -o": ("prescribe", "TRACE", "-o", "{}"),
    "finetune": ("finetune", "phantom", "{}", "-o", "run"),
    "finetune --plan": ("finetune", "phantom", "DATA", "-o", "run", "--plan", "{}"),
    "finetune FILE": ("finetune", "{}.yaml", "-o", "run"),
    "finetune -o": ("finetune", "phantom", "DATA", "-o", "{}", "--steps", "0"),
    "evaluate": ("evaluate", "phantom", "{}"),
    "evaluate --run": ("evaluate", "phantom", "DATA", "--run", "{}"),
    "evaluate --images": ("evaluate", "phantom", "DATA", "--images", "{}", "--strict"),
    "evaluate --items": ("evaluate", "phantom", "DATA", "--items", "{}"),
    "compare": ("compare", "{}", "{}"),
    "compare -o": ("compare", "PAIRS", "PAIRS", "-o", "{}"),
    "demo --out": ("demo", "--quick", "--out", "{}"),
    "build phantom": ("build", "phantom", "{}"),
    "build mednega": ("build", "mednega", "{}", "new"),
    "build contextual": ("build", "contextual", "{}", "new"),
    "build pairs": ("build", "pairs", "{}", "new.jsonl"),
}
ODD = ["x" * 300, "a\0b", ".", "pipe.jsonl", "pipe.safetensors", "/dev/zero", "folder.jsonl", "circle", "\ud800", ""]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("case", COMMANDS)
def test_odd_names_are_refused_in_a_sentence_without_waiting(
    run: Run, data: Path, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    os.mkfifo("pipe.jsonl")
    os.mkfifo("pipe.safetensors")
    Path("folder.jsonl").mkdir()
    Path("folder.jsonl", "mine.txt").write_text("mine")
    Path("circle").symlink_to("circle")
    before = sorted(tmp_path.rglob("*"))
    known = {"PAIRS": data / "pairs.jsonl", "TRACE": traced, "DATA": data}
    for odd in ODD:
        done = run(*(str(known.get(part, part)).replace("{}", odd) for part in COMMANDS[case]))
        assert (odd, done.code) == (odd, 2)
        refused(done)
        assert len(done.err) < 3_000
    assert sorted(tmp_path.rglob("*")) == before


def test_a_terminal_is_told_of_the_imports_before_they_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    common.announce(as_json=False)
    assert capsys.readouterr().err == ""  # not a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    common.announce(as_json=True)
    assert capsys.readouterr().err == ""
    common.announce(as_json=False)
    assert "loading libraries" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", object())
    common.announce(as_json=False)
    assert capsys.readouterr().err == ""

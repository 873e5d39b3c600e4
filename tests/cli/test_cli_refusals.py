"""The command line on bad input: one sentence, exit code 2, and no file left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Run, refused

import tracescribe as ts


def line(**changes: object) -> str:
    fields = {"correct": "There is no effusion.", "foil": "There is severe effusion.", "image": "film.png"}
    return json.dumps({**fields, **changes})


LONG = " ".join(["no"] * 60)
BAD_PAIRS = {
    "unequal lengths": (line(foil="There is severe left effusion."), ["severe", "left", "tokens"]),
    "identical": (line(foil="There is no effusion."), ["There is no effusion."]),
    "over the context": (line(correct=LONG, foil=LONG + " no"), ["context"]),
    "missing image": (line(image="nowhere.png"), ["pairs.jsonl:2", "nowhere.png"]),
    "broken image": (line(image="broken.png"), ["broken.png"]),
    "malformed line": ('{"correct": "There is', ["pairs.jsonl:2"]),
    "unknown field": (line(imge="film.png"), ["pairs.jsonl:2", "imge"]),
    "empty caption": (line(foil=" "), ["pairs.jsonl:2", "foil"]),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs(run: Run, data: Path, tmp_path: Path, case: str) -> None:
    bad, words = BAD_PAIRS[case]
    shutil.copy(next((data / "images").glob("*.png")), tmp_path / "film.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (tmp_path / "pairs.jsonl").write_text(line() + "\n" + bad + "\n")
    before = sorted(tmp_path.iterdir())
    refused(run("trace", "phantom", tmp_path / "pairs.jsonl", "-o", tmp_path / "out.safetensors", "--json"), *words)
    assert sorted(tmp_path.iterdir()) == before


def test_unequal_lengths_show_both_tokenisations(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copy(next((data / "images").glob("*.png")), tmp_path / "film.png")
    (tmp_path / "pairs.jsonl").write_text(line(foil="There is severe left effusion.") + "\n")
    done = run("trace", "phantom", tmp_path / "pairs.jsonl", "-o", tmp_path / "out.safetensors")
    assert " | no | " in done.err
    assert " | severe | left | " in done.err


def test_no_pair_reaches_the_floor(run: Run, data: Path, tmp_path: Path) -> None:
    done = run("trace", "phantom", data / "pairs.jsonl", "-o", tmp_path / "out.safetensors", "--floor", 1.9)
    refused(done, "floor")
    assert list(tmp_path.iterdir()) == []


def test_nan_weights(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    from tracescribe.benchmark.phantom import miniature

    with safe_open(miniature.WEIGHTS, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    weights["transformer.resblocks.2.mlp.c_fc.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "miniature.safetensors", metadata)
    shutil.copy(miniature.WEIGHTS.with_name("vocabulary.json"), tmp_path / "vocabulary.json")
    monkeypatch.setattr(miniature, "WEIGHTS", tmp_path / "miniature.safetensors")
    refused(run("trace", "phantom", data / "pairs.jsonl", "-o", tmp_path / "out.safetensors"), "NaN")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["phantoom", "open_clip:ViT-B-33", "nope:x"])
def test_unknown_model(run: Run, name: str) -> None:
    refused(run("info", name), name.split(":")[-1])


def test_unknown_device(run: Run) -> None:
    refused(run("info", "phantom", "--device", "abacus"), "abacus")


@pytest.mark.parametrize("beta", ["-1", "nan", "inf", "much"])
def test_bad_beta(run: Run, traced: Path, tmp_path: Path, beta: str) -> None:
    refused(run("prescribe", traced, "-o", tmp_path / "plan.json", "--beta", beta), "beta")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "name"), [("trace", "out.safetensors"), ("plot", "out.pdf"), ("prescribe", "out.json")]
)
@pytest.mark.parametrize("where", ["missing", "folder", "file"])
def test_unwritable_output(
    run: Run, data: Path, traced: Path, tmp_path: Path, command: str, name: str, where: str
) -> None:
    target = tmp_path / "place" / name
    if where == "folder":
        target.mkdir(parents=True)
    elif where == "file":
        (tmp_path / "place").write_text("not a folder")
    before = sorted(tmp_path.rglob("*"))
    given = ("phantom", data / "pairs.jsonl") if command == "trace" else (traced,)
    refused(run(command, *given, "-o", target), str(target))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["build", "demo", "finetune"])
def test_a_file_where_a_folder_goes(run: Run, data: Path, tmp_path: Path, command: str) -> None:
    target = tmp_path / "taken"
    target.write_text("mine")
    given = {
        "build": ("build", "phantom", target),
        "demo": ("demo", "--quick", "--out", target),
        "finetune": ("finetune", "phantom", data, "-o", target),
    }
    refused(run(*given[command]), "taken")
    assert target.read_text() == "mine"


def test_the_demo_touches_no_folder_but_its_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    refused(run("demo", "--quick", "--out", tmp_path), "not an earlier result of this command")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["plan.txt", "plan"])
def test_an_ending_that_means_nothing(run: Run, traced: Path, tmp_path: Path, name: str) -> None:
    refused(run("plot", traced, "-o", tmp_path / name), ".pdf")
    refused(run("prescribe", traced, "-o", tmp_path / name), ".json")


def test_options_of_plot_that_mean_nothing(run: Run, traced: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.pdf"
    refused(run("plot", traced, "-o", out, "--width", "colum"), "'colum'")
    refused(run("plot", traced, "-o", out, "--width", "9" * 5_000), "width")
    refused(run("plot", traced, "-o", out, "--limit", "nan"), "limit=nan")
    refused(run("plot", traced, "-o", out, "--limit", "1", "--kind", "profile"), "--limit 1")
    refused(run("plot", traced, "-o", out, "--pair", "9" * 5_000), "no pair is called")
    assert not out.exists()


@pytest.mark.parametrize("command", ["plot", "prescribe"])
@pytest.mark.parametrize("content", [b"", b"hello", "half"], ids=["empty", "foreign", "truncated"])
def test_a_file_that_is_no_trace(run: Run, traced: Path, tmp_path: Path, command: str, content: bytes | str) -> None:
    whole = traced.read_bytes()
    path = tmp_path / "trace.safetensors"
    path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    refused(run(command, path, "-o", tmp_path / ("out.pdf" if command == "plot" else "out.json")), "trace.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("trace", "phantom", "nowhere.jsonl", "-o", "out.safetensors"), "nowhere.jsonl"),
        (("trase",), "trase"),
        (("info",), "MODEL"),
        (("build", "phantom", "x", "-n", "0"), "-n"),
        (("info", "phantom", "--colour"), "--colour"),
        (("plot", "nowhere.safetensors", "-o", "out.pdf"), "nowhere.safetensors"),
    ],
)
def test_bad_arguments(run: Run, arguments: tuple[str, ...], word: str) -> None:
    refused(run(*arguments), word)


def test_an_attribute_that_no_pair_has(run: Run, data: Path, tmp_path: Path) -> None:
    done = run("trace", "phantom", data / "pairs.jsonl", "-o", tmp_path / "out.safetensors", "--attribute", "colour")
    refused(done, "colour", "existence", "severity")


def test_a_pair_that_the_trace_lacks(run: Run, traced: Path, tmp_path: Path) -> None:
    for kind in ("heatmap", "profile"):
        refused(run("plot", traced, "-o", tmp_path / "out.pdf", "--pair", "100000", "--kind", kind), "100000")


def test_weights_without_a_plan(run: Run, data: Path, tmp_path: Path) -> None:
    refused(run("finetune", "phantom", data, "-o", tmp_path / "run", "--weighting", "update"), "plan")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_another_tower(run: Run, data: Path, tmp_path: Path) -> None:
    ts.prescribe(np.linspace(0, 1, 13)).save(tmp_path / "plan.json")
    done = run("finetune", "phantom", data, "-o", tmp_path / "run", "--plan", tmp_path / "plan.json", "--steps", 1)
    refused(done, "12", "8")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.filterwarnings("default:the model prefers the foil")  # a line on stderr here, no error
def test_a_pair_of_many_is_not_guessed(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copy(next((data / "images").glob("*.png")), tmp_path / "film.png")
    (tmp_path / "pairs.jsonl").write_text(f"{line(id='x')}\n{line(id='x')}\n")
    assert run("trace", "phantom", tmp_path / "pairs.jsonl", "-o", tmp_path / "t.safetensors").code == 0
    for kind in ("heatmap", "profile"):
        done = run("plot", tmp_path / "t.safetensors", "-o", tmp_path / "o.pdf", "--pair", "x", "--kind", kind)
        refused(done, "2 pairs")


def test_folders_are_checked_before_training_and_not_made(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    huge = ("--steps", 10**9)  # would not end
    refused(run("finetune", "phantom", data, "-o", tmp_path / "thesis", *huge), "not an earlier result of this command")
    refused(run("finetune", "nope", data, "-o", tmp_path / "deep" / "er" / "run"), "nope")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_a_folder_without_data(run: Run, tmp_path: Path) -> None:
    refused(run("finetune", "phantom", tmp_path, "-o", tmp_path / "run"), "captions.jsonl")
    refused(run("evaluate", "phantom", tmp_path), "mcq.jsonl")


def test_a_folder_that_is_no_run(run: Run, data: Path, tmp_path: Path) -> None:
    refused(run("evaluate", "phantom", data, "--run", tmp_path, "--split", "all"), "no manifest.json")


def test_ctrl_c_is_one_sentence_and_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tracescribe.benchmark.phantom.dataset.draw", stopped)
    done = run("build", "phantom", tmp_path / "data", "-n", 3)
    assert done.code == 130 and "Traceback" not in done.err
    assert done.err.splitlines()[-1] == "tracescribe: stopped; nothing half-written was left behind"
    assert not list(tmp_path.iterdir())

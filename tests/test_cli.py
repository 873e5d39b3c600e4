"""The command line end to end on the miniature: results, JSON for machines, one sentence for bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tracescribe as ts
from tracescribe.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as the one JSON document that it must be."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(int(leaving.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom data set, built by the command."""
    folder = tmp_path_factory.mktemp("cli") / "data"
    with pytest.raises(SystemExit) as leaving:
        main(["build", "phantom", str(folder), "-n", "60", "--seed", "3", "--json"])
    assert leaving.value.code == 0
    return folder


@pytest.fixture(scope="module")
def traced(data: Path) -> Path:
    path = data.parent / "trace.safetensors"
    command = ["trace", "phantom", str(data / "pairs.jsonl"), "--attribute", "existence", "-o", str(path), "--json"]
    with pytest.raises(SystemExit) as leaving:
        main(command)
    assert leaving.value.code == 0
    return path


def refused(done: Done, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one message on stderr that holds the words and no traceback."""
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("tracescribe: ")]) == 1
    for word in words:
        assert word in done.err


# -- what works ------------------------------------------------------------


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


def test_prescribe_writes_the_plan_that_python_makes(run: Run, traced: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    found = run("prescribe", traced, "-o", out, "--beta", 2, "--json").document
    plan = ts.prescribe(ts.load_trace(traced), beta=2)
    np.testing.assert_allclose(found["multipliers"], plan.multipliers)
    np.testing.assert_allclose(ts.load_plan(out).alpha, plan.alpha)
    assert found["warnings"] == list(plan.warnings)
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
    alone = run("evaluate", "phantom", data, "--split", "all", "--json").document
    assert alone["affirmative"] == scores["before"]["affirmative"]


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


COMMANDS = ["demo", "info", "trace", "plot", "prescribe", "finetune", "evaluate", "build phantom"]


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


# -- bad input ------------------------------------------------------------


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
    refused(run("demo", "--quick", "--out", tmp_path), "not a demo's folder")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["plan.txt", "plan"])
def test_an_ending_that_means_nothing(run: Run, traced: Path, tmp_path: Path, name: str) -> None:
    refused(run("plot", traced, "-o", tmp_path / name), ".pdf")
    refused(run("prescribe", traced, "-o", tmp_path / name), ".json")


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


def test_a_pair_of_many_is_not_guessed(run: Run, data: Path, tmp_path: Path) -> None:
    image = str(next((data / "images").glob("*.png")))
    (tmp_path / "pairs.jsonl").write_text(f"{line(id='x', image=image)}\n{line(id='x', image=image)}\n")
    assert run("trace", "phantom", tmp_path / "pairs.jsonl", "-o", tmp_path / "t.safetensors").code == 0
    for kind in ("heatmap", "profile"):
        done = run("plot", tmp_path / "t.safetensors", "-o", tmp_path / "o.pdf", "--pair", "x", "--kind", kind)
        refused(done, "2 pairs")


def test_folders_are_checked_before_training_and_not_made(run: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    huge = ("--steps", 10**9)  # would not end
    refused(run("finetune", "phantom", data, "-o", tmp_path / "thesis", *huge), "not a run of ours")
    refused(run("finetune", "nope", data, "-o", tmp_path / "deep" / "er" / "run"), "nope")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_a_folder_without_data(run: Run, tmp_path: Path) -> None:
    refused(run("finetune", "phantom", tmp_path, "-o", tmp_path / "run"), "captions.jsonl")
    refused(run("evaluate", "phantom", tmp_path), "mcq.jsonl")


def test_a_folder_that_is_no_run(run: Run, data: Path, tmp_path: Path) -> None:
    refused(run("evaluate", "phantom", data, "--run", tmp_path, "--split", "all"), "not a run")


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
        (("--heads", "first", "--site", "z"), "--heads 'first'"),
        (("--heads", "9", "--site", "z"), "no head 9"),
        (("--positions", "ends"), "unknown positions 'ends'"),
        (("--steps", "3"), "steps= has no meaning with method='exact'"),
    ):
        done = run(*common, *bad)
        assert done.code == 2 and reason in done.err and not out.exists()

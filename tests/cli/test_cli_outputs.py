"""Where the commands write: nobody's files are replaced, impossible places are refused early, results are shown."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Run, refused

from tracescribe.cli import main

SIZES = ("--steps", 1, "--batch-size", 2)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def commands(data: Path, traced: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    """Every command that writes, up to the name of its output, and the ending that this needs."""
    return {
        "build": (("build", "phantom", "-n", 1), ""),
        "demo": (("demo", "--quick", "--out"), ""),
        "finetune": (("finetune", "phantom", data, "--steps", 10**9, "-o"), ""),  # would not end
        "trace": (("trace", "phantom", data / "pairs.jsonl", "-o"), ".safetensors"),
        "plot": (("plot", traced, "-o"), ".pdf"),
        "report": (("report", traced, "-o"), ".html"),
        "prescribe": (("prescribe", traced, "-o"), ".json"),
    }


COMMANDS = ("build", "demo", "finetune", "trace", "plot", "report", "prescribe")
FOLDERS = ("build", "demo", "finetune")


@pytest.mark.parametrize("command", COMMANDS)
def test_impossible_outputs_are_refused_before_the_work(
    run: Run, data: Path, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words, suffix = commands(data, traced)[command]
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"dangling{suffix}").symlink_to("nowhere")
    (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    names = [f"dangling{suffix}", f"loop{suffix}", "x" * 300 + suffix, f"file/out{suffix}", f"a\0b{suffix}"]
    for name in [*names, *(["."] if command in FOLDERS else [])]:
        done = run(*words, name)
        refused(done, *([] if "\0" in name else ["cannot write"]))  # typer finds NUL itself
        assert len(done.err) < 1000
        assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["", "overwrite"])
def test_the_data_set_and_the_notes_in_it_are_not_replaced(
    run: Run, data: Path, traced: Path, tmp_path: Path, command: str, overwrite: tuple[str, ...]
) -> None:
    words, _ = commands(data, traced)[command]
    assert run("build", "phantom", tmp_path / "data", "-n", 2).code == 0
    (tmp_path / "data" / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    refused(run(*words, tmp_path / "data", *overwrite), "data")
    refused(run("finetune", "phantom", tmp_path / "data", "-o", tmp_path / "data", *overwrite), "give another name")
    assert everything(tmp_path) == before


def test_a_run_is_replaced_when_asked_and_its_configuration_is_read_back(run: Run, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = ("finetune", "phantom", data, "-o", folder, *SIZES, "--rank", 16)
    assert run(*first).code == 0
    before = everything(folder)
    refused(run(*first), "--overwrite")
    assert everything(folder) == before
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["rank"], settings["lora_alpha"], settings["steps"]) == (16, 32, 1)
    again = tmp_path / "again"
    assert run("finetune", folder / "config.json", "-o", again, "seed=1").code == 0
    told = json.loads((again / "config.json").read_text())
    assert told == settings | {"seed": 1}
    assert run(*first, "--overwrite", "--seed", 1).code == 0
    assert json.loads((folder / "config.json").read_text())["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "run"]


def test_a_finished_run_that_is_resumed_is_left_as_it_is(run: Run, data: Path, tmp_path: Path) -> None:
    """A process may be killed after its run was saved: the queue that starts it again must find nothing to do."""
    words = ("finetune", "phantom", data, "-o", tmp_path / "run", *SIZES, "--resume")
    assert run(*words).code == 0
    before = everything(tmp_path)
    done = run(*words, "--json")
    assert done.code == 0 and done.document["finished"] is True
    refused(run(*words, "--seed", 1), "--overwrite")
    assert everything(tmp_path) == before


def test_a_plan_that_would_not_be_used_is_refused(run: Run, data: Path, traced: Path, tmp_path: Path) -> None:
    assert run("prescribe", traced, "-o", tmp_path / "plan.json").code == 0
    options = ("--plan", tmp_path / "plan.json", "--weighting", "uniform")
    refused(run("finetune", "phantom", data, "-o", tmp_path / "run", *options), "would not be used")


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "phantom", "set", "-n", "9" * 5000),
        ("build", "phantom", "set", "-n", "9" * 300),
        ("build", "phantom", "set", "-n", "1", "--seed", 2**64),
        ("demo", "--seed", "9" * 5000),
        ("evaluate", "phantom", "DATA", "--seed", "9" * 5000),
        ("finetune", "phantom", "DATA", "-o", "set", "--rank", 10**11),
        ("finetune", "phantom", "DATA", "-o", "set", "--steps", "9" * 5000),
        ("finetune", "phantom", "DATA", "-o", "set", "--lr", "9" * 5000),
        ("finetune", "phantom", "DATA", "-o", "set", "--lr", "nan"),
        ("finetune", "phantom", "x" * 5000, "-o", "set"),
        ("plot", "x" * 5000, "-o", "set.pdf"),
        ("x" * 5000,),
    ],
    ids=lambda arguments: " ".join(str(word)[:10] for word in arguments),
)
def test_endless_numbers_and_names_are_one_short_sentence(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*(data if word == "DATA" else word for word in arguments))
    refused(done)
    assert len(done.err) < 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("as_json", [False, True])
def test_redirected_output_is_written_in_any_encoding(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, as_json: bool
) -> None:
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding=encoding))
    place = tmp_path / "plan → 1.json"
    with pytest.raises(SystemExit) as leaving:
        main(["prescribe", str(traced), "-o", str(place), *(["--json"] if as_json else [])])
    sys.stdout.flush()
    assert leaving.value.code == 0
    assert place.is_file()
    text = out.getvalue().decode(encoding)
    if as_json:
        assert json.loads(text)["output"] == str(place)
    else:
        assert "plan → 1.json" in text if encoding == "utf-8" else "plan -> 1.json" in text
        assert ("█" if encoding == "utf-8" else "#####") in text
    with pytest.raises(SystemExit) as leaving:
        main(["prescribe", str(tmp_path / "nein → nö.safetensors"), "-o", str(place)])
    sys.stderr.flush()
    assert leaving.value.code == 2 and b"Traceback" not in err.getvalue()


def test_closed_streams_lose_no_result(traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        place = tmp_path / f"{name}.json"
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, None)  # as Python starts when the descriptor is closed
            with pytest.raises(SystemExit) as leaving:
                main(["prescribe", str(traced), "-o", str(place)])
        assert leaving.value.code == 0
        assert place.is_file()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "> /dev/full", "2> /dev/full"])
def test_closed_and_full_streams_of_a_real_process(tmp_path: Path, redirection: str) -> None:
    command = f"{sys.executable} -m tracescribe --version {redirection}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.returncode == (2 if redirection == "> /dev/full" else 0)
    if redirection == "> /dev/full":
        assert done.stderr == "tracescribe: No space left on device\n" or "No space left" in done.stderr


def test_bad_input_ends_with_its_code_also_where_stderr_is_full() -> None:
    command = f"{sys.executable} -m tracescribe info nosuch 2> /dev/full"
    assert subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False).returncode == 2


def test_a_current_folder_that_was_deleted_is_said(tmp_path: Path) -> None:
    """oneMKL would end the process with a sentence about itself."""
    (tmp_path / "gone").mkdir()
    command = f"cd gone && rmdir ../gone && {sys.executable} -m tracescribe info phantom"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tracescribe: the current folder has been deleted: change to another one (cd)\n"


def test_finetune_reads_a_yaml_file_with_changes(run: Run, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"data: {{captions: {data}/captions.jsonl, claims: {data}/claims.jsonl}}\nschedule: {{steps: 9}}\n")
    printed = run("finetune", file, "optim.batch_size=2", "steps=1", "--rank", 3, "--print-config")
    assert printed.code == 0 and printed.err == ""
    assert not (tmp_path / "run").exists()
    (tmp_path / "printed.yaml").write_text(printed.out)
    assert run("finetune", tmp_path / "printed.yaml", "-o", tmp_path / "run").code == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (settings["steps"], settings["batch_size"], settings["rank"], settings["lora_alpha"]) == (1, 2, 3, 6)
    refused(run("finetune", file, "optim.learning=2", "-o", tmp_path / "x"), "no option 'optim.learning'")
    refused(run("finetune", file, "optim.lrr=2", "-o", tmp_path / "x"), "did you mean 'optim.lr'")
    refused(run("finetune", file, "lr=fast", "-o", tmp_path / "x"), "field 'optim.lr'")
    for device in ("cpu", "cuda:1"):  # the command's option comes before the file's, also where it is the default
        (tmp_path / "gpu.yaml").write_text("model: {device: cuda}\n")
        printed = run("finetune", tmp_path / "gpu.yaml", "--device", device, "--print-config")
        assert f"device: {device}\n" in printed.out
    refused(run("finetune", file), "say where the run goes")
    refused(run("finetune", "phantom", "-o", tmp_path / "x"), "expected a model and a data folder")
    file.write_text("modle: phantom\n")
    refused(run("finetune", file, "-o", tmp_path / "x"), "did you mean 'model'")


def test_an_interrupted_finetune_goes_on(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracescribe.finetune.training.progress import Progress

    options = ("finetune", "phantom", data, "--steps", 3, "--batch-size", 2)
    assert run(*options, "-o", tmp_path / "whole").code == 0
    step = Progress.step

    def interrupted(self: Progress, batches: object) -> tuple[float, float, float]:
        if self.done == 2:
            raise KeyboardInterrupt
        return step(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Progress, "step", interrupted)
    stopped = run(*options, "-o", tmp_path / "run")
    assert stopped.code == 130 and "--resume goes on" in stopped.err
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.checkpoint", "whole"]
    refused(run(*options, "-o", tmp_path / "run"), "--resume")
    assert run(*options, "-o", tmp_path / "run", "--resume").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]
    for name in ("adapter/adapter_model.safetensors", "log.csv", "config.json", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

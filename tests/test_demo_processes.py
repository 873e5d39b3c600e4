"""The demo's arms in processes of their own: the same numbers, and nothing left when one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import tracescribe as ts
from tracescribe.benchmark import embed_images, evaluate
from tracescribe.benchmark.phantom import build_phantom
from tracescribe.demo import arms
from tracescribe.finetune.training.data import training_data

FORMATS = {"demo": "tracescribe.demo/1", "finetune": "tracescribe.run/2", "build": "tracescribe.phantom/1"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[arms.Task]:
    model = ts.load("phantom")
    data = build_phantom(tmp_path_factory.mktemp("demo") / "data", 60, 0)
    trace = ts.trace(model, ts.read_pairs(data / "pairs.jsonl")[:30], progress=False)
    images = embed_images(model, data, split="test")
    before = evaluate(model, data, image_embeddings=images)
    batches = training_data(model, data / "captions.jsonl", data / "claims.jsonl")
    task = arms.Task(arms.ARMS[0], 0, ts.prescribe(trace), batches, 2, data, 0, images, before)
    return [replace(task, arm=arm, run_seed=seed) for arm, seed in arms.schedule(1, 0)]


def numbers(run: arms.Run) -> tuple[object, ...]:
    return run.name, run.seed, run.top3, run.scores.to_dict()


@pytest.mark.slow
def test_arms_beside_each_other_give_the_same_numbers(tasks: list[arms.Task]) -> None:
    alone, beside = arms.run_arms(tasks, 1, lambda done: None), arms.run_arms(tasks, 2, lambda done: None)
    assert [numbers(run) for run in beside] == [numbers(run) for run in alone]


def running_in_group(group: int) -> list[str]:
    """Commands of the processes of a group that run; one that has ended may wait for long to be reaped by init."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_of_a_demo_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracescribe", "demo", "--out", "demo"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    said = ""
    while not said.endswith("fine-tuning\n"):
        line = process.stderr.readline()
        assert line, said  # it ended before
        said += line
    time.sleep(5)  # the processes of the arms are running
    os.killpg(process.pid, signal.SIGINT)
    said += process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while running_in_group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert running_in_group(process.pid) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "finetune", "demo"])
def test_commands_killed_at_random_moments_leave_the_old_or_the_new_result(tmp_path: Path, command: str) -> None:
    from random import Random

    from tracescribe.io.folders import read_folder

    data = build_phantom(tmp_path / "data", 40, 0)
    words = {
        "build": ["build", "phantom", "out", "-n", "150"],
        "finetune": ["finetune", "phantom", str(data), "--steps", "2", "--batch-size", "2", "-o", "out"],
        "demo": ["demo", "--quick", "--out", "out"],
    }[command]
    (tmp_path / "place").mkdir()
    start = [sys.executable, "-m", "tracescribe", *words, "--overwrite", "--json"]
    began = time.monotonic()
    subprocess.run(start, cwd=tmp_path / "place", check=True, capture_output=True)
    seconds, chance = time.monotonic() - began, Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            start, cwd=tmp_path / "place", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(0.3, 1.05) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert read_folder(tmp_path / "place" / "out", FORMATS[command]).sha256
    subprocess.run(start, cwd=tmp_path / "place", check=True, capture_output=True)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["out"]

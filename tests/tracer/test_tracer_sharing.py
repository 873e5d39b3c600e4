"""Several processes share one trace, as accelerate starts them; the result is one process's, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import accelerate_launch, environment, free_port, rank_of_two

SEVERITIES = ("severe", "mild", "small", "moderate")
FINDINGS = ("opacity", "effusion", "edema", "nodule", "pneumothorax")
OUTPUT = "trace.safetensors"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for finding in FINDINGS:
            for severity in SEVERITIES:
                captions = {"correct": f"There is no {finding}.", "foil": f"There is {severity} {finding}."}
                file.write(json.dumps({**captions, "image": {"text": "The lungs are clear."}}) + "\n")
    return path


def command(pairs: Path, output: Path, cache: Path | None = None, batch: int = 2) -> list[str]:
    options = ["--batch-size", str(batch), *([] if cache is None else ["--cache", str(cache)])]
    return ["-m", "tracescribe", "trace", "phantom", str(pairs), "-o", str(output), "--json", *options]


def alone(pairs: Path, folder: Path) -> bytes:
    done = subprocess.run(
        [sys.executable, *command(pairs, folder / "alone.safetensors")], env=environment(), check=True
    )
    assert done.returncode == 0
    return (folder / "alone.safetensors").read_bytes()


@pytest.mark.slow
def test_accelerate_launch_gives_the_file_of_one_process(pairs: Path, tmp_path: Path) -> None:
    done = accelerate_launch(command(pairs, tmp_path / OUTPUT, tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_pairs"] == 20  # one document: the other process says nothing
    assert (tmp_path / OUTPUT).read_bytes() == alone(pairs, tmp_path)


@pytest.mark.slow
def test_a_killed_process_and_a_second_launch_give_the_file_of_one_process(pairs: Path, tmp_path: Path) -> None:
    def start(rank: int, port: int) -> subprocess.Popen[str]:
        arguments = command(pairs, tmp_path / OUTPUT, tmp_path / "cache", batch=1)
        return subprocess.Popen([sys.executable, *arguments], env=rank_of_two(rank, port), text=True)

    shards = tmp_path / "cache" / "shards"
    port = free_port()
    first = [start(rank, port) for rank in (0, 1)]
    deadline = time.monotonic() + 300
    while len(list(shards.glob("*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    first[1].kill()
    first[1].wait()
    first[0].kill()  # as the launcher does with the others; it would wait for the dead one
    first[0].wait()
    finished = {path.name: path.read_bytes() for path in shards.glob("*.safetensors")}
    assert len(finished) >= 3
    assert not (tmp_path / OUTPUT).exists()
    port = free_port()
    second = [start(rank, port) for rank in (0, 1)]
    assert [process.wait(timeout=600) for process in second] == [0, 0]
    for name, content in finished.items():
        assert (shards / name).read_bytes() == content
    one = tmp_path / "one.safetensors"
    subprocess.run([sys.executable, *command(pairs, one, batch=1)], env=environment(), check=True)
    assert (tmp_path / OUTPUT).read_bytes() == one.read_bytes()


def test_without_a_launch_accelerate_is_not_imported() -> None:
    code = """
import sys
from tracescribe.tracer.run.workers import team
with team("cpu") as alone:
    assert alone.share == (0, 1) and alone.is_main and alone.device == "cpu"
    alone.wait()
assert "accelerate" not in sys.modules and "torch" not in sys.modules
"""
    environ = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)

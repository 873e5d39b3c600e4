"""Several processes share one trace, as accelerate starts them; the result is one process's, byte for byte."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def environment(**more: str) -> dict[str, str]:
    # one thread, since another number sums in another order; one date, since the file holds when it was made
    return {**os.environ, "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "0", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def alone(pairs: Path, folder: Path) -> bytes:
    done = subprocess.run(
        [sys.executable, *command(pairs, folder / "alone.safetensors")], env=environment(), check=True
    )
    assert done.returncode == 0
    return (folder / "alone.safetensors").read_bytes()


@pytest.mark.slow
def test_accelerate_launch_gives_the_file_of_one_process(pairs: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(free_port())]
    done = subprocess.run(
        [*launch, *command(pairs, tmp_path / OUTPUT, tmp_path / "cache")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_pairs"] == 20  # one document: the other process says nothing
    assert (tmp_path / OUTPUT).read_bytes() == alone(pairs, tmp_path)


@pytest.mark.slow
def test_a_killed_process_and_a_second_launch_give_the_file_of_one_process(pairs: Path, tmp_path: Path) -> None:
    def start(rank: int, port: int) -> subprocess.Popen[str]:
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        arguments = command(pairs, tmp_path / OUTPUT, tmp_path / "cache", batch=1)
        return subprocess.Popen([sys.executable, *arguments], env=environment(**rendezvous, **ranks), text=True)

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

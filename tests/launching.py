"""Several processes of one launch, on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def environment(**more: str) -> dict[str, str]:
    # one thread, since another number sums in another order; one date, since the file holds when it was made
    return {**os.environ, "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "0", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_of_two(rank: int, port: int) -> dict[str, str]:
    """The environment of one of two processes, as a launcher sets it."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return environment(**rendezvous, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")


def accelerate_launch(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a Python file or ``-m`` module with its arguments in two processes."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(free_port())]
    return subprocess.run(
        [*launch, *command], env=environment(), capture_output=True, text=True, check=False, timeout=600
    )

"""Tasks in other processes: the same results, and what a killed process leaves is done here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tracescribe.processes import run_beside


def doubled_unless_killed(task: tuple[int, int]) -> tuple[int, int]:
    """Twice the number and where it was done; 3 kills the process, if it is not the one that is named."""
    number, home = task
    if number == 3 and os.getpid() != home:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number, os.getpid()


def refuse(task: int) -> int:
    raise ValueError(f"no {task}")


def test_a_killed_process_is_replaced_by_this_one() -> None:
    found = dict(run_beside(doubled_unless_killed, [(number, os.getpid()) for number in range(6)], processes=2))
    assert [found[index][0] for index in range(6)] == [0, 2, 4, 6, 8, 10]
    assert found[3][1] == os.getpid()


def test_tasks_are_done_beside_each_other() -> None:
    found = dict(run_beside(doubled_unless_killed, [(1, 0), (2, 0)], processes=2))
    assert {index: value for index, (value, _) in found.items()} == {0: 2, 1: 4}
    assert os.getpid() not in {place for _, place in found.values()}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_task_is_raised_here(processes: int) -> None:
    with pytest.raises(ValueError, match="no 7"):
        list(run_beside(refuse, [7, 7], processes))


LONG = """
import sys, time
from concurrent.futures import process
from tracescribe.processes import run_beside

def wait(task):
    time.sleep(60)

class SlowWakeup(process._ThreadWakeup):
    def wakeup(self):  # on a busy machine this long may pass between the check and the write
        if not self._closed:
            time.sleep(float(sys.argv[1]))
            self._writer.send_bytes(b"")

if __name__ == "__main__":
    if float(sys.argv[1]):
        process._ThreadWakeup = SlowWakeup
    try:
        print("starting", flush=True)
        list(run_beside(wait, [bytes(10**6)] * 4, 2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("slow", [0.0, 0.3], ids=["", "slow"])
@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_ctrl_c_while_processes_start_ends_all_without_a_traceback(tmp_path: Path, after: float, slow: float) -> None:
    """A terminal sends it to every process, whatever each of them is doing."""
    (tmp_path / "script.py").write_text(LONG)
    process = subprocess.Popen(
        [sys.executable, "script.py", str(slow)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "starting\n"
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]  # ends when no process holds the pipe any more
    assert (process.returncode, said) == (130, "")

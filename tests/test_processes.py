"""Tasks in other processes: the same results, and what a killed process leaves is done here."""

from __future__ import annotations

import os
import signal

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

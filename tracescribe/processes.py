"""Runs tasks in a few processes that end with the one that started them; and which of several launched this one is."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def is_first() -> bool:
    """Whether this process is the one that writes: the first of those that a launcher started, or the only one."""
    return int(os.environ.get("RANK") or 0) == 0


def run_beside(function: Callable[[T], R], tasks: Sequence[T], processes: int = 1) -> Iterator[tuple[int, R]]:
    """Yield ``(index, function(task))`` as tasks end; in this process where ``processes`` is 1.

    Where a process is killed, what is missing is done in this one. Workers are ended with this process, and when the
    iteration stops early. A script that uses several processes must do so under ``if __name__ == "__main__"``.

    >>> sorted(run_beside(abs, [-1, 2]))
    [(0, 1), (1, 2)]
    """
    done: set[int] = set()
    if processes > 1 and len(tasks) > 1:
        try:
            for index, result in _by_workers(function, tasks, min(processes, len(tasks))):
                done.add(index)
                yield index, result
        except BrokenProcessPool:
            logger.warning("a worker process was killed (too little memory?); going on in one process")
    for index, task in enumerate(tasks):
        if index not in done:
            yield index, function(task)


def _by_workers(function: Callable[[T], R], tasks: Sequence[T], processes: int) -> Iterator[tuple[int, R]]:
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_leave_interrupts_to_the_parent)
    try:
        # as bytes: torch would hand tensors over in shared memory, of which containers often have too little
        futures = {pool.submit(_call, pickle.dumps((function, task))): index for index, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:  # GeneratorExit too
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    pool.shutdown()


def _call(packed: bytes) -> Any:
    function, task = pickle.loads(packed)
    return function(task)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

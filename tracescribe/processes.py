"""Runs tasks in a few processes that end with the one that started them; and which of several launched this one is."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
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
        packed = [pickle.dumps((function, task)) for task in tasks]
        with _interrupts_held():  # workers start here
            futures = {pool.submit(_call, task): index for index, task in enumerate(packed)}
        del packed  # the pool frees each when it is done
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:  # GeneratorExit too
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        # the pool's thread ends here: one that ended beside the interpreter would make it print errors
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block has ended, and never reaches the processes that are started in it.

    A terminal sends it to all processes. A worker that is still importing would die of it with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    waiting: list[Any] = []
    usual = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread() and callable(usual)
    if is_main:  # the mask is this thread's, and the system may hand the signal to another one
        signal.signal(signal.SIGINT, lambda *given: waiting.append(given))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the workers inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if is_main:
            signal.signal(signal.SIGINT, usual)
    if waiting and callable(usual):
        usual(*waiting[0])


def _call(packed: bytes) -> Any:
    function, task = pickle.loads(packed)
    return function(task)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

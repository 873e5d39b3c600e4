"""The demo's fine-tuning runs (weighted training and its controls), one thread each, two at a time."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..threads import threads
from .result import Run

if TYPE_CHECKING:
    from ..benchmark import Evaluation
    from ..finetune import Prescription
    from ..finetune.training.data import TrainingData
    from ..patching import DualEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    name: str
    weighting: Literal["uniform", "lr", "update", "gradient"]


ARMS = (Arm("uniform", "uniform"), Arm("NAST", "update"), Arm("permuted", "update"))
# The paper's own formula once: under AdamW it can hardly do anything, and one run shows that.
GRADIENT = Arm("gradient scaling", "gradient")


@dataclass(frozen=True, eq=False)
class Task:
    """One run of one arm, with all that it needs: a process takes nothing else from the one that started it.

    source, images, before: what the tuned model is scored on, beside the untrained one. keep: where the run is saved.
    """

    arm: Arm
    run_seed: int
    plan: Prescription
    data: TrainingData
    steps: int
    source: Path
    seed: int
    images: dict[str, Any]
    before: Evaluation
    keep: Path | None = None


def schedule(seeds: int, first: int) -> list[tuple[Arm, int]]:
    """What is trained, every seed of one before the next.

    >>> [f"{arm.name} {seed}" for arm, seed in schedule(1, 7)]
    ['uniform 7', 'NAST 7', 'permuted 7', 'gradient scaling 7']
    """
    return [*((arm, seed) for seed in range(first, first + seeds) for arm in ARMS), (GRADIENT, first)]


def run_arms(tasks: Sequence[Task], processes: int, notify: Callable[[int], None]) -> tuple[Run, ...]:
    """The runs in the order of ``tasks``, whatever ``processes`` is; ``notify`` hears how many are done."""
    done: dict[int, Run] = {}
    notify(0)
    if processes > 1:
        try:
            _run_beside(tasks, processes, done, notify)
        except BrokenProcessPool:
            logger.warning("a process that fine-tuned was killed (too little memory?); going on in one process")
    for index, task in enumerate(tasks):
        if index not in done:
            done[index] = run_arm(task)
            notify(len(done))
    return tuple(done[index] for index in range(len(tasks)))


def run_arm(task: Task) -> Run:
    """Fine-tune the miniature by one arm, and score it."""
    import warnings

    from ..benchmark import evaluate
    from ..finetune import ScaleInvariantOptimizerWarning, TrainConfig, train, update_share

    used = task.plan.permuted(task.run_seed) if task.arm.name == "permuted" else task.plan
    config = TrainConfig(
        weighting=task.arm.weighting,
        plan=None if task.arm.weighting == "uniform" else used,
        steps=task.steps,
        seed=task.run_seed,
        split=None,
    )
    model = _miniature()
    with threads(1):
        with warnings.catch_warnings():  # the demo says what the warning says, with numbers
            warnings.simplefilter("ignore", ScaleInvariantOptimizerWarning)
            result = train(config, model, data=task.data)
        scores = evaluate(result.model, task.source, seed=task.seed, image_embeddings=task.images, before=task.before)
        share = update_share(model.source, result.source, task.plan)
        if task.keep is not None:
            result.save(task.keep)
    return Run(task.arm.name, task.arm.weighting, task.run_seed, scores, 100 * share.top(3), result.seconds)


def _run_beside(tasks: Sequence[Task], processes: int, done: dict[int, Run], notify: Callable[[int], None]) -> None:
    """Fill ``done`` by worker processes; they end with this one, and when it is stopped."""
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_leave_interrupts_to_the_parent)
    try:
        # as bytes: torch would hand tensors over in shared memory, of which containers often have too little
        futures = {pool.submit(_run_packed, pickle.dumps(task)): index for index, task in enumerate(tasks)}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            notify(len(done))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    pool.shutdown()


def _run_packed(task: bytes) -> Run:
    return run_arm(pickle.loads(task))


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@cache
def _miniature() -> DualEncoder:
    from ..patching import load

    return load("phantom")

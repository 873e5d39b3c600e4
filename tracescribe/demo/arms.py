"""The demo's fine-tuning runs (weighted training and its controls), one thread each, two at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..processes import run_beside
from ..threads import threads
from .result import Run

if TYPE_CHECKING:
    from ..benchmark import Evaluation
    from ..finetune import Prescription
    from ..finetune.training.data import TrainingData
    from ..patching import DualEncoder


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
    for index, run in run_beside(run_arm, tasks, processes):
        done[index] = run
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
            result = train(config, model, data=task.data, progress=False)
        scores = evaluate(result.model, task.source, seed=task.seed, image_embeddings=task.images, before=task.before)
        share = update_share(model.source, result.source, task.plan)
        if task.keep is not None:
            result.save(task.keep)
    return Run(task.arm.name, task.arm.weighting, task.run_seed, scores, 100 * share.top(3), result.seconds)


@cache
def _miniature() -> DualEncoder:
    from ..patching import load

    return load("phantom")

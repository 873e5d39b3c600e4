"""The result of the demo: its sizes, its runs, its traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..benchmark import Evaluation
    from ..finetune import Prescription
    from ..tracer import CausalTrace, Excess, TraceComparison


@dataclass(frozen=True)
class Sizes:
    """How much the demo does: films in all (their test split is what is scored), optimiser steps, seeds."""

    films: int = 2000
    steps: int = 150
    seeds: int = 2


QUICK = Sizes(films=80, steps=4, seeds=1)


@dataclass(frozen=True)
class Run:
    """One fine-tuning run: which layers it favoured, and what became of the model."""

    name: str
    weighting: str
    seed: int
    scores: Evaluation
    top3: float  # share of the update in the three blocks of highest CTE, percent
    seconds: float


@dataclass(frozen=True)
class Film:
    """A phantom film to look at: a PNG, and what its caption says."""

    png: bytes
    caption: str


@dataclass(frozen=True, eq=False)
class DemoResult:
    """Everything the demo found; `tracescribe.demo.verdicts` says it in words."""

    before: Evaluation
    runs: tuple[Run, ...]
    plan: Prescription
    trace: CausalTrace  # negation pairs, before training
    control: CausalTrace  # swaps without negation, before training
    after: CausalTrace  # the negation pairs after the first weighted run
    negated: tuple[str, ...]  # of each negation pair: which caption is the negated one, "correct" or "foil"
    films: tuple[Film, ...]
    sizes: Sizes
    seed: int
    seconds: float
    files: tuple[str, ...]

    @property
    def excess(self) -> Excess:
        """CTE of negation over CTE of the control swaps."""
        return self.trace.control(self.control)

    @property
    def retraced(self) -> TraceComparison:
        """The negation pairs after training against the same pairs before."""
        from ..tracer import compare

        return compare(self.trace, self.after, names=("before", "after"), seed=self.seed)

    def of(self, name: str) -> tuple[Run, ...]:
        """The runs of one way of training, one a seed."""
        return tuple(run for run in self.runs if run.name == name)

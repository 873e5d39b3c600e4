# ruff: noqa: RUF009 (`option` makes a dataclass field)
"""The options of faithfulness curves and circuits, each declared once: default, allowed values, meaning, and flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ...validation import MAX_DRAWS, Choice, Nothing, Number, Whole, Wholes
from ..choices import ALIGNMENTS, REDUCTIONS, SEGMENTS, CircuitMethod
from ..results.metric_options import CandidateList
from .options import Declared, option

__all__ = ["CircuitOptions", "FaithfulnessOptions"]


@dataclass(frozen=True, kw_only=True)
class JointOptions(Declared):
    """What both share: which map's cells are patched together, and in which pairs."""

    align: str = option("role", Choice(ALIGNMENTS), help="What a row of the map is.")
    reduce: str = option("ratio_of_means", Choice(REDUCTIONS), help="How pairs are combined.")
    segment: str | None = option(
        None, Nothing(), Choice(SEGMENTS), help="Which pairs enter; those that the model gets right by default."
    )
    layers: Sequence[int] | None = option(
        None, Nothing(), Wholes(Whole(0)), help="Layers whose cells count; all by default."
    )
    among: Any = option(
        None,
        Nothing(),
        CandidateList(),
        help="The candidates that the trace was scored among, given again: a .txt or .jsonl file as of trace "
        "--candidates.",
    )
    seed: int = option(0, Whole(0), help="Seed of random orders, of intervals, and of the sets that are checked.")


@dataclass(frozen=True, kw_only=True)
class FaithfulnessOptions(JointOptions):
    """The options of :func:`tracescribe.faithfulness`, which says what each means.

    >>> FaithfulnessOptions(sizes=1)
    Traceback (most recent call last):
    tracescribe.errors.TraceError: sizes must be a whole number from 2 to 10000 or a list of whole numbers >= 0, not 1
    """

    sizes: int | Sequence[int] = option(
        20, Whole(2, 10_000), Wholes(Whole(0)), help="Numbers of cells patched together, or how many such numbers."
    )
    random: int = option(3, Whole(0, 1000), help="Random orders to compare with.")


@dataclass(frozen=True, kw_only=True)
class CircuitOptions(JointOptions):
    """The options of :func:`tracescribe.circuit`, which says what each means."""

    share: float = option(0.9, Number(1e-9), help="CTE that the cells must reach together.")
    method: CircuitMethod = option(
        "greedy", Choice(get_args(CircuitMethod)), help="Cell by cell what adds most, or the first of the map's order."
    )
    candidates: int = option(32, Whole(1), help="Cells that greedy chooses among, the first of the map's order.")
    ci: float | None = option(0.95, Nothing(), Number(1e-6, 1 - 1e-6), help="Level of the interval.")
    n_boot: int = option(1000, Whole(0, MAX_DRAWS), help="Draws of the bootstrap.")

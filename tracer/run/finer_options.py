# ruff: noqa: RUF009 (`option` makes a dataclass field)
"""The options of analyses of finer cells, each declared once: default, allowed values, meaning, and flag."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...validation import Choice, Nothing, Texts, Whole
from ..choices import ALIGNMENTS, SEGMENTS, Inputs, RowKind
from ..pairs.negation import NEGATORS
from .joint_options import CircuitOptions
from .options import Declared, TraceOptions, option

if TYPE_CHECKING:
    import torch

    from ...patching import PatchPath
    from ..pairs.directions import Direction
    from .options import Positions

__all__ = ["HeadEdgeOptions", "KnockOutOptions", "NegatorAttentionOptions", "NeuronOptions"]


def _as_traced(name: str, kind: type[Declared] = TraceOptions) -> Any:
    """A field of options that is one of a trace's, or of another kind."""
    declared = kind.__dataclass_fields__[name]
    return field(default=declared.default, metadata={**declared.metadata, "needs": None})


@dataclass(frozen=True, kw_only=True)
class FinerOptions(Declared):
    """What analyses of patches share."""

    direction: Direction = _as_traced("direction")
    batch_size: int | Literal["auto"] = _as_traced("batch_size")
    dtype: torch.dtype | str | None = _as_traced("dtype")
    floor: float | None = _as_traced("floor")
    seed: int = option(0, Whole(0), help="Seed of cells that are drawn, and of those that are checked.")

    def trace_options(self, **more: Any) -> TraceOptions:
        """Options of a trace with what both have, and more."""
        return TraceOptions(**{name: getattr(self, name) for name in FinerOptions.__dataclass_fields__}, **more)


def _segment() -> Any:
    return option(
        None, Nothing(), Choice(SEGMENTS), help="Which pairs enter; those that the model gets right by default."
    )


@dataclass(frozen=True, kw_only=True)
class NeuronOptions(FinerOptions):
    """The options of :func:`tracescribe.neurons`, which says what each means.

    >>> NeuronOptions(top=0)
    Traceback (most recent call last):
    tracescribe.errors.TraceError: top must be a whole number from 1 to 100000, not 0
    """

    top: int = option(50, Whole(1, 100_000), help="Cells that are replaced, those with the largest estimates.")
    others: int = option(20, Whole(0, 100_000), help="Further cells that are replaced, drawn at random.")
    positions: Positions | None = _as_traced("positions")
    align: str = option("role", Choice(ALIGNMENTS), help="What a row of the map is.")
    segment: str | None = _segment()
    steps: int = option(1, Whole(1), help="Gradients between both captions that are averaged.")


@dataclass(frozen=True, kw_only=True)
class HeadEdgeOptions(FinerOptions):
    """The options of :func:`tracescribe.head_edges`, which says what each means."""

    inputs: Inputs = option(
        "qkv", Choice(get_args(Inputs)), help="Which inputs of the receiving head take the changed state."
    )
    segment: str | None = _segment()
    path: PatchPath = _as_traced("path")


@dataclass(frozen=True, kw_only=True)
class KnockOutOptions(FinerOptions):
    """The options of :func:`tracescribe.knock_out`, which says what each means."""

    align: RowKind = option(
        "role", Choice(get_args(RowKind)), help="What a row of queries is: a role, or a token number."
    )
    heads: int | None = option(None, Nothing(), Whole(0), help="One head; all of them by default.")
    window: int = _as_traced("window")
    path: PatchPath = _as_traced("path")


@dataclass(frozen=True, kw_only=True)
class NegatorAttentionOptions(Declared):
    """The options of :func:`tracescribe.negator_attention`, which says what each means.

    >>> NegatorAttentionOptions(negators="no")
    Traceback (most recent call last):
    tracescribe.errors.TraceError: negators must be a list of words or phrases, not 'no'
    """

    negators: Collection[str] = option(
        NEGATORS,
        Texts("words or phrases", any_order=True),
        help="Words and phrases that negate: of the tokens in which two captions differ, the one that belongs to one.",
    )
    ci: float | None = _as_traced("ci", CircuitOptions)
    n_boot: int = _as_traced("n_boot", CircuitOptions)
    seed: int = option(0, Whole(0), help="Seed of the draws.")

"""Checks of results that keep the effect of every pair: what enters, and numbers that differences of cosines can be."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ...errors import TraceError
from .trace_file import ROUNDING

__all__ = ["check_effects", "check_pairs", "check_shapes"]

_MOST = 2 * (1 + ROUNDING)  # of a difference of two cosines


def check_shapes(owner: Any, **shapes: tuple[int, ...]) -> None:
    """Refuse arrays of other shapes than the result's other fields ask for.

    Raises:
        TraceError: names the first array.
    """
    for name, expected in shapes.items():
        found = getattr(owner, name).shape
        if found != expected:
            raise TraceError(f"{type(owner).__name__}.{name} has shape {found}, expected {expected}")


def check_pairs(owner: Any) -> None:
    """Refuse denominators that no CTE can have, and labels of pairs that are not as many.

    Raises:
        TraceError: says which.
    """
    denominator = owner.denominator
    check_shapes(owner, clusters=denominator.shape, texts=denominator.shape)
    check_effects(owner, denominator=denominator)
    if not len(denominator) or (denominator == 0).any() or denominator.sum() == 0:
        raise TraceError(f"{type(owner).__name__} needs at least one pair, and S_corr - S_foil that are not 0")


def check_effects(owner: Any, **effects: Float[np.ndarray, "*cell"]) -> None:
    """Refuse numbers that no difference of two cosines is.

    Raises:
        TraceError: quotes one.
    """
    for name, values in effects.items():
        wrong = values[~(np.abs(values) <= _MOST)]
        if wrong.size:
            raise TraceError(
                f"{type(owner).__name__}.{name} holds {wrong[0]:.6g}, but differences of cosines lie between -2 and 2"
            )

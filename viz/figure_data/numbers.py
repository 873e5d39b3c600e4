"""Round numbers for ticks, and their format."""

from __future__ import annotations

import math

from .labels import MINUS

__all__ = ["nice_below", "short_number"]


def nice_below(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``value``.

    >>> [nice_below(value) for value in (0.7, 1.0, 3.2)]
    [0.5, 1.0, 2.0]
    """
    power = 10.0 ** math.floor(math.log10(value))
    return max((m * power for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)), default=power)


def short_number(value: float) -> str:
    """A tick's number.

    >>> short_number(-0.5)
    '−0.5'
    """
    return f"{value:g}".replace("-", MINUS)

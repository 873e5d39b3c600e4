"""What a user can choose in the explorer, each value checked when it is chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from ...errors import FigureError
from ...io.quoting import shown
from ...tracer.pairs.directions import DIRECTIONS

__all__ = ["CHOICES", "LARGEST_BETA", "Settings"]

LARGEST_BETA = 8.0
CHOICES: dict[str, tuple[str, ...]] = {
    "direction": DIRECTIONS[:2],  # the third needs to know which caption is negated
    "site": ("resid", "attn", "mlp"),
    "metric": ("cosine", "margin", "probability", "rank"),
    "scope": ("pair", "data"),
    "aggregate": ("sum", "max", "mean", "std"),
    "layers": ("blocks", "inner"),
    "normalize": ("minmax", "max", "none"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that is chosen; a view is decided by it and by the target.

    scope: what is drawn: the pair that is entered, or the data set. compare: "", "model:NAME" or "tried:NUMBER".
    subtract: whether the control's map is subtracted. layer, column: numbers on the axes of the selected cell; None for
    all of a row or column. direction, site, metric: as :func:`tracescribe.trace` has them. aggregate, beta, layers,
    normalize: as :func:`tracescribe.prescribe` has them.

    Raises:
        FigureError: a value that is not allowed; quotes it.

    >>> Settings(correct="a", foil="b", beta=-1)
    Traceback (most recent call last):
    tracescribe.errors.FigureError: beta must be a number between 0 and 8, not -1
    """

    correct: str
    foil: str
    align: bool = False
    direction: str = DIRECTIONS[0]
    site: str = "resid"
    metric: str = "cosine"
    scope: str = "pair"
    compare: str = ""
    subtract: bool = False
    layer: int | None = None
    column: int | None = None
    aggregate: str = "sum"
    beta: float = 1.0
    layers: str = "blocks"
    normalize: str = "minmax"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise FigureError(f"unknown {name} {shown(value)}; choose one of: {', '.join(allowed)}")
        for name in ("correct", "foil", "compare"):
            if not isinstance(getattr(self, name), str):
                raise FigureError(f"{name} must be a text, not {shown(getattr(self, name))}")
        for name in ("align", "subtract"):
            if not isinstance(getattr(self, name), bool):
                raise FigureError(f"{name} must be True or False, not {shown(getattr(self, name))}")
        for name in ("layer", "column"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise FigureError(f"{name} must be a number on its axis, from 0 on, not {shown(value)}")
        beta = self.beta
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= LARGEST_BETA:
            raise FigureError(f"beta must be a number between 0 and {LARGEST_BETA:g}, not {shown(beta)}")

    def changed(self, **values: Any) -> Settings:
        """The same with other values.

        Raises:
            FigureError: an unknown name or a value that is not allowed.
        """
        known = {each.name for each in fields(self)}
        for name in values:
            if name not in known:
                raise FigureError(f"the explorer has no setting {shown(name)}; it has: {', '.join(sorted(known))}")
        return replace(self, **values)

"""The data of several panels of curves on one scale: the same names in each, such as models over data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import FigureError
from .labels import clean, quoted, shorten
from .points import CurvesData, curves_data

__all__ = ["CurvePanelsData", "curve_panels_data"]


@dataclass(frozen=True, eq=False)
class CurvePanelsData:
    """Panels of curves with shared axes. names: of the panels; curves of one name look alike in all panels."""

    panels: tuple[CurvesData, ...]
    names: tuple[str, ...]
    title: str
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(shorten(clean(name), 60) for name in self.names))
        object.__setattr__(self, "title", shorten(clean(self.title), 300))
        object.__setattr__(self, "notes", tuple(map(clean, self.notes)))

    def titled(self, title: str | None) -> CurvePanelsData:
        """The same with another title; None or "" keeps the one it has."""
        return replace(self, title=title) if title else self

    @property
    def curve_names(self) -> tuple[str, ...]:
        """Of every panel, which may have no values for some."""
        return self.panels[0].names


def curve_panels_data(
    panels: Mapping[str, Mapping[str, Any]],
    x_name: str,
    y_name: str,
    title: str | None = None,
    notes: tuple[str, ...] = (),
) -> CurvePanelsData:
    """Panels by name, each curves by name as :func:`curves_data` takes them.

    Raises:
        FigureError: no panel, or none that has a curve.
    """
    known: dict[str, None] = {}
    for name, curves in panels.items():
        if not isinstance(curves, Mapping):
            raise FigureError(f"{quoted(name)}: a panel is a dict from names to (x, y), not {quoted(curves)}")
        known |= dict.fromkeys(map(str, curves))
    if not known:
        raise FigureError("there is no curve to draw: every panel is empty")
    nothing = (np.zeros(1), np.full(1, np.nan))  # a name keeps its colour in panels where it has no curve
    found = tuple(
        curves_data({name: curves.get(name, nothing) for name in known}, x_name, y_name) for curves in panels.values()
    )
    bands = tuple(dict.fromkeys(note for panel in found for note in panel.notes))
    default = f"{y_name} by {x_name}"
    return CurvePanelsData(found, tuple(map(str, panels)), default if title is None else title, (*bands, *notes))

"""The data of points and curves over any axis: trade-offs with their Pareto front, and faithfulness curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float

from ...errors import FigureError
from .labels import clean, quoted, shorten

__all__ = ["CurvesData", "PointsData", "curves_data", "points_data"]

Better = Literal["higher", "lower"]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Named:
    """Names of what is drawn and of the axes, cleaned and shortened; a title, and notes under it."""

    names: tuple[str, ...]
    x_name: str
    y_name: str
    title: str
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(shorten(clean(name), 40) for name in self.names))
        for name in ("x_name", "y_name", "title"):
            object.__setattr__(self, name, shorten(clean(getattr(self, name)), 300))

    def titled(self, title: str | None) -> Self:
        """The same with another title; None or "" keeps the one it has."""
        return replace(self, title=title) if title else self


@dataclass(frozen=True, eq=False, kw_only=True)
class PointsData(_Named):
    """Named points with intervals.

    x, y: [point, 3], the value and the bounds of its interval (equal to it without one).
    front: points that no other is better than in both.
    """

    x: Float[np.ndarray, "point 3"]
    y: Float[np.ndarray, "point 3"]
    front: Bool[np.ndarray, " point"]


@dataclass(frozen=True, eq=False, kw_only=True)
class CurvesData(_Named):
    """Named curves over a common axis that is no layer axis; lo and hi are None without a band."""

    curves: tuple[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None], ...]


def points_data(
    points: Mapping[str, Sequence[Any]],
    x_name: str,
    y_name: str,
    better: tuple[Better, Better] = ("higher", "higher"),
    title: str | None = None,
) -> PointsData:
    """Points by name, each an (x, y) of numbers or of intervals (anything with value, lo and hi).

    Raises:
        FigureError: no points, or one that is no pair of finite numbers.
    """
    if not isinstance(points, Mapping) or not points:
        raise FigureError(f"points are a dict from names to (x, y), not {quoted(points)}")
    if len(better) != 2 or not set(better) <= {"higher", "lower"}:
        raise FigureError(f'better={quoted(better)}: say "higher" or "lower" of each axis')
    x, y = (np.array([_interval(name, point, axis) for name, point in points.items()]) for axis in (0, 1))
    signs = [1.0 if side == "higher" else -1.0 for side in better]
    goodness = np.stack([signs[0] * x[:, 0], signs[1] * y[:, 0]], axis=1)
    beaten = [bool(((goodness >= one).all(axis=1) & (goodness > one).any(axis=1)).any()) for one in goodness]
    intervals = bool((x[:, 1] < x[:, 2]).any() or (y[:, 1] < y[:, 2]).any())
    notes: tuple[str, ...] = (
        f"line: points that no other is better than in both ({x_name} {better[0]}, {y_name} {better[1]})",
    )
    notes += ("bars: intervals",) if intervals else ()
    default = f"{y_name} against {x_name}"
    names = tuple(map(str, points))
    return PointsData(
        names=names,
        x=x,
        y=y,
        front=~np.array(beaten),
        x_name=x_name,
        y_name=y_name,
        title=default if title is None else title,
        notes=notes,
    )


def _interval(name: str, point: Any, axis: int) -> tuple[float, float, float]:
    try:
        (value,) = [point[axis]] if len(point) == 2 else []
        found = (value.value, value.lo, value.hi) if hasattr(value, "value") else (value,) * 3
        middle, lo, hi = (float(bound) for bound in found)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise FigureError(f"{quoted(name)}: a point is (x, y), numbers or intervals, not {quoted(point)}") from None
    if not np.isfinite(middle):
        raise FigureError(f"{quoted(name)}: a point needs finite numbers, not {quoted(point)}")
    return (middle, lo, hi) if np.isfinite([lo, hi]).all() else (middle, middle, middle)


def curves_data(curves: Mapping[str, Any], x_name: str, y_name: str, title: str | None = None) -> CurvesData:
    """Curves by name, each (x, y) or (x, y, lo, hi) of arrays of one length, or a curve of a Faithfulness.

    Raises:
        FigureError: no curve, or one whose arrays do not fit.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise FigureError(f"curves are a dict from names to (x, y) or (x, y, lo, hi), not {quoted(curves)}")
    found = tuple(_curve(str(name), curve) for name, curve in curves.items())
    notes = ("bands: intervals",) if any(curve[2] is not None for curve in found) else ()
    default = f"{y_name} by {x_name}"
    return CurvesData(
        names=tuple(map(str, curves)),
        curves=found,
        x_name=x_name,
        y_name=y_name,
        title=default if title is None else title,
        notes=notes,
    )


def _curve(name: str, curve: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    if hasattr(curve, "sizes") and hasattr(curve, "value"):  # of tracer.Faithfulness
        band = [] if curve.lo is None or curve.hi is None else [curve.lo, curve.hi]
        curve = (curve.sizes, curve.value, *band)
    try:
        arrays = [np.asarray(part, dtype=np.float64) for part in curve]
    except (TypeError, ValueError):
        arrays = []
    shapes = {part.shape for part in arrays}
    if len(arrays) not in (2, 4) or len(shapes) != 1 or arrays[0].ndim != 1 or not len(arrays[0]):
        raise FigureError(f"{quoted(name)}: a curve is (x, y) or (x, y, lo, hi), arrays of one length")
    if not np.isfinite(arrays[0]).all():
        raise FigureError(f"{quoted(name)}: the x of a curve must be finite")
    return (arrays[0], arrays[1], *(arrays[2:] or (None, None)))

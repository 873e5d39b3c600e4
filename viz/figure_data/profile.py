"""The data of layer profiles: one or several named curves over layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import FigureError
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.maps import Excess, LayerProfile, TraceMap
from .labels import clean, plural, shorten
from .notes import map_notes, model_suffix, resampled, shared_settings, trace_notes
from .options import COUNTING, Statistics
from .select import Profiled

__all__ = ["ProfileData", "profile_data"]

_TITLE = 300  # characters


@dataclass(frozen=True, eq=False)
class ProfileData:
    """Curves over layers.

    series: name and profile of each curve. title: "" for none. axis, unit: what is along the axis where it is not the
    layers, and how one value of it is called.
    """

    series: tuple[tuple[str, LayerProfile], ...]
    quantity: str
    title: str
    notes: tuple[str, ...]
    axis: str = ""
    unit: str = "layer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "series", tuple((shorten(clean(name), 80), curve) for name, curve in self.series))
        object.__setattr__(self, "quantity", shorten(clean(self.quantity), 80))
        object.__setattr__(self, "title", shorten(clean(self.title), _TITLE))
        object.__setattr__(self, "notes", tuple(map(clean, self.notes)))

    def titled(self, title: str | None) -> ProfileData:
        """The same with another title; None or "" keeps the one it has."""
        return replace(self, title=title) if title else self

    @property
    def span(self) -> tuple[float, float]:
        """Lower and upper end of the value axis: with 0 unless that would press the curves against the far end."""
        bands = [v for _, curve in self.series for v in (curve.value, curve.lo, curve.hi) if v is not None]
        seen = np.concatenate([v[np.isfinite(v)] for v in bands] or [np.zeros(1)])
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        if 0 < low < 0.4 * high:
            low = 0.0
        elif 0.4 * low < high < 0:
            high = 0.0
        room = 0.06 * (high - low) if high - low > 1e-5 else 0.5  # float32 leaves as much of equal values
        return (low if low == 0 else low - room), (high if high == 0 else high + room)

    @property
    def axis_name(self) -> str:
        """What the axis is: layer 0 only where a curve has one."""
        if self.axis:
            return self.axis
        starts = any(curve.layers[0] == 0 for _, curve in self.series if len(curve.layers))
        return "layer (0 = embedding output)" if starts else "layer"

    def ticks(self, step: int, fit: float) -> list[int]:
        """The values of the axis that are written: every so many layers, or of other values those that fit.

        fit: how many labels have room.
        """
        values = sorted({value for _, curve in self.series for value in curve.layers.tolist()})
        if not self.axis:
            return [value for value in values if value % step == 0]
        room = (values[-1] - values[0]) / max(1.0, fit)
        kept = values[:1]
        for value in values[1:-1]:
            if value - kept[-1] >= room and values[-1] - value >= room:
                kept.append(value)
        return [*kept, *values[-1:]] if len(values) > 1 else kept


def profile_data(
    sources: Profiled | Mapping[str, Profiled], statistics: Statistics | None = None, title: str | None = None
) -> ProfileData:
    """Curves of one or several results.

    title: in place of the default one; "" for none.

    Raises:
        FigureError: something that has no profile, or an option that does not apply.
    """
    statistics = statistics or Statistics()
    named = dict(sources) if isinstance(sources, Mapping) else {"": sources}
    if not named:
        raise FigureError("there is no profile to draw: the dict of sources is empty")
    series = tuple((str(name), _curve(value, statistics)) for name, value in named.items())
    aggregates = list(dict.fromkeys(curve.aggregate for _, curve in series))
    excess = all(isinstance(value, Excess) for value in named.values())
    quantity = f"{'CTE − control' if excess else 'CTE'}, {' or '.join(aggregates)} per layer"
    only = next(iter(named.values())) if len(named) == 1 else None
    if only is not None:
        notes = trace_notes(only, statistics.segment) if isinstance(only, CausalTrace | Excess) else map_notes(only)
    else:
        notes = tuple(
            f"{name}: {plural(curve.n_pairs, 'pair')}" for name, curve in series if curve.n_pairs
        )  # what differs between traces stands in their names; what they share follows
        notes += shared_settings(list(named.values()))
    title = quantity + model_suffix(only) if title is None else title
    return ProfileData(series, quantity, title, (*notes, *_bands([curve for _, curve in series])))


def _bands(curves: list[LayerProfile]) -> tuple[str, ...]:
    levels = {curve.ci for curve in curves if curve.lo is not None and curve.ci is not None}
    if len(levels) != 1:
        return ("bands: bootstrap intervals of different levels",) if levels else ()
    return (f"band: {levels.pop():.0%} bootstrap interval{resampled(curves)}",)


def _curve(value: Any, statistics: Statistics) -> LayerProfile:
    if isinstance(value, CausalTrace | Excess):
        return value.per_layer(**statistics.given(*COUNTING, "align"))
    if isinstance(value, TraceMap):
        statistics.refuse_all_but("a TraceMap", "aggregate")
        return value.per_layer(**statistics.given("aggregate"))
    if isinstance(value, LayerProfile):
        statistics.refuse_all_but("a LayerProfile")
        return value
    raise FigureError(
        f"cannot draw a profile of a {type(value).__name__}; give a CausalTrace, a TraceMap, a LayerProfile, "
        "an Excess, or a dict of names and these"
    )

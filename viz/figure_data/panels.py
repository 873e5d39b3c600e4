"""The data of several maps on one colour scale: conditions, directions, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from ...errors import FigureError
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.maps import Excess, LayerProfile, TraceMap
from ...tracer.results.profiles import layer_profile
from ...validation import is_positive, is_whole
from .. import theme
from .heatmap import HeatmapData, heatmap_data
from .labels import clean, plural, quoted, shorten
from .notes import resampled, shared_settings
from .options import Statistics
from .select import Source

__all__ = ["BARS", "PanelAxis", "PanelsData", "panels_data"]

BARS = ("sum", "mean", "max", "std", "locality")
PanelAxis = Literal["layer", "depth"]


@dataclass(frozen=True, eq=False)
class PanelsData:
    """Maps side by side, layers across and tokens down, with bars per layer beneath each.

    views: the maps, all with one limit; the profile of each is what its bars show.
    names: the panels' names. per_row: panels in a row; None = as many as are readable.
    axis: "layer", or "depth": cells stand at their layer over the map's last layer.
    """

    views: tuple[HeatmapData, ...]
    names: tuple[str, ...]
    title: str
    notes: tuple[str, ...]
    per_row: int | None = None
    axis: PanelAxis = "layer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(shorten(clean(name), 60) for name in self.names))
        object.__setattr__(self, "title", shorten(clean(self.title), 300))
        object.__setattr__(self, "notes", tuple(map(clean, self.notes)))

    def titled(self, title: str | None) -> PanelsData:
        """The same with another title; None or "" keeps the one it has."""
        return replace(self, title=title) if title else self

    def reach(self, i: int | None = None) -> tuple[float, float]:
        """Where the cells of a panel begin and end on the axis; None: those of all panels."""
        if i is None:
            lows, highs = zip(*map(self.reach, range(len(self.views))), strict=True)
            return min(lows), max(highs)
        layers = self.views[i].layers
        unit = int(layers[-1]) if self.axis == "depth" else 1
        return (int(layers[0]) - 0.5) / unit, (int(layers[-1]) + 0.5) / unit

    @property
    def limit(self) -> float:
        """Colours of all panels run from -limit to limit."""
        return self.views[0].limit

    @property
    def palette(self) -> str:
        """Of all panels."""
        return self.views[0].palette

    @property
    def quantity(self) -> str:
        """What a cell is."""
        return self.views[0].quantity

    @property
    def below_zero(self) -> Bool[np.ndarray, "cell"]:
        """Cells of all panels whose colour is seen to be that of a negative value."""
        return np.concatenate([view.below_zero.ravel() for view in self.views])

    @property
    def clipped_ends(self) -> tuple[bool, bool]:
        """Whether values below -limit, and above limit, are drawn in the colour of the limit, in any panel."""
        ends = [view.clipped_ends for view in self.views]
        return any(below for below, _ in ends), any(above for _, above in ends)

    @property
    def bars_name(self) -> str:
        """What the bars are; "" without any."""
        return next((view.profile_name for view in self.views if view.profile is not None), "")


def panels_data(
    sources: Mapping[str, Source],
    *,
    bars: str | None = "sum",
    difference: str | None = None,
    per_row: int | None = None,
    axis: PanelAxis = "layer",
    limit: float | None = None,
    title: str | None = None,
    palette: str = theme.PALETTE,
    statistics: Statistics | None = None,
) -> PanelsData:
    """Maps by name, on one scale.

    bars: what the bars beneath a map are, per layer; None for none.
    difference: name of one more panel, the second map minus the first.
    axis: where layers stand; "depth": at layer over the map's last layer, so that models of other depths compare.

    Raises:
        FigureError: nothing to draw, maps of different layers on the axis of layers, or an option that does not apply.
        DegenerateTraceError: a trace without a usable pair.
    """
    if not isinstance(sources, Mapping) or not sources:
        raise FigureError(f"panels are drawn from a dict of names and traces or maps, not from {quoted(sources)}")
    if bars is not None and bars not in BARS:
        raise FigureError(f"bars={quoted(bars)}: choose {', '.join(BARS)} or None")
    if difference is not None and len(sources) != 2:
        raise FigureError(f"difference={quoted(difference)} needs two maps, a first and a second, not {len(sources)}")
    if per_row is not None and not is_whole(per_row, least=1):
        raise FigureError(f"per_row={quoted(per_row)}: give a whole number of panels, 1 or more")
    if axis not in get_args(PanelAxis):
        raise FigureError(f"axis={quoted(axis)}: choose {' or '.join(get_args(PanelAxis))}")
    if limit is not None and not is_positive(limit):
        raise FigureError(f"limit={quoted(limit)}: colours need a finite limit above 0")
    statistics = statistics or Statistics()
    per_row = None if per_row is None else int(per_row)
    views = [_view(source, bars, statistics) for source in sources.values()]
    for name, view in zip(sources, views, strict=True):
        if axis == "depth" and view.layers[-1] < 1:
            raise FigureError(f"{quoted(name)} has layer 0 only, which has no relative depth")
        if (axis == "layer" or difference is not None) and not np.array_equal(view.layers, views[0].layers):
            raise FigureError(
                f"{quoted(name)} has layers {view.layers[0]} to {view.layers[-1]}, the first panel "
                f"{views[0].layers[0]} to {views[0].layers[-1]}: "
                + (
                    "maps of one figure have the same layers; axis='depth' draws them by relative depth, and "
                    "ts.viz.profile their profiles in one figure"
                    if difference is None
                    else "a difference is of the same layers; leave it out, and give axis='depth'"
                )
            )
    names = list(map(str, sources))
    if difference is not None:
        first, second = sources.values()
        views.append(_difference(views[0], views[1], _change(first, second, bars, statistics)))
        names.append(difference)
    shared = max(view.limit for view in views) if limit is None else float(limit)
    views = [replace(view, limit=shared, palette=palette) for view in views]
    notes = tuple(f"{name}: {plural(_pairs(source), 'pair')}" for name, source in sources.items() if _pairs(source))
    where = "layer" if axis == "layer" else "relative depth"
    default = f"{views[0].quantity} by {where} and {'head' if views[0].unit == 'heads' else 'token'}"
    about = (*notes, *shared_settings(list(sources.values())), *_intervals(views))
    return PanelsData(tuple(views), tuple(names), default if title is None else title, about, per_row, axis)


def _view(source: Source, bars: str | None, statistics: Statistics) -> HeatmapData:
    if bars is None or isinstance(source, TraceMap) or bars == "locality":
        given = replace(statistics, aggregate=None, ci=0.95, n_boot=1000, seed=0)  # say nothing without an interval
        view = heatmap_data(source, profile=False, title="", statistics=given)
        if bars is None:
            return view
        cells = source if isinstance(source, TraceMap) else source.map(**given.given("align", "reduce", "segment"))
        if bars == "locality":
            return replace(view, profile=LayerProfile(cells.locality(), cells.layers, "locality"))
        return replace(view, profile=cells.per_layer(bars))
    return heatmap_data(source, title="", statistics=replace(statistics, aggregate=bars))


def _change(first: Source, second: Source, bars: str | None, statistics: Statistics) -> LayerProfile | None:
    """The second trace's bars minus the first's, with clusters and texts that both have resampled together.

    None where there is no interval: without bars, and of what is no trace.
    """
    if not isinstance(first, CausalTrace) or not isinstance(second, CausalTrace) or bars in (None, "locality"):
        return None
    return layer_profile(
        second,
        first,
        aggregate=str(bars),
        ci=statistics.ci,
        n_boot=statistics.n_boot,
        seed=statistics.seed,
        reduce=statistics.reduce or "ratio_of_means",
        segment=statistics.segment,
        align=None,
    )


def _difference(first: HeatmapData, second: HeatmapData, change: LayerProfile | None) -> HeatmapData:
    """Second minus first over the columns that both have, in the second's order; of a name that repeats, in turn.

    change: of the bars, with its interval; None: their difference without one.
    """
    ours, theirs = _numbered(first.labels), _numbered(second.labels)
    both = [label for label in theirs if label in ours]
    if not both:
        raise FigureError("the two maps have no token row in common: there is no difference to draw")
    at = [[labels.index(label) for label in both] for labels in (ours, theirs)]
    values = second.values[:, at[1]] - first.values[:, at[0]]
    curve = change
    if change is None and first.profile is not None and second.profile is not None:
        difference = second.profile.value - first.profile.value
        curve = LayerProfile(difference, second.layers, second.profile.aggregate)
    return replace(
        second,
        values=values,
        columns=tuple(second.columns[i] for i in at[1]),
        foils=tuple(second.foils[i] for i in at[1]),
        marked=second.marked[at[1]],
        counts=None if second.counts is None else second.counts[at[1]],
        profile=curve,
        limit=theme.colour_limit(values),
    )


def _numbered(labels: tuple[str, ...]) -> list[tuple[str, int]]:
    """Each name with how often it stood before: a caption may hold the same token twice."""
    return [(label, labels[:at].count(label)) for at, label in enumerate(labels)]


def _pairs(source: Source) -> int:
    return source.trace.n_pairs if isinstance(source, Excess) else source.n_pairs


def _intervals(views: list[HeatmapData]) -> tuple[str, ...]:
    curves = [view.profile for view in views if view.profile is not None and view.profile.ci is not None]
    return (f"bars: {curves[0].ci:.0%} bootstrap interval{resampled(curves)}",) if curves else ()

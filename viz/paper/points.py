"""Trade-offs with their Pareto front, and curves over any axis, for papers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import theme
from ..figure_data.points import CurvesData, PointsData
from .axes import (
    DASHES,
    EDGE,
    MARKERS,
    Header,
    header_height,
    legend_above,
    legend_size,
    new_figure,
    styled,
    write_header,
)
from .fonts import Fonts

__all__ = ["draw_curves", "draw_points", "names_fit", "put_curves", "put_points"]

Box = tuple[float, float, float, float]  # left, bottom, right, top in points
_REACH = (0.2, 0.1)  # of a name, as shares of what is drawn across and along
_MOST_NAMED = 8  # points that are named beside them; more are told by a legend


def draw_points(view: PointsData, fonts: Fonts, inches: float, header: Header, *, height: float | None) -> Figure:
    """Points with their intervals and names, and the front as a line."""
    named = names_fit(view)
    figure, axes, columns = _canvas(() if named else view.names, view, fonts, inches, header, height)
    put_points(axes, view, fonts, named=named)
    if not named:
        legend_above(axes, fonts, columns)
    return figure


def names_fit(view: PointsData) -> bool:
    """Whether names beside the points cannot be read as those of others: none has two more within a name's reach."""
    x, y = view.x[:, 0], view.y[:, 0]
    wide, high = (max(float(np.ptp(values)), 1e-12) for values in (view.x, view.y))
    near = (np.abs(x[:, None] - x) < _REACH[0] * wide) & (np.abs(y[:, None] - y) < _REACH[1] * high)
    return len(view.names) <= _MOST_NAMED and int(near.sum(axis=1).max()) <= 2


def draw_curves(
    view: CurvesData, fonts: Fonts, inches: float, header: Header, *, height: float | None, transparent: bool
) -> Figure:
    """Curves with their bands, and a legend above them where there are several."""
    several = len(view.names) > 1
    figure, axes, columns = _canvas(view.names if several else (), view, fonts, inches, header, height)
    put_curves(axes, view, fonts, transparent=transparent)
    if several:
        legend_above(axes, fonts, columns)
    return figure


def put_points(axes: Axes, view: PointsData, fonts: Fonts, *, named: bool) -> None:
    """The same into axes that are there."""
    order = np.argsort(view.x[:, 0], kind="stable")
    front = [i for i in order.tolist() if view.front[i]]
    axes.plot(view.x[front, 0], view.y[front, 0], color=theme.FAINT, linewidth=0.9, zorder=1)
    for i, name in enumerate(view.names):
        (x, x0, x1), (y, y0, y1) = view.x[i], view.y[i]
        colour, form = theme.series_style(i, len(MARKERS))
        axes.plot([x0, x1], [y, y], color=colour, linewidth=0.7, zorder=2)
        axes.plot([x, x], [y0, y1], color=colour, linewidth=0.7, zorder=2)
        axes.plot(
            [x], [y], linestyle="", marker=MARKERS[form], markersize=4.5,
            color=colour if view.front[i] else "white", markeredgecolor=colour, markeredgewidth=0.9, zorder=3,
            label=fonts.drawable(name),
        )  # fmt: skip
    _axes(axes, view.x_name, view.y_name, fonts)
    axes.margins(0.12)
    axes.autoscale_view()
    if named:
        _name_points(axes, view, fonts)


def _name_points(axes: Axes, view: PointsData, fonts: Fonts) -> None:
    """A name beside each point, on the side where it meets no other point, name or edge."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    spots = axes.transData.transform(np.stack([view.x[:, 0], view.y[:, 0]], axis=1)) / scale
    frame = axes.get_window_extent()
    bounds = (frame.x0 / scale, frame.y0 / scale, frame.x1 / scale, frame.y1 / scale)
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in spots.tolist()]
    taken += [place for i in range(len(spots)) for place in _bars_of(axes, view, i, scale)]
    for i, name in enumerate(view.names):
        text = fonts.drawable(name)
        wide, high = fonts.width(text, fonts.tick), fonts.tick
        options = []
        for ha, dx in (("left", 5.0), ("right", -5.0), ("center", 0.0)):
            for dy in (0.0, 6.5, -6.5, 12.0, -12.0):
                if ha == "center" and abs(dy) < 6:
                    continue
                x, y = spots[i][0] + dx, spots[i][1] + dy
                x -= {"left": 0.0, "right": wide, "center": wide / 2}[ha]
                box = (x, y - high / 2, x + wide, y + high / 2)
                others = [place for k, place in enumerate(taken) if k != i]
                options.append((sum(_overlap(box, other) for other in others) + _outside(box, bounds), ha, dx, dy, box))
        _, ha, dx, dy, box = min(options, key=lambda option: option[0])
        taken.append(box)
        axes.annotate(
            text, (view.x[i, 0], view.y[i, 0]), xytext=(dx, dy), textcoords="offset points", ha=ha,
            va="center_baseline", color=theme.INK, annotation_clip=False, zorder=4, **fonts.style(fonts.tick),
        )  # fmt: skip


def _bars_of(axes: Axes, view: PointsData, i: int, scale: float) -> list[Box]:
    """Where the intervals of a point lie."""
    (x, x0, x1), (y, y0, y1) = view.x[i], view.y[i]
    ends = axes.transData.transform([(x0, y), (x1, y), (x, y0), (x, y1)]) / scale
    (left, level), (right, _), (upright, bottom), (_, top) = ends.tolist()
    return [(left, level - 1, right, level + 1), (upright - 1, bottom, upright + 1, top)]


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    along = min(one[3], other[3]) - max(one[1], other[1])
    return across * along if across > 0 and along > 0 else 0.0


def _outside(box: Box, bounds: Box) -> float:
    """Points beyond the axes, weighted so that an overlap is the lesser evil."""
    beyond = (bounds[0] - box[0], bounds[1] - box[1], box[2] - bounds[2], box[3] - bounds[3])
    return 40 * sum(max(0.0, part) for part in beyond)


def put_curves(axes: Axes, view: CurvesData, fonts: Fonts, *, transparent: bool) -> None:
    """The same into axes that are there."""
    for i, (name, (x, y, lo, hi)) in enumerate(zip(view.names, view.curves, strict=True)):
        colour, form = theme.series_style(i, len(MARKERS))
        if lo is not None and hi is not None:
            if transparent:
                axes.fill_between(x, lo, hi, linewidth=0, zorder=1, color=colour, alpha=0.17)
            else:
                axes.fill_between(x, lo, hi, linewidth=0, zorder=1, color=theme.over_white(colour, 0.17))
        axes.plot(
            x, y, color=colour, linewidth=1.1, linestyle=DASHES[form],
            marker=MARKERS[form] if len(x) <= 40 else "", markersize=3.0, markeredgewidth=0.5,
            label=fonts.drawable(name), zorder=3,
        )  # fmt: skip
    _axes(axes, view.x_name, view.y_name, fonts)


def _axes(axes: Axes, x_name: str, y_name: str, fonts: Fonts) -> None:
    axes.set_xlabel(fonts.drawable(x_name), labelpad=2, **fonts.style(fonts.label))
    axes.set_ylabel(fonts.drawable(y_name), labelpad=2, **fonts.style(fonts.label))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(_Roomy(fonts.tick * (4.5 if axis is axes.xaxis else 2.0)))
        for label in (*axis.get_ticklabels(), axis.get_offset_text()):
            label.set(**fonts.style(fonts.tick))
    axes.spines[["top", "right"]].set_visible(False)


class _Roomy(MaxNLocator):
    """At most 5 steps, and as few as the axis has room for when it is drawn. needed: points for a number."""

    def __init__(self, needed: float) -> None:
        super().__init__(5, steps=[1, 2, 2.5, 5, 10])
        self._needed = needed

    def __call__(self) -> Any:
        axis: Any = self.axis
        extent = axis.axes.get_window_extent()
        length = (extent.width if axis is axis.axes.xaxis else extent.height) * 72 / axis.get_figure(root=True).dpi
        self.set_params(nbins=int(np.clip(length // self._needed, 1, 5)))
        return super().__call__()


def _canvas(
    names: tuple[str, ...],
    view: PointsData | CurvesData,
    fonts: Fonts,
    inches: float,
    header: Header,
    height: float | None,
) -> tuple[Figure, Axes, int]:
    """A figure of exact width whose axes matplotlib places below the header and, where there is one, the legend."""
    wide = inches * 72
    fonts.admit(header[0], *header[1], *view.names, view.x_name, view.y_name)
    head = header_height(fonts, header, inches)
    columns, legend = legend_size(fonts, [fonts.drawable(name) for name in names], inches) if names else (1, 0.0)
    total = 72 * height if height is not None else head + legend + float(np.clip(0.6 * wide, 120, 210)) + 26
    figure = new_figure(inches, total)
    write_header(figure, fonts, header, total, inches)
    below = (0, 0, 1, 1 - (head + EDGE) / total)
    figure.set_layout_engine("constrained", rect=below, w_pad=EDGE / 72, h_pad=EDGE / 72)
    return figure, styled(figure.add_subplot()), columns

"""Several maps on one colour scale for papers: panels in rows, layers across, bars per layer beneath each."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import FigureError
from .. import theme
from ..figure_data.labels import shorten
from ..figure_data.numbers import short_number
from ..figure_data.panels import PanelsData
from .axes import (
    EDGE,
    LINE,
    Header,
    draw_scale,
    header_height,
    new_figure,
    place_axes,
    scale_room,
    set_ticks,
    weight_of,
    write_header,
)
from .cells import bar_numbers, draw_bars, draw_cells, label_layers, label_rows, value_size
from .fonts import Fonts

__all__ = ["draw_panels"]

_NARROWEST = 6.5  # points of a layer, below which panels go to further rows
_ROUGH, _PAGE = 3.0, 620.0  # points of a layer at the least; height of a page's text
_ROW = (6.0, 11.5)  # points of a token: its name must be readable, and the panel not too tall
_GAP, _BAR, _BARS = 7.0, 33.0, 30.0  # between panels, for the colour scale at the least, height of the bars


@dataclass(frozen=True)
class _Plan:
    """Where things go, in points."""

    left: tuple[float, ...]  # room for names before each panel of a row
    pitch: float
    row: float
    across: int
    titles: tuple[str, ...]
    names: float  # height of the panels' names
    foot: float  # below the cells: bars, numbers of the layers, "layer"
    head: float
    height: float
    beside: float  # room for the colour scale
    numbers: float  # width of the bars' numbers


def draw_panels(
    view: PanelsData,
    fonts: Fonts,
    inches: float,
    header: Header,
    *,
    values: Literal["auto"] | bool,
    height: float | None,
) -> Figure:
    """A figure of exactly ``inches`` width."""
    labels = [tuple(shorten(label, 30) for label in panel.labels) for panel in view.views]
    fonts.admit(*view.names, *(name for names in labels for name in names), header[0], *header[1], view.quantity)
    labels = [tuple(fonts.drawable(label) for label in names) for names in labels]
    plan = _plan(view, labels, fonts, inches, header, height)
    figure = new_figure(inches, plan.height)
    write_header(figure, fonts, header, plan.height, inches)
    wide, span = plan.pitch * _most_layers(view), _span(view)
    size = min(
        value_size(panel, _inside(view, i, wide)[1] / len(panel.layers), plan.row, fonts, values)
        for i, panel in enumerate(view.views)
    )
    top, tallest = plan.head + EDGE, 0.0
    for start in range(0, len(view.views), plan.across):
        chosen = range(start, min(start + plan.across, len(view.views)))
        high = max(view.views[i].values.shape[1] for i in chosen) * plan.row
        left = EDGE
        for at, i in enumerate(chosen):
            panel = view.views[i]
            left += plan.left[at]
            begin, across = _inside(view, i, wide)
            cells = place_axes(figure, left + begin, top + plan.names, across, panel.values.shape[1] * plan.row)
            draw_cells(cells, panel, across / len(panel.layers), plan.row, size, fonts)
            style = fonts.style(fonts.label, "bold", linespacing=1.1)
            cells.set_title(plan.titles[i], loc="left", pad=2.5, color=theme.INK, **style)
            shown = plan.left[at] > _GAP
            label_rows(cells, labels[i] if shown else ("",) * len(labels[i]), panel.marked, plan.row, fonts)
            if view.bars_name:
                cells.set_xticks([])
                place = (left + begin, top + plan.names + high, across)
                _bars(figure, view, i, place, plan, span, fonts, first=at == 0)
            else:
                _label(cells, view, i, across, fonts)
            left += wide
        tallest = max(tallest, high)
        top += plan.names + high + plan.foot + _GAP
    above = scale_room(view, view.quantity, fonts)[1] + 4
    draw_scale(
        figure, inches * 72 - plan.beside + _GAP, plan.head + EDGE + plan.names + above,
        max(min(tallest, 90.0) - above, 20.0), view, view.quantity, fonts,
        dashes=not size and bool(view.below_zero.any()),
    )  # fmt: skip
    return figure


def _bars(
    figure: Figure,
    view: PanelsData,
    i: int,
    place: tuple[float, float, float],
    plan: _Plan,
    span: tuple[float, float],
    fonts: Fonts,
    *,
    first: bool,
) -> None:
    """The bars with the numbers of the layers; the first panel of a row says what they are."""
    panel, (left, top, wide) = view.views[i], place
    axes = place_axes(figure, left, top + 3, wide, _BARS)
    if panel.profile is not None:
        draw_bars(axes, panel.profile, span, fonts, numbers=first)
    if first:
        axes.annotate(
            _in_lines(fonts.drawable(view.bars_name)), (0, 0.5), xytext=(-plan.numbers - 6, 0),
            xycoords="axes fraction", textcoords="offset points", ha="right", va="center", color=theme.INK,
            linespacing=1.0, **fonts.style(fonts.small),
        )  # fmt: skip
    _label(axes, view, i, wide, fonts)


def _most_layers(view: PanelsData) -> int:
    return max(len(panel.layers) for panel in view.views)


def _inside(view: PanelsData, i: int, wide: float) -> tuple[float, float]:
    """Where a panel's cells begin, and how wide they are together, in points, on the axis that all panels share."""
    (low, high), (first, last) = view.reach(), view.reach(i)
    return wide * (first - low) / (high - low), wide * (last - first) / (high - low)


def _label(axes: Axes, view: PanelsData, i: int, wide: float, fonts: Fonts) -> None:
    """The axis below a panel: the numbers of its layers, or relative depths."""
    layers = view.views[i].layers.tolist()
    if view.axis == "layer":
        label_layers(axes, layers, wide / len(layers), fonts)
        return
    depths = [depth for depth in (0.0, 0.25, 0.5, 0.75, 1.0) if view.reach(i)[0] <= depth]
    if wide / 4 < fonts.width("0.25", fonts.tick) + 3:
        depths = [depth for depth in depths if depth in (0.0, 0.5, 1.0)]
    places = [depth * layers[-1] - layers[0] for depth in depths]
    set_ticks(axes.xaxis, places, fonts, [short_number(depth) for depth in depths])
    axes.tick_params(axis="x", length=2)
    axes.set_xlabel("relative depth", labelpad=1, **fonts.style(fonts.label))


def _in_lines(name: str) -> str:
    return name.replace(" over ", "\nover ")


def _wrapped(name: str, wide: float, fonts: Fonts) -> str:
    """A panel's name in lines that are no wider than the panel, three at most."""
    text = fonts.drawable(name)
    for columns in range(len(text), 3, -1):
        lines = textwrap.wrap(text, columns) or [""]
        if len(lines) <= 3 and all(fonts.width(line, fonts.label, "bold") <= wide + 2 for line in lines):
            return "\n".join(lines)
    limit = len(text)
    while limit > 3 and fonts.width(shorten(text, limit), fonts.label, "bold") > wide + 2:
        limit -= 1
    return shorten(text, limit)


def _span(view: PanelsData) -> tuple[float, float]:
    """Of all bars."""
    curves = [panel.profile for panel in view.views if panel.profile is not None]
    low, high = theme.axis_ends(*(bound for curve in curves for bound in (curve.value, curve.lo, curve.hi)))
    room = 0.06 * (high - low)
    return (low - room if low < 0 else 0.0), high + room


def _across(view: PanelsData, pitch_of: Callable[[int], float]) -> int:
    """Panels in a row: as many as are readable; more where they would not fit on a page below each other."""
    n, most = len(view.views), max(panel.values.shape[1] for panel in view.views)
    readable = next((k for k in range(n, 1, -1) if pitch_of(k) >= _NARROWEST), 1)
    across = math.ceil(n / math.ceil(n / readable))  # rows of equal length
    while across < n and math.ceil(n / across) * (most * _ROW[0] + 70) > _PAGE and pitch_of(across + 1) >= _ROUGH:
        across += 1
    return across


def _plan(
    view: PanelsData, labels: list[tuple[str, ...]], fonts: Fonts, inches: float, header: Header, height: float | None
) -> _Plan:
    n, n_layers = len(view.views), _most_layers(view)
    names = [
        max(fonts.width(text, fonts.tick, weight_of(mark)) for text, mark in zip(texts, panel.marked, strict=True)) + 5
        for texts, panel in zip(labels, view.views, strict=True)
    ]
    beside = max(_BAR, _GAP + scale_room(view, view.quantity, fonts)[0] + 1)
    written = ("−0.5", *(short_number(value) for value in bar_numbers(_span(view))))
    numbers = max(fonts.width(text, fonts.small) for text in written)
    if view.bars_name:
        parts = _in_lines(fonts.drawable(view.bars_name)).split("\n")
        least = max(fonts.width(part, fonts.small) for part in parts) + numbers + 8
        names = [max(width, least) if i == 0 else width for i, width in enumerate(names)]
    alike = len(set(labels)) == 1

    def lefts(across: int) -> tuple[float, ...]:
        return tuple(max(names[at::across]) if at == 0 or not alike else _GAP for at in range(min(across, n)))

    def pitch_of(across: int) -> float:
        gaps = 0 if alike else _GAP * (min(across, n) - 1)
        return (inches * 72 - EDGE - beside - sum(lefts(across)) - gaps) / (min(across, n) * n_layers)

    across = view.per_row or _across(view, pitch_of)
    pitch = min(pitch_of(across), 26.0)
    if pitch < 1.5:
        raise FigureError(
            f"{across} panels of {n_layers} layers in {inches:g} inches leave no room for cells: give a larger width, "
            "or a smaller per_row"
        )
    left = lefts(across)
    left = (left[0], *(width if alike else width + _GAP for width in left[1:]))
    rows = [max(panel.values.shape[1] for panel in view.views[s : s + across]) for s in range(0, n, across)]
    titles = tuple(_wrapped(name, pitch * n_layers, fonts) for name in view.names)
    name_height = fonts.label * 1.1 * max(title.count("\n") + 1 for title in titles) + 4
    foot = (3 + _BARS if view.bars_name else 0) + (fonts.tick + fonts.label) * LINE + 3
    head = header_height(fonts, header, inches)
    fixed = head + 2 * EDGE + len(rows) * (name_height + foot) + (len(rows) - 1) * _GAP
    row = float(np.clip(110 / max(rows), *_ROW))
    total = fixed + sum(rows) * row
    if height is not None:
        row, total = (72 * height - fixed) / sum(rows), 72 * height
        if row < 1.5:
            about = (fixed + sum(rows) * _ROW[0]) / 72
            raise FigureError(f"height={height!r} is too little for these panels; about {about:.1f} would do")
    return _Plan(left, pitch, row, across, titles, name_height, foot, head, total, beside, numbers)

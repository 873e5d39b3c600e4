"""Shared by paper figures: a figure of an exact size, a header, axes, ticks, the colour scale.

matplotlib's constrained layout places the axes of profiles. It cannot place the header (a wrapped title and a legend
outside the axes overlap), nor heatmaps and overlays: there the width of a cell decides whether names are upright,
slanted or thinned and how many lines of cells there are, and with them the figure's height, before any layout.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import ScaledTranslation

from .. import theme
from ..figure_data.labels import wrap_phrases
from ..figure_data.numbers import nice_below, short_number
from .fonts import Fonts, Weight

__all__ = [
    "DASHES",
    "EDGE",
    "LINE",
    "MARKERS",
    "Header",
    "colours",
    "draw_scale",
    "header_height",
    "layer_step",
    "legend_above",
    "legend_inside",
    "legend_over",
    "legend_size",
    "mark_below",
    "mark_clipped",
    "new_figure",
    "place_axes",
    "scale_room",
    "set_ticks",
    "styled",
    "weight_of",
    "write_header",
]

Header = tuple[str, tuple[str, ...]]  # title and notes; empty = none

LINE = 1.2  # line height over font size
DASHES = ("-", (0, (4, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (1.2, 1.2)), (0, (7, 2)), "-", (0, (4, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # with the dashes, they tell curves apart without colour
EDGE = 3.0  # points kept free at the figure's edges


def new_figure(inches: float, height: float) -> Figure:
    figure = Figure(figsize=(inches, round(height, 2) / 72))
    FigureCanvasAgg(figure)
    return figure


def place_axes(figure: Figure, left: float, top: float, wide: float, high: float) -> Axes:
    """Axes at a place given in points from the top left corner."""
    width, height = figure.get_size_inches() * 72
    return styled(figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height)))


def styled(axes: Axes) -> Axes:
    """Axes in the figures' colours."""
    axes.tick_params(colors=theme.INK)
    for spine in axes.spines.values():
        spine.set_color(theme.FAINT)
    axes.xaxis.label.set_color(theme.INK)
    axes.yaxis.label.set_color(theme.INK)
    return axes


def set_ticks(
    axis: Any, places: list[Any], fonts: Fonts, labels: list[str] | None = None, size: float | None = None
) -> None:
    axis.set_ticks(
        places, labels if labels is not None else [str(place) for place in places], **fonts.style(size or fonts.tick)
    )


def legend_above(axes: Axes, fonts: Fonts, columns: int) -> None:
    """A legend over the axes, where no data are."""
    _legend(axes, fonts, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns)


def legend_inside(axes: Axes, fonts: Fonts, wide: float, high: float) -> None:
    """A legend at the top of axes of about this size in points, in room that is made for it above the data."""
    columns, needed = legend_size(fonts, axes.get_legend_handles_labels()[1], wide / 72)
    low, top = axes.get_ylim()
    share = min(0.6, (needed + 4) / high)
    axes.set_ylim(low, top + (top - low) * share / (1 - share))
    _legend(axes, fonts, loc="upper left", ncols=columns)


def legend_over(figure: Figure, axes: Axes, fonts: Fonts, columns: int, top: float) -> None:
    """The legend of all panels of a figure, below a height in figure coordinates; matplotlib's layout leaves it out."""
    width = figure.get_size_inches()[0] * 72
    box = _legend(
        axes, fonts, figure, loc="upper left", bbox_to_anchor=(EDGE / width, top), ncols=columns,
        bbox_transform=figure.transFigure,
    )  # fmt: skip
    box.set_in_layout(False)


def _legend(axes: Axes, fonts: Fonts, place: Axes | Figure | None = None, **where: Any) -> Legend:
    """place: what it belongs to, if that is not the axes whose curves it names."""
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: not isinstance(handles[i], BarContainer))  # bars first
    box = (place or axes).legend(
        [handles[i] for i in order], [names[i] for i in order], frameon=False, borderpad=0, borderaxespad=0.4,
        handlelength=2.4, handletextpad=0.5, columnspacing=1.0, labelspacing=0.25, **where,
        prop={"family": fonts.families, "size": fonts.tick},
    )  # fmt: skip
    box.set_zorder(4)
    return box


def legend_size(fonts: Fonts, names: Sequence[str], inches: float) -> tuple[int, float]:
    """Columns that fit side by side, and the height of the legend in points."""
    entry = max(fonts.width(name, fonts.tick) for name in names) + 28
    columns = max(1, min(len(names), int((inches * 72 - 30) // entry)))
    return columns, math.ceil(len(names) / columns) * fonts.tick * 1.45 + 3


def layer_step(n_layers: int, pitch: float, needed: float) -> int:
    for step in (1, 2, 4, 6, 8, 12):
        if step * pitch >= needed:
            return step
    return max(12, n_layers // 2)


def header_height(fonts: Fonts, header: Header, inches: float) -> float:
    title, notes = _header_lines(fonts, header, inches)
    return len(title) * fonts.title * LINE + len(notes) * fonts.small * 1.3 + (3 if title or notes else 0)


def _header_lines(fonts: Fonts, header: Header, inches: float) -> tuple[list[str], list[str]]:
    """The title and the notes in lines that fit."""
    title, notes = header
    titles, about = ((fonts.drawable(title),) if title else ()), tuple(fonts.drawable(note) for note in notes)

    def lines(phrases: tuple[str, ...], size: float, weight: Weight) -> list[str]:
        text, room = " · ".join(phrases), inches * 72 - 2 * EDGE
        columns = int(0.96 * room * len(text) / fonts.width(text, size, weight)) if text else 8
        wrapped = wrap_phrases(phrases, columns)
        while columns > 8 and any(fonts.width(line, size, weight) > room for line in wrapped):
            columns -= 1
            wrapped = wrap_phrases(phrases, columns)
        return wrapped

    return lines(titles, fonts.title, "bold"), lines(about, fonts.small, "normal")


def write_header(figure: Figure, fonts: Fonts, header: Header, height: float, inches: float) -> None:
    title, notes = _header_lines(fonts, header, inches)
    top = EDGE
    for lines, size, weight, colour, line_height in (
        (title, fonts.title, "bold", theme.INK, fonts.title * LINE),
        (notes, fonts.small, "normal", theme.MUTED, fonts.small * 1.3),
    ):
        for line in lines:
            style = fonts.style(size, "bold" if weight == "bold" else "normal")
            figure.text(EDGE / (inches * 72), 1 - top / height, line, ha="left", va="top", color=colour, **style)
            top += line_height


def mark_clipped(axes: Axes, ends: tuple[bool, bool], palette: str, *, horizontal: bool) -> None:
    """Arrows in the colour of the limit at each end of a colour bar that stands for everything beyond it."""
    inch = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    for end, present in enumerate(ends):
        if present:
            out = (2 * end - 1) * 2.2 / 72
            along, marker = ((out, 0.0), "<>"[end]) if horizontal else ((0.0, out), "v^"[end])
            place = (end, 0.5) if horizontal else (0.5, end)
            axes.plot(
                *([value] for value in place), marker=marker, markersize=4.4, markeredgewidth=0, clip_on=False,
                color=theme.PALETTES[palette][-end], transform=axes.transAxes + ScaledTranslation(*along, inch),
            )  # fmt: skip


def mark_below(axes: Axes, palette: str, *, horizontal: bool) -> None:
    """A dash in the half of a colour bar that is below 0, as in the cells there; no number stands so near to 0."""
    place = (0.35, 0.5) if horizontal else (0.5, 0.35)
    axes.plot(
        *([value] for value in place), marker="_", markersize=3.4, markeredgewidth=0.75,
        color=theme.text_colour(-0.3, 1.0, palette), transform=axes.transAxes,
    )  # fmt: skip


class Scaled(Protocol):
    """What has a colour scale."""

    @property
    def limit(self) -> float: ...

    @property
    def palette(self) -> str: ...

    @property
    def clipped_ends(self) -> tuple[bool, bool]: ...


_BAR, _TICK, _WIDEST_NAME = 5.0, 7.0, 60.0  # of a colour scale, in points; a wider word is written smaller


def scale_room(view: Scaled, name: str, fonts: Fonts) -> tuple[float, float]:
    """Width of an upright colour scale with its numbers and its name, and the height of the name, in points."""
    lines = _scale_name(name, fonts)
    numbers = max(fonts.width(short_number(value), fonts.tick) for value in _scale_numbers(view))
    words = min(max(fonts.width(line, fonts.label) for line in lines), _WIDEST_NAME)
    return max(_BAR + _TICK + numbers, words), fonts.label * (1 + 1.1 * (len(lines) - 1))


def _scale_name(name: str, fonts: Fonts) -> list[str]:
    return textwrap.wrap(fonts.drawable(name), 10, break_long_words=False) or [""]


def _scale_numbers(view: Scaled) -> tuple[float, float, float]:
    step = nice_below(view.limit)
    return -step, 0.0, step


def draw_scale(
    figure: Figure, left: float, top: float, high: float, view: Scaled, name: str, fonts: Fonts, *, dashes: bool
) -> None:
    """An upright colour bar at a place given in points, its name above it. :func:`scale_room` says what it needs.

    dashes: whether cells below 0 have one.
    """
    bar = place_axes(figure, left, top, _BAR, high)
    edges = np.linspace(-view.limit, view.limit, 129)
    bar.pcolormesh(
        [0, 1], edges, ((edges[:-1] + edges[1:]) / 2)[:, None], cmap=colours(view.palette),
        norm=Normalize(-view.limit, view.limit), edgecolors="face", linewidth=0.2,
    )  # fmt: skip
    bar.set(xlim=(0, 1), ylim=(-view.limit, view.limit))
    low, zero, most = _scale_numbers(view)
    apart = high * most / view.limit / 2 >= 1.15 * fonts.tick  # the three numbers do not meet
    numbers = (low, zero, most) if apart else (low, most)
    bar.yaxis.tick_right()
    bar.set_xticks([])
    bar.set_yticks(numbers, [short_number(value) for value in numbers], **fonts.style(fonts.tick))
    bar.spines[:].set_visible(False)
    mark_clipped(bar, view.clipped_ends, view.palette, horizontal=False)
    if dashes:
        mark_below(bar, view.palette, horizontal=False)
    pad = 8 if view.clipped_ends[1] else 6
    lines = _scale_name(name, fonts)
    size = fonts.label * min(1.0, _WIDEST_NAME / max(fonts.width(line, fonts.label) for line in lines))
    bar.set_title("\n".join(lines), pad=pad, color=theme.INK, loc="left", **fonts.style(size, linespacing=1.1))


def weight_of(marked: Any) -> Weight:
    return "bold" if marked else "normal"


def colours(palette: str) -> Colormap:
    return LinearSegmentedColormap.from_list(palette, theme.PALETTES[palette], N=1024).with_extremes(bad=theme.MISSING)

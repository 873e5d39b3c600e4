"""Shared by paper figures: a figure of an exact size, a header, axes, ticks, the colour scale.

matplotlib's constrained layout places the axes of profiles. It cannot place the header (a wrapped title and a legend
outside the axes overlap), nor heatmaps and overlays: there the width of a cell decides whether names are upright,
slanted or thinned and how many lines of cells there are, and with them the figure's height, before any layout.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from .. import theme
from ..figure_data.labels import wrap_phrases
from .fonts import Fonts, Weight

__all__ = [
    "EDGE",
    "LABEL",
    "LINE",
    "SMALL",
    "TICK",
    "Header",
    "colours",
    "header_height",
    "layer_step",
    "mark_clipped",
    "new_figure",
    "place_axes",
    "set_ticks",
    "styled",
    "weight_of",
    "write_header",
]

Header = tuple[str, tuple[str, ...]]  # title and notes; empty = none

LABEL, TICK, SMALL = 7.0, 6.5, 6.0  # points: a paper's 8-9 pt caption stays larger than the figure's text
LINE = 1.2  # line height over font size
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


def set_ticks(axis: Any, places: list[Any], fonts: Fonts, labels: list[str] | None = None, size: float = TICK) -> None:
    axis.set_ticks(places, labels if labels is not None else [str(place) for place in places], **fonts.style(size))


def layer_step(n_layers: int, pitch: float, needed: float) -> int:
    for step in (1, 2, 4, 6, 8, 12):
        if step * pitch >= needed:
            return step
    return max(12, n_layers // 2)


def header_height(fonts: Fonts, header: Header, inches: float) -> float:
    title, notes = _header_lines(fonts, header, inches)
    return len(title) * 8 * LINE + len(notes) * SMALL * 1.3 + (3 if title or notes else 0)


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

    return lines(titles, 8, "bold"), lines(about, SMALL, "normal")


def write_header(figure: Figure, fonts: Fonts, header: Header, height: float, inches: float) -> None:
    title, notes = _header_lines(fonts, header, inches)
    top = EDGE
    for lines, size, weight, colour, line_height in (
        (title, 8.0, "bold", theme.INK, 8 * LINE),
        (notes, SMALL, "normal", theme.MUTED, SMALL * 1.3),
    ):
        for line in lines:
            style = fonts.style(size, "bold" if weight == "bold" else "normal")
            figure.text(EDGE / (inches * 72), 1 - top / height, line, ha="left", va="top", color=colour, **style)
            top += line_height


def mark_clipped(axes: Axes, ends: tuple[bool, bool], *, horizontal: bool) -> None:
    """Arrows in the colour of the limit at each end of a colour bar that stands for everything beyond it."""
    inch = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    for end, present in enumerate(ends):
        if present:
            out = (2 * end - 1) * 2.2 / 72
            along, marker = ((out, 0.0), "<>"[end]) if horizontal else ((0.0, out), "v^"[end])
            place = (end, 0.5) if horizontal else (0.5, end)
            axes.plot(
                *([value] for value in place), marker=marker, markersize=4.4, markeredgewidth=0, clip_on=False,
                color=theme.DIVERGING[-end], transform=axes.transAxes + ScaledTranslation(*along, inch),
            )  # fmt: skip


def weight_of(marked: Any) -> Weight:
    return "bold" if marked else "normal"


def colours() -> Colormap:
    return LinearSegmentedColormap.from_list("tracescribe", theme.DIVERGING, N=1024).with_extremes(bad=theme.MISSING)

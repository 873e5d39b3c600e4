"""Cells with layers across and tokens down, and bars per layer beneath: what panels and an author's axes share."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import Normalize
from matplotlib.text import Text

from ...tracer.results.maps import LayerProfile
from .. import theme
from ..figure_data.heatmap import HeatmapData
from ..figure_data.labels import cell_text
from ..figure_data.numbers import nice_below, short_number
from .axes import colours, layer_step, set_ticks, weight_of
from .fonts import Fonts

__all__ = [
    "bar_numbers",
    "draw_bars",
    "draw_cells",
    "draw_dashes",
    "draw_mesh",
    "label_layers",
    "label_rows",
    "number_room",
    "value_size",
]


def _holds(axes: Any, room: tuple[float, float]) -> bool:
    """Whether a cell has this width and height in points now: an author's layout changes axes when they are drawn."""
    (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (1, 1)]) * 72 / axes.get_figure(root=True).dpi
    return bool(abs(x1 - x0) >= room[0] and abs(y1 - y0) >= room[1])


class _Number(Text):
    """A cell's number. room: width and height in points that a cell needs; in a smaller one it is not drawn."""

    room = (0.0, 0.0)

    def draw(self, renderer: RendererBase) -> None:
        if _holds(self.axes, self.room):
            super().draw(renderer)


class _Dashes(LineCollection):
    """The signs of cells whose numbers are not drawn. room: as of the numbers."""

    room = (math.inf, math.inf)

    def draw(self, renderer: RendererBase) -> None:
        if not _holds(self.axes, self.room):
            super().draw(renderer)


def draw_mesh(
    axes: Axes,
    view: HeatmapData,
    values: Float[np.ndarray, "down across"],
    cell: tuple[float, float],
    size: float,
    fonts: Fonts,
    room: tuple[float, float] = (0.0, 0.0),
) -> QuadMesh:
    """Coloured cells around whole coordinates, with numbers where ``size`` is not 0, else with dashes below 0.

    cell: width and height in points. room: what cells must have when they are drawn, else the numbers are left out.
    """
    pitch, row = cell
    n_down, n_across = values.shape
    mesh = axes.pcolormesh(
        np.arange(n_across + 1) - 0.5, np.arange(n_down + 1) - 0.5, np.ma.masked_invalid(values),
        cmap=colours(view.palette), norm=Normalize(-view.limit, view.limit),
        edgecolors="white", linewidth=min(0.3, pitch / 12, row / 12),
    )  # fmt: skip
    for (down, across), value in np.ndenumerate(values if size else np.empty((0, 0))):
        text = cell_text(float(value))
        if text:
            number = _Number(
                across, down, text, ha="center", va="center_baseline",
                color=theme.text_colour(float(value), view.limit, view.palette), **fonts.style(size),
            )  # fmt: skip
            number.room = room
            axes.add_artist(number).set_clip_path(None)
    if not size or any(room):
        dashes = draw_dashes(axes, values, view.limit, view.palette, cell)
        dashes.room = room if size else dashes.room
    return mesh


def draw_dashes(
    axes: Axes, values: Float[np.ndarray, "down across"], limit: float, palette: str, cell: tuple[float, float]
) -> _Dashes:
    """A dash, as of a minus, in each cell below 0: printed in grey, its colour is that of the cell above 0.

    cell: width and height in points.
    """
    pitch, row = cell
    places = np.argwhere(theme.below_zero(values, limit))
    half = min(0.25, 2.6 / pitch)
    inks = [theme.text_colour(float(values[down, across]), limit, palette) for down, across in places]
    dashes = _Dashes(
        [[(across - half, down), (across + half, down)] for down, across in places],
        colors=inks, linewidths=min(0.75, 0.3 * row), capstyle="butt", zorder=1.5,
    )  # fmt: skip
    axes.add_collection(dashes, autolim=False)
    return dashes


def draw_cells(
    axes: Axes,
    view: HeatmapData,
    pitch: float,
    row: float,
    size: float,
    fonts: Fonts,
    room: tuple[float, float] = (0.0, 0.0),
) -> QuadMesh:
    """Tokens from the top down, layers from left to right. pitch, row: in points.

    size, room: as :func:`draw_mesh`.
    """
    values = view.values.T  # [token, layer]
    n_rows, n_layers = values.shape
    mesh = draw_mesh(axes, view, values, (pitch, row), size, fonts, room)
    axes.set_xlim(-0.5, n_layers - 0.5)
    axes.set_ylim(n_rows - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return mesh


def label_rows(axes: Axes, labels: tuple[str, ...], marked: np.ndarray, row: float, fonts: Fonts) -> None:
    """The tokens' names, as many as rows of this height have room for; those that differ always, in bold."""
    size = min(fonts.tick, max(row / 1.18, 4.6))
    step = layer_step(len(labels), row, size * 1.05)
    named = [i for i in range(len(labels)) if i % step == 0 or marked[i]]
    for mark in np.flatnonzero(marked).tolist():
        named = [i for i in named if i == mark or marked[i] or abs(i - mark) * row >= size * 1.05]
    axes.set_yticks(named, [labels[i] for i in named], **fonts.style(size))
    for i, label in zip(named, axes.get_yticklabels(), strict=True):
        label.set(fontweight=weight_of(marked[i]), color=theme.ACCENT if marked[i] else theme.INK)


def label_layers(axes: Axes, layers: list[int], pitch: float, fonts: Fonts, *, name: bool = True) -> None:
    """The numbers of the layers below the axes, thinned where they would touch."""
    step = layer_step(len(layers), pitch, fonts.width(str(max(layers)), fonts.tick) + 2)
    shown = [i for i, layer in enumerate(layers) if layer % step == 0]
    set_ticks(axes.xaxis, shown, fonts, [str(layers[i]) for i in shown])
    axes.tick_params(axis="x", length=0)
    if name:
        axes.set_xlabel("layer", labelpad=1, **fonts.style(fonts.label))


def bar_numbers(span: tuple[float, float]) -> list[float]:
    """The values that the axis of bars names."""
    step = nice_below(max(-span[0], span[1]))
    return [value for value in (-step, 0.0, step) if span[0] <= value <= span[1]]


def draw_bars(axes: Axes, curve: LayerProfile, span: tuple[float, float], fonts: Fonts, *, numbers: bool) -> None:
    """One bar per layer with its interval, under the cells of the same layers."""
    place = np.arange(len(curve.layers))
    axes.bar(place, np.nan_to_num(curve.value), width=0.72, color=theme.SERIES[0], linewidth=0)
    if curve.lo is not None and curve.hi is not None:
        axes.vlines(place, curve.lo, curve.hi, color=theme.INK, linewidth=0.6)
    axes.axhline(0, color=theme.FAINT, linewidth=0.5)
    axes.set_xlim(-0.5, len(place) - 0.5)
    axes.set_ylim(*span)
    shown = bar_numbers(span) if numbers else []
    set_ticks(axes.yaxis, shown, fonts, [short_number(value) for value in shown], size=fonts.small)
    axes.spines[["right", "top", "bottom"]].set_visible(False)


def value_size(view: HeatmapData, pitch: float, row: float, fonts: Fonts, values: Literal["auto"] | bool) -> float:
    """Font size of the cells' numbers; 0 = none, because they were not asked for or do not fit."""
    if values is False or not np.isfinite(view.values).any():
        return 0.0
    for size in (fonts.small, *(fixed for fixed in (5.5, 5.0, 4.5) if fixed < fonts.small)):
        wide, high = number_room(view, size, fonts)
        if wide <= pitch and high <= row:
            return size
    return 4.5 if values is True else 0.0


def number_room(view: HeatmapData, size: float, fonts: Fonts) -> tuple[float, float]:
    """Width and height in points of a cell that holds every number of this font size."""
    texts = {cell_text(float(value)) for value in view.values.ravel()}
    return max(fonts.width(text, size) for text in texts) + 1.2, size * 1.1

"""Draws into axes that an author made: the place and the size are theirs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator

from ...errors import FigureError
from .. import theme
from ..figure_data.heatmap import HeatmapData
from ..figure_data.labels import shorten
from ..figure_data.plans import AlphaData
from ..figure_data.points import CurvesData, PointsData
from ..figure_data.profile import ProfileData
from .axes import layer_step, legend_inside, styled
from .cells import draw_cells, label_layers, label_rows, number_room, value_size
from .fonts import Fonts
from .plans import draw_weights
from .points import names_fit, put_curves, put_points
from .profile import put_profile

__all__ = ["put"]


def put(
    view: HeatmapData | ProfileData | AlphaData | PointsData | CurvesData,
    axes: Axes,
    *,
    title: str | None,
    values: Literal["auto"] | bool,
    font: str | None,
    size: float,
) -> Any:
    """The picture, with its names and numbers where the axes have room for them."""
    figure = axes.get_figure(root=True)
    if figure is None:
        raise FigureError("the axes belong to no figure any more")
    fonts = Fonts(font, size)
    box = axes.get_window_extent()
    wide, high = box.width * 72 / figure.dpi, box.height * 72 / figure.dpi
    fonts.admit(title or "")
    styled(axes)
    cells = None
    if isinstance(view, HeatmapData):
        cells = _map(axes, view, wide, high, values, fonts)
    elif isinstance(view, ProfileData):
        fonts.admit(view.quantity, *(name for name, _ in view.series))
        put_profile(axes, view, fonts, wide, high, transparent=True)
        if not view.axis:
            layers = sorted({layer for _, curve in view.series for layer in curve.layers.tolist()})
            _thin(axes, layers, layers, fonts)
    elif isinstance(view, AlphaData):
        fonts.admit(view.power)
        draw_weights(axes, view, fonts)
        blocks = list(range(1, len(view.alpha) + 1))
        _thin(axes, blocks, blocks, fonts)
        axes.set_xlabel("block", **fonts.style(fonts.label))
    else:
        fonts.admit(*view.names, view.x_name, view.y_name)
        if isinstance(view, PointsData):
            put_points(axes, view, fonts, named=names_fit(view))
        else:
            put_curves(axes, view, fonts, transparent=True)
    if len(axes.get_legend_handles_labels()[1]) > 1 and not (isinstance(view, PointsData) and names_fit(view)):
        legend_inside(axes, fonts, wide, high)
    texts = [axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()]
    if title:
        style = fonts.style(fonts.title, "bold")
        texts.append(axes.set_title(fonts.drawable(title), loc="left", color=theme.INK, **style))
    for text in texts:  # they were made with the author's settings, where these characters are commands
        if set(text.get_text()) & set("\\$%&#_{}~^"):
            text.set_parse_math(False)
            text.set_usetex(False)
    return cells


def _map(axes: Axes, view: HeatmapData, wide: float, high: float, values: Literal["auto"] | bool, fonts: Fonts) -> Any:
    labels = tuple(shorten(label, 30) for label in view.labels)
    fonts.admit(*labels)
    n_layers, n_rows = view.values.shape
    pitch, row = wide / n_layers, high / n_rows
    # an author's layout may still take some of the axes for a colour bar: the numbers leave a margin, and are left out
    # where that is not enough
    number = value_size(view, 0.85 * pitch, 0.9 * row, fonts, values)
    room = number_room(view, number, fonts) if number and values == "auto" else (0.0, 0.0)
    cells = draw_cells(axes, view, pitch, row, number, fonts, room)
    label_rows(axes, tuple(map(fonts.drawable, labels)), np.asarray(view.marked), row, fonts)
    label_layers(axes, view.layers.tolist(), pitch, fonts)
    _thin(axes, list(range(n_layers)), view.layers.tolist(), fonts)
    return cells


class _Thinned(Locator):
    """As many of the layers as have room when the figure is drawn: an author's layout changes the size of axes late."""

    def __init__(self, places: list[int], layers: list[int], needed: float) -> None:
        self.places, self.layers, self.needed = places, layers, needed

    def __call__(self) -> list[int]:
        axes: Any = self.axis.axes  # type: ignore[union-attr]
        wide = axes.get_window_extent().width * 72 / axes.get_figure(root=True).dpi
        step = layer_step(len(self.places), wide / len(self.places), self.needed)
        return [place for place, layer in zip(self.places, self.layers, strict=True) if layer % step == 0]

    def tick_values(self, vmin: float, vmax: float) -> list[int]:
        return self()


def _thin(axes: Axes, places: list[int], layers: list[int], fonts: Fonts) -> None:
    """Number the layers at these places of the axis."""
    names = dict(zip(places, map(str, layers), strict=True))
    needed = fonts.width(str(max(layers)), fonts.tick) + 2
    axes.xaxis.set_major_locator(_Thinned(places, layers, needed))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: names.get(round(place), "")))
    axes.tick_params(axis="x", labelsize=fonts.tick, labelfontfamily=fonts.families[0])

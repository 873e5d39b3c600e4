"""Layer profiles for papers: curves with their bands, as vector graphics."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import theme
from ..figure_data.labels import shorten
from ..figure_data.profile import ProfileData
from .axes import (
    DASHES,
    EDGE,
    MARKERS,
    Header,
    header_height,
    layer_step,
    legend_above,
    legend_size,
    new_figure,
    set_ticks,
    styled,
    write_header,
)
from .fonts import Fonts

__all__ = ["draw_profile", "put_profile"]


def draw_profile(
    view: ProfileData, fonts: Fonts, inches: float, header: Header, *, height: float | None, transparent: bool
) -> Figure:
    """Curves over layers with their bands, with a legend above them where there are several.

    transparent: whether the format knows transparency; EPS does not.
    """
    wide = inches * 72
    names = [shorten(name, 36) for name, _ in view.series]
    fonts.admit(*names, header[0], *header[1], view.quantity)
    names = [fonts.drawable(name) for name in names]
    several = len(names) > 1
    columns, legend = legend_size(fonts, names, inches) if several else (1, 0.0)
    head = header_height(fonts, header, inches)
    total = 72 * height if height is not None else head + legend + np.clip(0.56 * wide, 105, 190) + 26
    figure = new_figure(inches, total)
    write_header(figure, fonts, header, total, inches)
    # matplotlib places the axes, their labels and the legend in what the header leaves.
    below = (0, 0, 1, 1 - (head + EDGE) / total)
    figure.set_layout_engine("constrained", rect=below, w_pad=EDGE / 72, h_pad=EDGE / 72)
    axes = styled(figure.add_subplot())
    put_profile(axes, view, fonts, wide - 40, total - head - legend - 30, transparent=transparent)
    if several:
        legend_above(axes, fonts, columns)
    return figure


def put_profile(axes: Axes, view: ProfileData, fonts: Fonts, wide: float, high: float, *, transparent: bool) -> None:
    """The curves, their bands and the names of the axes, into axes of about this size in points."""
    names = [fonts.drawable(shorten(name, 36)) for name, _ in view.series]
    for i, (name, (_, curve)) in enumerate(zip(names, view.series, strict=True)):
        colour, form = theme.series_style(i, len(MARKERS))
        if curve.lo is not None and curve.hi is not None:
            shade: dict[str, Any] = (
                {"color": colour, "alpha": 0.17} if transparent else {"color": theme.over_white(colour, 0.17)}
            )
            axes.fill_between(curve.layers, curve.lo, curve.hi, linewidth=0, zorder=1, **shade)
            for edge in () if transparent else (curve.lo, curve.hi):  # where bands hide each other
                axes.plot(curve.layers, edge, color=theme.over_white(colour, 0.55), linewidth=0.4, zorder=2)
        axes.plot(
            curve.layers, curve.value, color=colour, linewidth=1.1, linestyle=DASHES[form],
            marker=MARKERS[form], markersize=3.0, markeredgewidth=0.5, label=name, zorder=3,
        )  # fmt: skip
    if view.span[0] <= 0 <= view.span[1]:
        axes.axhline(0, color=theme.FAINT, linewidth=0.5, zorder=0)
    layers = sorted({layer for _, curve in view.series for layer in curve.layers.tolist()})
    step = layer_step(len(layers), wide / max(len(layers), 1), fonts.tick * 1.6)
    axes.set_ylim(*view.span)
    room = 0.02 * (layers[-1] - layers[0]) if view.axis else 0.4
    axes.set_xlim(layers[0] - room, layers[-1] + room)
    set_ticks(axes.xaxis, view.ticks(step, wide / (fonts.tick * 2.6)), fonts)
    axis_name, quantity = view.axis_name, fonts.drawable(view.quantity)
    if fonts.width(axis_name, fonts.label) > wide:
        axis_name = view.unit.removesuffix(" =")
    if fonts.width(quantity, fonts.label) > high:
        quantity = quantity.replace(", ", ",\n")
    axes.set_xlabel(axis_name, labelpad=2, **fonts.style(fonts.label))
    axes.set_ylabel(quantity, labelpad=2, **fonts.style(fonts.label))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for label in (*axes.get_yticklabels(), axes.yaxis.get_offset_text()):
        label.set(**fonts.style(fonts.tick))
    axes.spines[["top", "right"]].set_visible(False)

"""Panels of curves with shared axes and one legend, for papers."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from ...errors import FigureError
from .. import theme
from ..figure_data.curve_panels import CurvePanelsData
from .axes import EDGE, Header, header_height, legend_over, legend_size, new_figure, styled, write_header
from .fonts import Fonts
from .points import put_curves

__all__ = ["draw_curve_panels"]

_NARROWEST = 118.0  # points of a panel, with the numbers beside it
_MOST = 4  # panels side by side


def draw_curve_panels(
    view: CurvePanelsData, fonts: Fonts, inches: float, header: Header, *, height: float | None, transparent: bool
) -> Figure:
    """Panels in rows; all have the same axes, whose names and numbers stand at the edges only."""
    wide, first = inches * 72, view.panels[0]
    fonts.admit(header[0], *header[1], *view.names, *view.curve_names, first.x_name, first.y_name)
    across = max(1, min(len(view.panels), _MOST, int((wide - 16) // _NARROWEST)))
    rows = math.ceil(len(view.panels) / across)
    head = header_height(fonts, header, inches)
    columns, legend = legend_size(fonts, [fonts.drawable(name) for name in view.curve_names], inches)
    panel = float(np.clip(0.72 * wide / across, 84, 150))
    needed = head + legend + rows * 60 + 26
    total = head + legend + rows * panel + 26 if height is None else 72 * height
    if total < needed:
        raise FigureError(f"height={height!r} is too little for these panels; about {needed / 72:.1f} would do")
    figure = new_figure(inches, total)
    write_header(figure, fonts, header, total, inches)
    below = (0, 0, 1, 1 - (head + legend + EDGE) / total)
    figure.set_layout_engine("constrained", rect=below, w_pad=EDGE / 72, h_pad=EDGE / 72)
    grid = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(view.panels):
            axes.set_visible(False)
            continue
        put_curves(styled(axes), view.panels[number], fonts, transparent=transparent)
        axes.axhline(0, color=theme.FAINT, linewidth=0.5, zorder=0)
        title = fonts.drawable(view.names[number])
        axes.set_title(title, loc="left", pad=3, color=theme.INK, **fonts.style(fonts.label, "bold"))
        at_left, at_bottom = number % across == 0, number + across >= len(view.panels)
        axes.tick_params(
            labelleft=at_left, labelbottom=at_bottom, labelsize=fonts.tick, labelfontfamily=fonts.families[0]
        )
        if not at_left:
            axes.set_ylabel("")
        if not at_bottom:
            axes.set_xlabel("")
    legend_over(figure, grid.flat[0], fonts, columns, 1 - (head + EDGE) / total)
    return figure

"""Layer × patch maps over an image for papers: the image, one panel per layer, one colour bar."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .. import theme
from ..figure_data.numbers import nice_below, short_number
from ..figure_data.overlay import OUTLINE, OverlayData, blended
from .axes import (
    EDGE,
    LABEL,
    TICK,
    Header,
    colours,
    header_height,
    mark_clipped,
    new_figure,
    place_axes,
    write_header,
)
from .fonts import Fonts

__all__ = ["draw_overlay"]

_GAP, _CAPTION, _BAR = 5.0, 10.0, 34.0  # points: between panels, above one, and for the colour bar


def draw_overlay(view: OverlayData, fonts: Fonts, inches: float, header: Header) -> Figure:
    """The image by itself, then one panel per layer, in rows of panels that are at least 0.8 inches wide."""
    wide = inches * 72
    n_panels = len(view.layers) + 1
    captions = ["image", *(view.panel_title(at) for at in range(len(view.layers)))]
    fonts.admit(header[0], *header[1], *captions)
    room = wide - 2 * EDGE - _BAR
    needed = max(58.0, max(fonts.width(caption, TICK) for caption in captions) + 2)
    most = max(1, int((room + _GAP) // (needed + _GAP)))
    down = math.ceil(n_panels / min(most, n_panels))
    across = math.ceil(n_panels / down)  # rows of equal length
    side = (room - (across - 1) * _GAP) / across
    tall = side * view.film.shape[0] / view.film.shape[1]
    head = header_height(fonts, header, inches)
    total = head + 2 * EDGE + down * (tall + _CAPTION) + (down - 1) * _GAP
    figure = new_figure(inches, total)
    write_header(figure, fonts, header, total, inches)
    rows, columns = view.outlined.shape
    for panel, caption in enumerate(captions):
        left = EDGE + panel % across * (side + _GAP)
        top = head + EDGE + _CAPTION + panel // across * (tall + _CAPTION + _GAP)
        axes = place_axes(figure, left, top, side, tall)
        if panel == 0:
            axes.imshow(view.film, cmap="gray", vmin=0, vmax=1, extent=(0, columns, rows, 0), aspect="auto")
        else:
            picture = blended(view.film, view.values[panel - 1], view.limit)
            axes.imshow(picture, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
        for (x0, y0), (x1, y1) in view.borders:
            axes.plot([x0, x1], [y0, y1], color=OUTLINE, linewidth=0.7, solid_capstyle="projecting")
        axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(fonts.drawable(caption), pad=2, color=theme.INK, loc="left", **fonts.style(TICK))
    high = min(down * (tall + _CAPTION) - _CAPTION, 110.0) - 4  # its highest number must not touch its name
    bar = place_axes(figure, wide - EDGE - _BAR + 8, head + EDGE + _CAPTION + 4, 5, high)
    scale = np.linspace(-view.limit, view.limit, 256)[:, None]
    bar.imshow(
        scale, cmap=colours(), norm=Normalize(-view.limit, view.limit), origin="lower", aspect="auto",
        extent=(0, 1, -view.limit, view.limit),
    )  # fmt: skip
    step = nice_below(view.limit)
    bar.yaxis.tick_right()
    bar.set_xticks([])
    bar.set_yticks([-step, 0, step], [short_number(value) for value in (-step, 0.0, step)], **fonts.style(TICK))
    bar.spines[:].set_visible(False)
    mark_clipped(bar, view.clipped_ends, horizontal=False)
    bar.set_title("CTE", pad=8 if view.clipped_ends[1] else 6, color=theme.INK, loc="left", **fonts.style(LABEL))
    return figure

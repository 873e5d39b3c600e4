"""Layer × patch maps over an image for papers: the image, one panel per layer, one colour bar."""

from __future__ import annotations

import math

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .. import theme
from ..figure_data.overlay import OUTLINE, OverlayData, blended
from .axes import (
    EDGE,
    Header,
    draw_scale,
    header_height,
    new_figure,
    place_axes,
    scale_room,
    write_header,
)
from .fonts import Fonts

__all__ = ["draw_overlay"]

_GAP, _CAPTION, _BAR = 5.0, 10.0, 34.0  # points: between panels, above one, and for the colour bar at the least
_BESIDE = 8.0  # between the panels and the colour bar


def draw_overlay(view: OverlayData, fonts: Fonts, inches: float, header: Header) -> Figure:
    """The image by itself, then one panel per layer, in rows of panels that are at least 0.8 inches wide."""
    wide = inches * 72
    n_panels = len(view.layers) + 1
    captions = ["image", *(view.panel_title(at) for at in range(len(view.layers)))]
    fonts.admit(header[0], *header[1], *captions)
    bar = max(_BAR, _BESIDE + scale_room(view, "CTE", fonts)[0])
    room = wide - 2 * EDGE - bar
    needed = max(58.0, max(fonts.width(caption, fonts.tick) for caption in captions) + 2)
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
            picture = blended(view.film, view.values[panel - 1], view.limit, view.palette)
            axes.imshow(picture, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")
            for ink, segments in view.dashes(panel - 1).items():
                axes.add_collection(LineCollection(segments, colors=ink, linewidths=0.9), autolim=False)
        for (x0, y0), (x1, y1) in view.borders:
            axes.plot([x0, x1], [y0, y1], color=OUTLINE, linewidth=0.7, solid_capstyle="projecting")
        axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(fonts.drawable(caption), pad=2, color=theme.INK, loc="left", **fonts.style(fonts.tick))
    high = min(down * (tall + _CAPTION) - _CAPTION, 110.0) - 4  # its highest number must not touch its name
    left, dashes = wide - EDGE - bar + _BESIDE, bool(view.below_zero.any())
    draw_scale(figure, left, head + EDGE + _CAPTION + 4, high, view, "CTE", fonts, dashes=dashes)
    return figure

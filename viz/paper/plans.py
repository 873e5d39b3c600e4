"""Layer weights for papers: alpha per block with its interval, the multipliers, and shares of the update."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import theme
from ..figure_data.labels import shorten
from ..figure_data.plans import AlphaData
from .axes import (
    EDGE,
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

__all__ = ["draw_alpha"]

_HATCHES = ("", "////", "....", "\\\\\\\\")  # shares are told apart in grey


def draw_alpha(view: AlphaData, fonts: Fonts, inches: float, header: Header, *, height: float | None) -> Figure:
    """Bars of alpha with intervals; below them, where there are any, shares of the update on an axis of their own."""
    wide, rows = inches * 72, 2 if view.shares else 1
    fonts.admit(header[0], *header[1], view.power, *(name for name, _ in view.shares))
    head = header_height(fonts, header, inches)
    names = ["α", *(["interval of α"] if view.lo is not None else []), fonts.drawable(view.power)]
    legends = [legend_size(fonts, names, inches)]
    if view.shares:
        legends.append(legend_size(fonts, [fonts.drawable(shorten(name, 36)) for name, _ in view.shares], inches))
    further = sum(needed - legend_size(fonts, ["α"], inches)[1] for _, needed in legends)  # lines of legends
    total = 72 * height if height is not None else head + rows * float(np.clip(0.34 * wide, 80, 120)) + 30 + further
    figure = new_figure(inches, total)
    write_header(figure, fonts, header, total, inches)
    below = (0, 0, 1, 1 - (head + EDGE) / total)
    figure.set_layout_engine("constrained", rect=below, w_pad=EDGE / 72, h_pad=EDGE / 72)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    draw_weights(styled(axes[0]), view, fonts)
    if view.shares:
        _draw_shares(styled(axes[1]), view, fonts, (wide - 40) / len(view.alpha))
    for part, (columns, _) in zip(axes, legends, strict=True):
        if len(part.get_legend_handles_labels()[1]) > 1:
            legend_above(part, fonts, columns)
    blocks = np.arange(1, len(view.alpha) + 1)
    step = layer_step(len(blocks), (wide - 40) / len(blocks), fonts.tick * 1.6)
    set_ticks(axes[-1].xaxis, [int(block) for block in blocks if block % step == 0], fonts)
    axes[-1].set_xlabel("block", labelpad=2, **fonts.style(fonts.label))
    return figure


def draw_weights(axes: Axes, view: AlphaData, fonts: Fonts) -> None:
    """The bars of alpha; a dot per block where the multiplier is another number."""
    blocks = np.arange(1, len(view.alpha) + 1)
    axes.bar(blocks, view.alpha, width=0.68, color=theme.over_white(theme.SERIES[0], 0.75), linewidth=0, label="α")
    if view.lo is not None and view.hi is not None:
        axes.vlines(blocks, view.lo, view.hi, color=theme.INK, linewidth=0.7, label="interval of α")
    if not np.allclose(view.multipliers, view.alpha):
        axes.plot(
            blocks, view.multipliers, linestyle="", marker="D", markersize=3.2, markeredgewidth=0.5,
            markeredgecolor="white", color=theme.SERIES[1], label=fonts.drawable(view.power), clip_on=False, zorder=4,
        )  # fmt: skip
    axes.set_ylim(bottom=min(0.0, *([] if view.lo is None else view.lo.tolist()), 0.0))
    axes.set_xlim(0.4, len(blocks) + 0.6)
    axes.set_ylabel("layer weight", labelpad=2, **fonts.style(fonts.label))
    _finish(axes, fonts)


def _draw_shares(axes: Axes, view: AlphaData, fonts: Fonts, pitch: float) -> None:
    """pitch: points from block to block."""
    blocks = np.arange(1, len(view.alpha) + 1)
    wide = 0.76 / len(view.shares)
    thick = 0.92 * wide * pitch  # of a bar, in points; of a thin one its white edge and hatch would leave nothing
    for i, (name, share) in enumerate(view.shares):
        at = blocks + (i - (len(view.shares) - 1) / 2) * wide
        axes.bar(
            at, 100 * share, width=0.92 * wide, linewidth=min(0.5, 0.1 * thick), edgecolor="white",
            hatch=_HATCHES[i % 4] if thick >= 2 else "", color=theme.SERIES[(i + 2) % len(theme.SERIES)],
            label=fonts.drawable(shorten(name, 36)),
        )  # fmt: skip
    axes.set_ylabel("share of the update (%)", labelpad=2, **fonts.style(fonts.label))
    _finish(axes, fonts)


def _finish(axes: Axes, fonts: Fonts) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    for label in axes.get_yticklabels():
        label.set(**fonts.style(fonts.tick))
    axes.spines[["top", "right"]].set_visible(False)

"""The heatmap for papers: every box is placed in points from measured text, so that nothing collides or is cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ...errors import FigureError
from ...tracer.results.maps import LayerProfile
from ...warn import warn_user
from .. import theme
from ..figure_data.heatmap import HeatmapData
from ..figure_data.labels import shorten
from ..figure_data.numbers import nice_below, short_number
from .axes import (
    EDGE,
    LINE,
    Header,
    colours,
    header_height,
    layer_step,
    mark_below,
    mark_clipped,
    new_figure,
    place_axes,
    set_ticks,
    weight_of,
    write_header,
)
from .cells import draw_mesh, value_size
from .fonts import Fonts

__all__ = ["draw_heatmap"]

_PITCH = (5.6, 46.0)  # narrowest column of cells whose rotated label is still read; widest before it looks stretched
_SHORTEST_SCALE = 36.0  # of a colour scale, in points: its three numbers do not meet
_MOST_LINES = 2  # of cells; beyond it one line with names for some of the columns is easier to read, and shorter


@dataclass(frozen=True)
class _Plan:
    """Where things go: points from the left and the top edge."""

    left: float
    pitch: float
    row: float
    per_line: int
    lines: int
    beside: float  # width of the profile, 0 for none
    size: float  # of the tokens
    angle: int
    below: tuple[float, ...]  # height of the tokens' labels under each line
    marks: float
    top: float
    height: float
    labels: tuple[str, ...]  # "" for a column without room for its name

    @property
    def cells(self) -> float:
        return self.pitch * self.per_line


def draw_heatmap(
    view: HeatmapData,
    fonts: Fonts,
    inches: float,
    header: Header,
    *,
    values: Literal["auto"] | bool,
    height: float | None,
) -> Figure:
    """A figure of exactly ``inches`` width. Lines of cells continue below where the tokens are too many for one."""
    labels = [shorten(label, 22 if view.counts is None else 30) for label in view.labels]
    fonts.admit(*labels, header[0], *header[1], view.quantity, view.profile_name)
    labels = [fonts.drawable(label) for label in labels]
    plan = _plan(view, labels, fonts, inches, header, height)
    figure = new_figure(inches, plan.height)
    write_header(figure, fonts, header, plan.height, inches)

    n_layers, n_columns = view.values.shape
    size = value_size(view, plan.pitch, plan.row, fonts, values)
    for line in range(plan.lines):
        chosen = slice(line * plan.per_line, min((line + 1) * plan.per_line, n_columns))
        wide = (chosen.stop - chosen.start) * plan.pitch
        top = plan.top + line * (plan.row * n_layers + plan.marks) + sum(plan.below[:line])
        cells = place_axes(figure, plan.left, top, wide, plan.row * n_layers)
        _draw_cells(cells, view, chosen, size, plan, fonts)
        _label_tokens(cells, plan.labels[chosen], view.marked[chosen], plan, fonts)
        _label_layers(cells, view, plan, fonts)
        if line == 0:
            _draw_scale(figure, view, plan, fonts, dashes=not size and bool(view.below_zero.any()))
            if view.profile is not None:
                left = plan.left + plan.cells + _gap(inches)
                beside = place_axes(figure, left, top, plan.beside, plan.row * n_layers)
                _draw_beside(beside, view, view.profile, cells.get_ylim(), plan.beside, fonts)
    return figure


def _plan(
    view: HeatmapData, labels: list[str], fonts: Fonts, inches: float, header: Header, height: float | None
) -> _Plan:
    n_layers, n_columns = view.values.shape
    wide, has_profile = inches * 72, view.profile is not None
    # the ticks, their numbers, and the axis' upright name with what rises above its letters
    left = 6.9 + 1.16 * fonts.label + fonts.width(str(int(view.layers[-1])), fonts.tick)
    gap, right = (_gap(inches), 6.0) if has_profile else (0.0, EDGE)
    beside = np.clip(0.14 * wide, 34, 76) if has_profile else 0.0
    if has_profile:  # its name reaches beyond it on both sides, but not off the page
        beside = max(beside, max(fonts.width(part, fonts.small) for part in _in_lines(view, fonts)) - 2 * right + 2)
    room = wide - left - gap - beside - right
    lines = math.ceil(n_columns * _PITCH[0] / room)
    thinned = lines > _MOST_LINES
    if thinned:
        _say_minimum(n_columns, inches, (n_columns * _PITCH[0] / _MOST_LINES + wide - room) / 72)
        lines = 1
    per_line = math.ceil(n_columns / lines)
    pitch = room / per_line
    if pitch > _PITCH[1] and has_profile:  # few tokens: the profile takes what the cells do not need
        beside = min(beside + (pitch - _PITCH[1]) * per_line, 0.34 * wide)
        pitch = (wide - left - gap - beside - right) / per_line
    size, angle = (5.0, 90) if thinned else _label_fit(labels, view.marked, fonts, pitch, left, per_line)
    named = _named_columns(view.marked, pitch) if thinned else np.ones(n_columns, dtype=bool)
    labels = [label if shown else "" for label, shown in zip(labels, named, strict=True)]
    reach = [_reach(label, size, angle, fonts, mark) for label, mark in zip(labels, view.marked, strict=True)]
    below = [max(reach[i : i + per_line]) for i in range(0, n_columns, per_line)]
    if has_profile:
        below[0] = max(below[0], 3 + LINE * (fonts.small * 2 + fonts.small))
    marks = 7.0 if view.marked.any() else 3.0
    scale = 4 + fonts.small * LINE + 2
    top = header_height(fonts, header, inches) + EDGE + scale + marks
    row = float(np.clip(144 / n_layers, 4.4, 12.0))
    total = top + lines * row * n_layers + sum(below) + (lines - 1) * marks + EDGE
    if height is not None:
        row = (72 * height - top - sum(below) - (lines - 1) * marks - EDGE) / (lines * n_layers)
        if row < 1.5:
            raise FigureError(f"height={height!r} is too little for {n_layers} layers; about {total / 72:.1f} would do")
        total = 72 * height
    return _Plan(left, pitch, row, per_line, lines, beside, size, angle, tuple(below), marks, top, total, tuple(labels))


def _say_minimum(n_columns: int, inches: float, needed: float) -> None:
    warn_user(
        f"{n_columns} columns in {inches:g} inches: only some are named, those that differ among them; from "
        f"{math.ceil(10 * needed) / 10:g} inches on all are"
    )


def _named_columns(marked: Bool[np.ndarray, "column"], pitch: float) -> Bool[np.ndarray, "column"]:
    """Which columns of a line have room for their name: the marked ones and the ends, then the others in order."""
    n = len(marked)
    apart = math.ceil(_PITCH[0] / pitch)
    named = np.zeros(n, dtype=bool)
    for column in (*np.flatnonzero(marked).tolist(), 0, n - 1, *range(0, n, apart), *range(n)):
        named[column] |= not named[max(0, column - apart + 1) : column + apart].any()
    return named


def _label_fit(
    labels: list[str], marked: np.ndarray, fonts: Fonts, pitch: float, left: float, per_line: int
) -> tuple[float, int]:
    """Size and angle of the tokens' labels: upright if they fit, else slanted, else vertical."""

    def widths(size: float) -> list[float]:
        return [fonts.width(label, size, weight_of(m)) for label, m in zip(labels, marked, strict=True)]

    for size in (fonts.tick, fonts.small):
        if max(widths(size)) <= pitch - 2.5:
            return size, 0
    slant = math.cos(math.pi / 4)
    inside = all(w * slant <= left + (i % per_line + 0.5) * pitch - EDGE for i, w in enumerate(widths(fonts.tick)))
    if pitch * slant >= fonts.tick * LINE and inside:
        return fonts.tick, 45
    return float(np.clip(pitch / LINE, 4.6, fonts.tick)), 90


def _reach(label: str, size: float, angle: int, fonts: Fonts, mark: Any) -> float:
    """How far the label goes down from the cells."""
    width = fonts.width(label, size, weight_of(mark))
    return 4 + {0: size * LINE, 45: (width + size) * math.sin(math.pi / 4), 90: width}[angle]


def _draw_cells(axes: Axes, view: HeatmapData, chosen: slice, size: float, plan: _Plan, fonts: Fonts) -> None:
    values = view.values[:, chosen]
    n_layers, n_columns = values.shape
    draw_mesh(axes, view, values, (plan.pitch, plan.row), size, fonts)
    columns = np.flatnonzero(view.marked[chosen])
    if len(columns):
        axes.plot(
            columns, np.full(len(columns), n_layers - 0.5 + 3.4 / plan.row), clip_on=False, linestyle="",
            marker="v", markersize=4.2, markeredgewidth=0, color=theme.ACCENT,
        )  # fmt: skip
    axes.set_xlim(-0.5, n_columns - 0.5)
    axes.set_ylim(-0.5, n_layers - 0.5)
    axes.spines[:].set_visible(False)


def _label_tokens(axes: Axes, labels: tuple[str, ...], marked: np.ndarray, plan: _Plan, fonts: Fonts) -> None:
    where: dict[str, Any] = {
        0: {"ha": "center", "va": "top"},
        45: {"ha": "right", "va": "top", "rotation_mode": "anchor"},
        90: {"ha": "center", "va": "top"},
    }[plan.angle]
    axes.set_xticks([])
    for column, (label, mark) in enumerate(zip(labels, marked, strict=True)):
        if not label:
            continue
        nudge = 0.35 * plan.size if plan.angle == 45 else 0.0
        axes.annotate(
            label, (column, 0), xytext=(nudge, -2.5), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            rotation=plan.angle, color=theme.ACCENT if mark else theme.INK, annotation_clip=False,
            **where, **fonts.style(plan.size, weight_of(mark)),
        )  # fmt: skip


def _label_layers(axes: Axes, view: HeatmapData, plan: _Plan, fonts: Fonts) -> None:
    step = layer_step(len(view.layers), plan.row, fonts.tick * 1.1)
    shown = [i for i, layer in enumerate(view.layers.tolist()) if layer % step == 0]
    set_ticks(axes.yaxis, shown, fonts, [str(int(view.layers[i])) for i in shown])
    axes.set_ylabel("layer", labelpad=2, **fonts.style(fonts.label))


def _draw_scale(figure: Figure, view: HeatmapData, plan: _Plan, fonts: Fonts, *, dashes: bool) -> None:
    """The colour scale: many small vector boxes above the cells, right-aligned with them; its name is left of it.

    A long name makes the scale shorter, and one that has no room even so is written smaller.
    """
    bound, name = view.limit, fonts.drawable(view.quantity)
    beside = -7 if view.clipped_ends[0] else -3
    long, room = fonts.width(name, fonts.small), plan.left + plan.cells + beside - EDGE
    wide = min(0.55 * plan.cells, 80.0, max(room - long, _SHORTEST_SCALE))
    name_size = fonts.small * min(1.0, (room - wide) / long)
    left, top = plan.left + plan.cells - wide, plan.top - plan.marks - 4
    axes = place_axes(figure, left, top, wide, 4)
    edges = np.linspace(-bound, bound, 129)
    axes.pcolormesh(
        edges, [0, 1], [(edges[:-1] + edges[1:]) / 2], cmap=colours(view.palette), norm=Normalize(-bound, bound),
        edgecolors="face", linewidth=0.2,
    )  # fmt: skip
    axes.set(xlim=(-bound, bound), ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    mark_clipped(axes, view.clipped_ends, view.palette, horizontal=True)
    if dashes:
        mark_below(axes, view.palette, horizontal=True)
    step = nice_below(bound)
    axes.xaxis.set_ticks_position("top")
    set_ticks(axes.xaxis, [-step, 0, step], fonts, [short_number(v) for v in (-step, 0.0, step)], size=fonts.small)
    axes.tick_params(axis="x", length=1.5, pad=0.5)
    axes.annotate(
        name, (0, 0.5), xytext=(beside, 0), xycoords="axes fraction", textcoords="offset points", ha="right",
        va="center_baseline", color=theme.INK, **fonts.style(name_size),
    )  # fmt: skip


def _draw_beside(
    axes: Axes, view: HeatmapData, curve: LayerProfile, span: tuple[float, float], wide: float, fonts: Fonts
) -> None:
    place = np.searchsorted(view.layers, curve.layers)  # it may lack some of the map's layers
    if curve.lo is not None and curve.hi is not None:
        axes.fill_betweenx(place, curve.lo, curve.hi, color=theme.over_white(theme.SERIES[0], 0.2), linewidth=0)
    axes.axvline(0, color=theme.FAINT, linewidth=0.5, zorder=0)
    axes.plot(curve.value, place, color=theme.SERIES[0], linewidth=1.0, marker="o", markersize=2.2, markeredgewidth=0)
    axes.set_ylim(*span)
    axes.set_yticks([])
    low, high = theme.axis_ends(curve.value, curve.lo, curve.hi)
    room = 0.08 * (high - low)
    axes.set_xlim(low - room, high + room)
    step = nice_below(max(-low, high))
    shown = [v for v in (-step, 0.0, step) if low - room <= v <= high + room]
    needed = (fonts.width(short_number(-step), fonts.small) + fonts.width("0", fonts.small)) / 2 + 2
    if step * wide / (high - low + 2 * room) < needed:  # two of the numbers would touch
        shown = [v for v in shown if v != 0] if len(shown) == 3 else [0.0]
    set_ticks(axes.xaxis, shown, fonts, [short_number(v) for v in shown], size=fonts.small)
    axes.set_xlabel("\n".join(_in_lines(view, fonts)), labelpad=1, linespacing=1.0, **fonts.style(fonts.small))
    axes.spines[["left", "top", "right"]].set_visible(False)


def _in_lines(view: HeatmapData, fonts: Fonts) -> list[str]:
    """The name of the profile."""
    return fonts.drawable(view.profile_name).replace(" over ", " over\n").split("\n")


def _gap(inches: float) -> float:
    return 5.0 if inches < 5 else 9.0

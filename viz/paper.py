"""Drawing for paper figures: every box is placed in points from measured text, so that nothing collides or is cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..tracer.maps import LayerProfile
from . import theme
from .fonts import Fonts, Weight
from .labels import cell_text, shorten, wrap_phrases
from .views import FigureError, HeatmapView, ProfileView

__all__ = ["draw_heatmap", "draw_profile"]

Header = tuple[str, tuple[str, ...]]

_LABEL, _TICK, _SMALL = 7.0, 6.5, 6.0  # points: a paper's 8-9 pt caption stays larger than the figure's text
_LINE = 1.2  # line height over font size
_EDGE = 3.0
_PITCH = (5.6, 46.0)  # narrowest column of cells whose rotated label is still read; widest before it looks stretched
_DASHES = ("-", (0, (4, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (1.2, 1.2)), (0, (7, 2)), "-", (0, (4, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "o", "s")


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
    below: float  # height of the tokens' labels
    marks: float
    top: float
    height: float

    @property
    def cells(self) -> float:
        return self.pitch * self.per_line


def draw_heatmap(
    view: HeatmapView,
    fonts: Fonts,
    inches: float,
    header: Header,
    *,
    values: Literal["auto"] | bool,
    limit: float | None,
    height: float | None,
) -> Figure:
    """A figure of exactly ``inches`` width. Lines of cells continue below where the tokens are too many for one."""
    bound = theme.colour_limit(view.values) if limit is None else float(limit)
    if not (math.isfinite(bound) and bound > 0):
        raise FigureError(f"limit={limit!r}: colours need a finite limit above 0")
    labels = [shorten(label, 22) for label in view.labels]
    fonts.admit(*labels, header[0], *header[1])
    labels = [fonts.drawable(label) for label in labels]
    plan = _plan(view, labels, fonts, inches, header, height)
    figure = _figure(inches, plan.height)
    _write_header(figure, fonts, header, plan.height, inches)

    n_layers, n_columns = view.values.shape
    size = _value_size(view, plan, fonts, values)
    block = plan.row * n_layers + plan.below + plan.marks
    for line in range(plan.lines):
        chosen = slice(line * plan.per_line, min((line + 1) * plan.per_line, n_columns))
        wide = (chosen.stop - chosen.start) * plan.pitch
        top = plan.top + line * block
        cells = _axes(figure, plan.left, top, wide, plan.row * n_layers)
        _draw_cells(cells, view, chosen, bound, size, fonts)
        _label_tokens(cells, labels[chosen], view.marked[chosen], plan, fonts)
        _label_layers(cells, view, plan, fonts)
        if line == 0:
            _draw_scale(figure, view.quantity, bound, plan, fonts)
            if view.profile is not None:
                left = plan.left + plan.cells + _gap(inches)
                beside = _axes(figure, left, top, plan.beside, plan.row * n_layers)
                _draw_beside(beside, view.profile, view.unit, cells.get_ylim(), fonts)
    return figure


def draw_profile(
    view: ProfileView, fonts: Fonts, inches: float, header: Header, *, height: float | None
) -> Figure:
    """Curves over layers with their bands, with a legend above them where there are several."""
    wide = inches * 72
    names = [shorten(name, 36) for name, _ in view.series]
    fonts.admit(*names, header[0], *header[1])
    names = [fonts.drawable(name) for name in names]
    several = len(names) > 1
    entry = max(fonts.width(name, _TICK) for name in names) + 28
    columns = max(1, min(len(names), int((wide - 30) // entry)))
    legend = math.ceil(len(names) / columns) * _TICK * 1.45 + 3 if several else 0.0
    head = _header_height(fonts, header, inches)
    total = 72 * height if height is not None else head + legend + np.clip(0.56 * wide, 105, 190) + 26
    figure = _figure(inches, total)
    _write_header(figure, fonts, header, total, inches)
    left, below, right = 31.0, 24.0, 5.0
    top = head + legend + _EDGE
    axes = _axes(figure, left, top, wide - left - right, max(total - top - below, 20))

    edges = []
    for i, (name, curve) in enumerate(view.series):
        colour = theme.SERIES[i % len(theme.SERIES)]
        if curve.lo is not None and curve.hi is not None:
            # Opaque bands under all curves, with edges: EPS has no transparency, and overlapping bands stay readable.
            shade = theme.over_white(colour, 0.16)
            axes.fill_between(curve.layers, curve.lo, curve.hi, color=shade, linewidth=0, zorder=1)
            edges.append((curve, colour))
        axes.plot(
            curve.layers, curve.value, color=colour, linewidth=1.1, linestyle=_DASHES[i % len(_DASHES)],
            marker=_MARKERS[i % len(_MARKERS)], markersize=3.0, markeredgewidth=0.5, label=name, zorder=3,
        )  # fmt: skip
    for curve, colour in edges if several else []:
        for bound in (curve.lo, curve.hi):
            axes.plot(curve.layers, bound, color=theme.over_white(colour, 0.55), linewidth=0.4, zorder=2)
    axes.axhline(0, color=theme.FAINT, linewidth=0.5, zorder=0)
    layers = sorted({layer for _, curve in view.series for layer in curve.layers.tolist()})
    step = _layer_step(len(layers), (wide - left - right) / max(len(layers), 1), _TICK * 1.6)
    axes.set_xlim(layers[0] - 0.4, layers[-1] + 0.4)
    _ticks(axes.xaxis, [layer for layer in layers if layer % step == 0], fonts)
    axes.set_xlabel("layer (0 = embedding output)", labelpad=2, **fonts.style(_LABEL))
    axes.set_ylabel(view.quantity, labelpad=2, **fonts.style(_LABEL))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _number_ticks(axes.yaxis, fonts)
    axes.spines[["top", "right"]].set_visible(False)
    if several:
        box = axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, borderpad=0, borderaxespad=0.4,
            handlelength=2.4, handletextpad=0.5, columnspacing=1.0, labelspacing=0.25,
            prop={"family": fonts.families, "size": _TICK},
        )  # fmt: skip
        box.set_zorder(4)
    return figure


def _plan(
    view: HeatmapView, labels: list[str], fonts: Fonts, inches: float, header: Header, height: float | None
) -> _Plan:
    n_layers, n_columns = view.values.shape
    wide, has_profile = inches * 72, view.profile is not None
    left = 15 + fonts.width(str(int(view.layers[-1])), _TICK)
    gap, right = (_gap(inches), 6.0) if has_profile else (0.0, _EDGE)
    beside = np.clip(0.14 * wide, 34, 76) if has_profile else 0.0
    room = wide - left - gap - beside - right
    lines = math.ceil(n_columns * _PITCH[0] / room)
    per_line = math.ceil(n_columns / lines)
    pitch = room / per_line
    if pitch > _PITCH[1] and has_profile:  # few tokens: the profile takes what the cells do not need
        beside = min(beside + (pitch - _PITCH[1]) * per_line, 0.34 * wide)
        pitch = (wide - left - gap - beside - right) / per_line
    size, angle, below = _label_fit(labels, view.marked, fonts, pitch, left)
    if has_profile:
        below = max(below, 2 + _LINE * (_SMALL * 2 + _TICK))
    marks = 7.0 if view.marked.any() else 3.0
    scale = 4 + _SMALL * _LINE + 2
    top = _header_height(fonts, header, inches) + _EDGE + scale + marks
    row = float(np.clip(144 / n_layers, 4.4, 12.0))
    total = top + lines * (row * n_layers + below) + (lines - 1) * marks + _EDGE
    if height is not None:
        row = (72 * height - top - lines * below - (lines - 1) * marks - _EDGE) / (lines * n_layers)
        if row < 1.5:
            raise FigureError(f"height={height!r} is too little for {n_layers} layers; about {total / 72:.1f} would do")
        total = 72 * height
    return _Plan(left, pitch, row, per_line, lines, beside, size, angle, below, marks, top, total)


def _label_fit(
    labels: list[str], marked: np.ndarray, fonts: Fonts, pitch: float, left: float
) -> tuple[float, int, float]:
    """Size, angle and height of the tokens' labels: upright if they fit, else slanted, else vertical."""

    def widths(size: float) -> list[float]:
        return [fonts.width(label, size, _weight(m)) for label, m in zip(labels, marked, strict=True)]

    for size in (_TICK, 6.0):
        if max(widths(size)) <= pitch - 2.5:
            return size, 0, 3 + size * _LINE
    slanted = widths(_TICK)
    reach = [width * math.cos(math.pi / 4) for width in slanted]
    inside = all(r <= left + (i + 0.5) * pitch - _EDGE for i, r in enumerate(reach))
    if pitch * math.sin(math.pi / 4) >= _TICK * _LINE and inside:
        return _TICK, 45, 4 + max(reach) + _TICK * 0.7
    size = float(np.clip(pitch / _LINE, 4.6, _TICK))
    return size, 90, 4 + max(widths(size))


def _draw_cells(axes: Axes, view: HeatmapView, chosen: slice, bound: float, size: float, fonts: Fonts) -> None:
    values = view.values[:, chosen]
    n_layers, n_columns = values.shape
    axes.pcolormesh(
        np.arange(n_columns + 1) - 0.5,
        np.arange(n_layers + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=_colours(),
        norm=Normalize(-bound, bound),
        edgecolors="white",
        linewidth=0.3,
    )
    if size:
        for layer, row in enumerate(values):
            for column, value in enumerate(row):
                text = cell_text(float(value))
                if text:
                    axes.text(
                        column, layer, text, ha="center", va="center_baseline",
                        color=theme.text_colour(float(value), bound), **fonts.style(size),
                    )  # fmt: skip
    columns = np.flatnonzero(view.marked[chosen])
    if len(columns):
        axes.plot(
            columns, np.ones(len(columns)), transform=axes.get_xaxis_transform(), clip_on=False, linestyle="",
            marker=[(-1, 2.2), (1, 2.2), (0, 0.6)], markersize=3.4, markeredgewidth=0, color=theme.ACCENT,
        )  # fmt: skip
    axes.set_xlim(-0.5, n_columns - 0.5)
    axes.set_ylim(-0.5, n_layers - 0.5)
    axes.spines[:].set_visible(False)


def _label_tokens(axes: Axes, labels: list[str], marked: np.ndarray, plan: _Plan, fonts: Fonts) -> None:
    where: dict[str, Any] = {
        0: {"ha": "center", "va": "top"},
        45: {"ha": "right", "va": "top", "rotation_mode": "anchor"},
        90: {"ha": "center", "va": "top"},
    }[plan.angle]
    axes.set_xticks([])
    for column, (label, mark) in enumerate(zip(labels, marked, strict=True)):
        nudge = 0.35 * plan.size if plan.angle == 45 else 0.0
        axes.annotate(
            label, (column, 0), xytext=(nudge, -2.5), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            rotation=plan.angle, color=theme.ACCENT if mark else theme.INK, annotation_clip=False,
            **where, **fonts.style(plan.size, _weight(mark)),
        )  # fmt: skip


def _label_layers(axes: Axes, view: HeatmapView, plan: _Plan, fonts: Fonts) -> None:
    step = _layer_step(len(view.layers), plan.row, _TICK * 1.1)
    shown = [i for i, layer in enumerate(view.layers.tolist()) if layer % step == 0]
    _ticks(axes.yaxis, shown, fonts, [str(int(view.layers[i])) for i in shown])
    axes.set_ylabel("layer", labelpad=2, **fonts.style(_LABEL))


def _draw_scale(figure: Figure, quantity: str, bound: float, plan: _Plan, fonts: Fonts) -> None:
    """The colour scale: many small vector boxes above the cells, right-aligned with them."""
    wide = min(0.55 * plan.cells, 80.0)
    left, top = plan.left + plan.cells - wide, plan.top - plan.marks - 4
    axes = _axes(figure, left, top, wide, 4)
    edges = np.linspace(-bound, bound, 129)
    axes.pcolormesh(
        edges, [0, 1], [(edges[:-1] + edges[1:]) / 2], cmap=_colours(), norm=Normalize(-bound, bound),
        edgecolors="face", linewidth=0.2,
    )  # fmt: skip
    axes.set(xlim=(-bound, bound), ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    step = _nice_below(bound)
    axes.xaxis.set_ticks_position("top")
    _ticks(axes.xaxis, [-step, 0, step], fonts, [_short(v) for v in (-step, 0.0, step)], size=_SMALL)
    axes.tick_params(axis="x", length=1.5, pad=0.5)
    axes.annotate(
        quantity, (0, 0.5), xytext=(-3, 0), xycoords="axes fraction", textcoords="offset points", ha="right",
        va="center_baseline", color=theme.INK, **fonts.style(_SMALL),
    )  # fmt: skip


def _draw_beside(axes: Axes, curve: LayerProfile, unit: str, span: tuple[float, float], fonts: Fonts) -> None:
    place = np.arange(len(curve.layers))
    if curve.lo is not None and curve.hi is not None:
        axes.fill_betweenx(place, curve.lo, curve.hi, color=theme.over_white(theme.SERIES[0], 0.2), linewidth=0)
    axes.axvline(0, color=theme.FAINT, linewidth=0.5, zorder=0)
    axes.plot(curve.value, place, color=theme.SERIES[0], linewidth=1.0, marker="o", markersize=2.2, markeredgewidth=0)
    axes.set_ylim(*span)
    axes.set_yticks([])
    seen = np.concatenate([[0.0], *(v[np.isfinite(v)] for v in (curve.value, curve.lo, curve.hi) if v is not None)])
    low, high = float(seen.min()), float(seen.max())
    room = 0.08 * (high - low or 1.0)
    axes.set_xlim(low - room, high + room)
    step = _nice_below(max(-low, high) or 1.0)
    shown = [v for v in (-step, 0.0, step) if low - room <= v <= high + room]
    _ticks(axes.xaxis, shown, fonts, [_short(v) for v in shown], size=_SMALL)
    axes.set_xlabel(f"{curve.aggregate} over\n{unit}", labelpad=1, linespacing=1.0, **fonts.style(_SMALL))
    axes.spines[["left", "top", "right"]].set_visible(False)


def _value_size(view: HeatmapView, plan: _Plan, fonts: Fonts, values: Literal["auto"] | bool) -> float:
    """Font size of the cells' numbers; 0 = none."""
    texts = {cell_text(float(value)) for value in view.values.ravel()} - {""}
    if values is False or not texts:
        return 0.0
    for size in (6.0, 5.5, 5.0, 4.5):
        if max(fonts.width(text, size) for text in texts) <= plan.pitch - 1.2 and size * 1.1 <= plan.row:
            return size
    return 4.5 if values is True else 0.0


def _header_height(fonts: Fonts, header: Header, inches: float) -> float:
    title, notes = _header_lines(fonts, header, inches)
    return len(title) * 8 * _LINE + len(notes) * _SMALL * 1.3 + (3 if title or notes else 0)


def _header_lines(fonts: Fonts, header: Header, inches: float) -> tuple[list[str], list[str]]:
    """The title and the notes in lines that fit: an average character is about half as wide as it is high."""
    title, notes = header
    lines = wrap_phrases((fonts.drawable(title),), int((inches * 72 - 2 * _EDGE) / (8 * 0.62))) if title else []
    about = tuple(fonts.drawable(note) for note in notes)
    return lines, wrap_phrases(about, int((inches * 72 - 2 * _EDGE) / (_SMALL * 0.58))) if notes else []


def _write_header(figure: Figure, fonts: Fonts, header: Header, height: float, inches: float) -> None:
    title, notes = _header_lines(fonts, header, inches)
    top = _EDGE
    for lines, size, weight, colour, line_height in (
        (title, 8.0, "bold", theme.INK, 8 * _LINE),
        (notes, _SMALL, "normal", theme.MUTED, _SMALL * 1.3),
    ):
        for line in lines:
            style = fonts.style(size, "bold" if weight == "bold" else "normal")
            figure.text(_EDGE / (inches * 72), 1 - top / height, line, ha="left", va="top", color=colour, **style)
            top += line_height


def _figure(inches: float, height: float) -> Figure:
    figure = Figure(figsize=(inches, round(height, 2) / 72))
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, left: float, top: float, wide: float, high: float) -> Axes:
    """Axes at a place given in points from the top left corner."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
    axes.tick_params(colors=theme.INK)
    for spine in axes.spines.values():
        spine.set_color(theme.FAINT)
    axes.xaxis.label.set_color(theme.INK)
    axes.yaxis.label.set_color(theme.INK)
    return axes


def _ticks(axis: Any, places: list[Any], fonts: Fonts, labels: list[str] | None = None, size: float = _TICK) -> None:
    axis.set_ticks(places, labels if labels is not None else [str(place) for place in places], **fonts.style(size))


def _number_ticks(axis: Any, fonts: Fonts) -> None:
    for label in axis.get_ticklabels():
        label.set(**fonts.style(_TICK))


def _layer_step(n_layers: int, pitch: float, needed: float) -> int:
    for step in (1, 2, 4, 6, 8, 12):
        if step * pitch >= needed:
            return step
    return max(12, n_layers // 2)


def _nice_below(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return max((m * power for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)), default=power)


def _short(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _gap(inches: float) -> float:
    return 5.0 if inches < 5 else 9.0


def _weight(marked: Any) -> Weight:
    return "bold" if marked else "normal"


def _colours() -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("tracescribe", theme.DIVERGING, N=1024)

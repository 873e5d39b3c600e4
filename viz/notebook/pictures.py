"""Small SVG pictures of maps and profiles for notebooks: cells by colour, bars; no script, any theme."""

from __future__ import annotations

import re
from html import escape

import numpy as np
from jaxtyping import Float

from ...cards import Markup
from .. import theme
from ..figure_data.heatmap import HeatmapData
from ..figure_data.labels import number, shorten

__all__ = ["bars_svg", "cells_svg", "patches_svg"]

_LABELS, _CELL, _WIDE = 132, 15, 22  # pixels: the names' column, a cell's height, its largest width
_STEPS = 25  # shades on each side of 0: what an eye tells apart at this size
_TALLEST = 420
_PATCH = re.compile(r"patch (\d+),(\d+)")  # as trace_images names its columns


def cells_svg(view: HeatmapData) -> Markup:
    """Layers across, tokens down, as in the published figures; below them the profile as bars, where there is one."""
    n_layers, n_rows = view.values.shape
    wide = max(5.0, min(_WIDE, 620 / n_layers))
    bars = view.profile
    foot = 16 + (46 if bars is not None else 0)
    width, height = _LABELS + wide * n_layers + 8, _CELL * n_rows + foot
    places = [(at, row, at, row) for row in range(n_rows) for at in range(n_layers)]
    parts = [*_cells(view, places, f"translate({_LABELS} 0) scale({wide:.4g} {_CELL})"), *_names(view)]
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64) if s * wide >= 18 or s == 64)
    for at, layer in enumerate(view.layers.tolist()):
        if at % step == 0:
            parts.append(_text(_LABELS + (at + 0.5) * wide, _CELL * n_rows + 12, str(layer), "middle"))
    parts.append(_text(_LABELS - 6, _CELL * n_rows + 12, "layer", "end"))
    if bars is not None:
        where = np.searchsorted(view.layers, bars.layers)
        parts.append(_bars(bars.value, where, wide, _CELL * n_rows + 18, 40))
        parts.append(_text(_LABELS - 6, _CELL * n_rows + 42, view.profile_name, "end"))
    scale = f"colours from −{view.limit:g} (blue) to {view.limit:g} (red)"
    said = f"{view.quantity} by layer (across) and {view.unit}; {scale}"
    svg = _svg(width, height, said, parts)
    return Markup(f'<div style="max-height:{_TALLEST}px;overflow:auto;margin:4px 0">{svg}</div>')


def patches_svg(view: HeatmapData) -> Markup | None:
    """The map of an image tower as one grid of patches per layer; None of columns that are no single patches."""
    places = {at: (int(m[1]), int(m[2])) for at, c in enumerate(view.columns) if (m := _PATCH.fullmatch(c))}
    if not places:
        return None
    high, wide = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    size = max(3.0, min(10.0, 96 / max(high, wide)))
    drawn = []
    for i, layer in enumerate(view.layers.tolist()):
        boxes = [(i, at, column, row) for at, (row, column) in places.items()]
        paths = _cells(view, boxes, f"translate(0 14) scale({size:.4g})")
        named = f'<text x="0" y="10">layer {layer}</text>'
        drawn.append(
            _svg(max(wide * size, 48), high * size + 14, f"{view.quantity} by patch, layer {layer}", [named, *paths])
        )
    rest = len(view.columns) - len(places)
    more = f"<div>{rest} other columns are in .heatmap()</div>" if rest else ""
    scale = f"<div>colours from −{view.limit:.3g} (blue) to {view.limit:.3g} (red)</div>"
    grids = f'<div style="display:flex;flex-wrap:wrap;gap:8px;margin:4px 0">{"".join(drawn)}</div>'
    return Markup(f'<div style="max-height:{_TALLEST}px;overflow:auto">{grids}{scale}{more}</div>')


def bars_svg(
    values: Float[np.ndarray, "layer"],
    layers: list[int],
    label: str,
    lo: Float[np.ndarray, "layer"] | None = None,
    hi: Float[np.ndarray, "layer"] | None = None,
) -> Markup:
    """One bar per layer with its interval, and its number in the hover text."""
    wide = max(5.0, min(26.0, 620 / len(layers)))
    tall = 64
    parts = [_bars(values, np.arange(len(layers)), wide, 6, tall, lo, hi)]
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64) if s * wide >= 18 or s == 64)
    parts += [
        _text(_LABELS + (i + 0.5) * wide, tall + 20, str(n), "middle") for i, n in enumerate(layers) if i % step == 0
    ]
    parts += [_text(_LABELS - 6, tall + 20, "layer", "end"), _text(_LABELS - 6, tall / 2 + 8, label, "end")]
    said = f"{label} by layer: " + ", ".join(f"{n}: {number(v, 2)}" for n, v in zip(layers, values, strict=True))
    svg = _svg(_LABELS + wide * len(layers) + 8, tall + 26, said, parts)
    return Markup(f'<div style="overflow:auto;margin:4px 0">{svg}</div>')


def _svg(width: float, height: float, said: str, parts: list[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(said)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-size="11" font-family="sans-serif" fill="currentColor">'
        f"<title>{escape(said)}</title>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(shorten(text, 21))}</text>'


def _names(view: HeatmapData) -> list[str]:
    return [
        _text(_LABELS - 6, _CELL * (row + 0.5) + 4, label, "end", ' font-weight="bold"' if mark else "")
        for row, (label, mark) in enumerate(zip(view.labels, view.marked, strict=True))
    ]


def _cells(view: HeatmapData, places: list[tuple[int, int, int, int]], transform: str) -> list[str]:
    """Cells by colour, and a dash in those below 0, whose colour alone does not tell its sign in grey.

    places: layer and column of a cell, and where it stands, in cells. transform: from cells to pixels. One path per
    colour: thousands of cells stay a few kilobytes.
    """
    below = view.below_zero
    shades: dict[str, list[str]] = {}
    dashes: dict[str, list[str]] = {}
    for layer, column, x, y in places:
        value = float(view.values[layer, column])
        shades.setdefault(_shade(value, view), []).append(f"M{x} {y}h.97v.97h-.97z")
        if below[layer, column]:
            dashes.setdefault(theme.text_colour(value, view.limit, view.palette), []).append(f"M{x}.3 {y}.5h.4")
    drawn = [f'<path fill="{shade}" d="{"".join(cells)}"/>' for shade, cells in shades.items()]
    drawn += [f'<path stroke="{ink}" stroke-width=".08" d="{"".join(lines)}"/>' for ink, lines in dashes.items()]
    return [f'<g transform="{transform}">', *drawn, "</g>"]


def _shade(value: float, view: HeatmapData) -> str:
    if not np.isfinite(value):
        return theme.MISSING
    step = round(_STEPS * float(np.clip(value / view.limit, -1, 1)))
    return "#" + "".join(f"{round(255 * part):02x}" for part in theme.colour_at(step / _STEPS, 1.0, view.palette))


def _bars(
    values: Float[np.ndarray, "layer"],
    at: np.ndarray,
    wide: float,
    top: float,
    tall: float,
    lo: Float[np.ndarray, "layer"] | None = None,
    hi: Float[np.ndarray, "layer"] | None = None,
) -> str:
    low, high = theme.axis_ends(values, lo, hi)
    scale = tall / (high - low)
    zero = top + high * scale
    parts = []
    for i, (column, value) in enumerate(zip(at.tolist(), values.tolist(), strict=True)):
        if not np.isfinite(value):
            continue
        left, size = _LABELS + column * wide, abs(value) * scale
        parts.append(
            f'<rect x="{left + 0.1 * wide:.1f}" y="{min(zero, zero - value * scale):.1f}" width="{0.8 * wide:.1f}" '
            f'height="{size:.1f}" fill="{theme.SERIES[0]}"><title>{number(value)}</title></rect>'
        )
        if lo is not None and hi is not None and np.isfinite([lo[i], hi[i]]).all():
            middle = left + 0.5 * wide
            parts.append(
                f'<path stroke="currentColor" d="M{middle:.1f} {zero - hi[i] * scale:.1f}V{zero - lo[i] * scale:.1f}"/>'
            )
    across = wide * (max(at.tolist(), default=0) + 1)
    parts.append(f'<path stroke="currentColor" stroke-opacity=".5" d="M{_LABELS} {zero:.1f}h{across:.1f}"/>')
    return "".join(parts)

"""Shared by all plotly figures: layout, axes, header, and a colour bar that marks a cut-off scale."""

from __future__ import annotations

from typing import Any

from ...errors import FigureError
from ...io.quoting import shown
from ...validation import Number
from .. import theme
from ..figure_data.labels import MINUS, plotly_text
from ..figure_data.numbers import nice_below

__all__ = ["check_size", "header_title", "plotly_axis", "plotly_layout", "scale_ticks"]


def check_size(name: str, pixels: Any) -> None:
    """Refuse a width or height that no figure has; None is decided from the content.

    Raises:
        FigureError: quotes it.

    >>> check_size("height", 0)
    Traceback (most recent call last):
    tracescribe.errors.FigureError: height must be 10 to 100000 pixels, not 0
    """
    try:
        fits = pixels is None or Number(10, 10**5).read(pixels) > 0
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise FigureError(f"{name} must be 10 to 100000 pixels, not {shown(pixels)}")


def plotly_layout() -> dict[str, Any]:
    """What every plotly figure's layout starts from."""
    return {
        "template": "none",
        "font": {"family": theme.FONTS, "size": 12, "color": theme.INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hoverlabel": {
            "font": {"family": theme.FONTS, "size": 12, "color": theme.INK},
            "bgcolor": "#ffffff",
            "align": "left",
        },
        "colorway": list(theme.SERIES),
    }


def plotly_axis(**settings: Any) -> dict[str, Any]:
    """What every plotly axis starts from."""
    return {
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "tickfont": {"size": 11, "color": theme.INK},
        "title": {"font": {"size": 12, "color": theme.MUTED}},
        "automargin": True,
        **settings,
    }


def header_title(titles: list[str], notes: list[str]) -> dict[str, Any] | None:
    """Lines of the title and of the notes as plotly's title; None without any."""
    lines = [f"<b>{plotly_text(line)}</b>" for line in titles]
    lines += [f'<span style="font-size:12px;color:{theme.MUTED}">{plotly_text(line)}</span>' for line in notes]
    if not lines:
        return None
    return {
        "text": "<br>".join(lines),
        "font": {"size": 16, "color": theme.INK},
        "x": 0,
        "xref": "paper",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 14, "l": 0},
    }


def scale_ticks(limit: float, clipped: tuple[bool, bool]) -> dict[str, Any]:
    """Ticks of a colour bar from -limit to limit; "≤" and "≥" at an end that stands for everything beyond it."""
    if not any(clipped):
        return {"nticks": 7}
    step = nice_below(limit)
    inner = [value for value in (-step, 0.0, step) if abs(value) < 0.9 * limit]
    below, above = ("≤ " if clipped[0] else ""), ("≥ " if clipped[1] else "")
    values = [-limit, *inner, limit]
    names = [f"{value:g}".replace("-", MINUS) for value in values]
    return {"tickmode": "array", "tickvals": values, "ticktext": [below + names[0], *names[1:-1], above + names[-1]]}

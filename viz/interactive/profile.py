"""The interactive layer profile: CTE per layer with its bootstrap band, for one result or several side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import theme
from ..figure_data import ProfileData
from ..figure_data.labels import number, plotly_text, wrap_phrases
from .layout import check_size, header_title, plotly_axis, plotly_layout

if TYPE_CHECKING:
    from .figure import NotebookFigure

__all__ = ["draw_profile"]

# Curves differ in more than colour: by dash and marker in plotly's terms, in this order.
_DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "solid", "dash")
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")


def draw_profile(view: ProfileData, *, width: int, height: int) -> NotebookFigure:
    """Curves with their bands; a legend where there are several."""
    check_size("width", width)
    check_size("height", height)
    import plotly.graph_objects as go

    from .figure import NotebookFigure

    figure = NotebookFigure(layout=plotly_layout())
    several = len(view.series) > 1
    for i, (name, curve) in enumerate(view.series):
        colour, form = theme.series_style(i, len(_SYMBOLS))
        layers = curve.layers.tolist()
        shown = plotly_text(name)
        spread = [""] * len(layers)
        if curve.lo is not None and curve.hi is not None:
            lo, hi = curve.lo.tolist(), curve.hi.tolist()
            spread = [f"<br>{curve.ci or 0:.0%} CI {number(a)} to {number(b)}" for a, b in zip(lo, hi, strict=True)]
            figure.add_trace(
                go.Scatter(
                    x=[*layers, *layers[::-1]],
                    y=[*hi, *lo[::-1]],
                    fill="toself",
                    fillcolor=colour,
                    opacity=0.18,
                    line={"width": 0, "color": colour},
                    mode="lines",
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=str(i),
                    name="interval",
                )
            )
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=[value if np.isfinite(value) else None for value in curve.value.tolist()],
                mode="lines+markers",
                line={"color": colour, "width": 2.2, "dash": _DASHES[form]},
                marker={"size": 7, "symbol": _SYMBOLS[form], "color": colour},
                hovertext=[
                    f"{f'<b>{shown}</b><br>' if shown else ''}{view.unit} {layer}<br>CTE {number(value)}{more}"
                    for layer, value, more in zip(layers, curve.value.tolist(), spread, strict=True)
                ],
                hoverinfo="text",
                showlegend=several,
                legendgroup=str(i),
                name=shown,
            )
        )
    titles = wrap_phrases((view.title,), round((width - 110) / 8.2)) if view.title else []
    notes = wrap_phrases(view.notes, round((width - 70) / 5.9)) if view.title else []
    all_layers = sorted({layer for _, curve in view.series for layer in curve.layers.tolist()})
    step = max(1, round(len(all_layers) * 24 / (width - 100)))
    figure.update_layout(
        width=width,
        height=height,
        margin={"l": 62, "r": 24, "t": 20 + 22 * len(titles) + 17 * len(notes) + (26 if several else 0), "b": 54},
        title=header_title(titles, notes),
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12, "color": theme.INK},
        },
        xaxis=plotly_axis(
            title={"text": view.axis_name, "font": {"size": 12, "color": theme.MUTED}},
            tickmode="array",
            tickvals=view.ticks(step, (width - 100) / 34),
            showline=True,
            linecolor=theme.FAINT,
        ),
        yaxis=plotly_axis(
            title={"text": plotly_text(view.quantity), "font": {"size": 12, "color": theme.MUTED}},
            showgrid=True,
            gridcolor=theme.GRID,
            zeroline=True,
            zerolinecolor=theme.FAINT,
            range=list(view.span),
        ),
    )
    return figure

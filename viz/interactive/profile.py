"""The interactive layer profile: CTE per layer with its bootstrap band, for one result or several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import theme
from ..figure_data import Profiled, profile_view
from ..labels import number, plotly_text, wrap_phrases

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["DASHES", "SYMBOLS", "profile"]

# Curves differ in more than colour: by dash and marker in plotly's terms, in this order.
DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "solid", "dash")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "x", "circle-open", "square-open")


def profile(
    sources: Profiled | Mapping[str, Profiled],
    *,
    title: str | None = None,
    width: int = 680,
    height: int = 380,
    **options: Any,
) -> go.Figure:
    """CTE per layer with confidence bands, as a plotly figure.

    sources: a CausalTrace, TraceMap, LayerProfile or Excess, or a dict from names to these: a trace and its controls.
    title: in place of the default one; "" for none, then the notes under it go too.
    options: of :meth:`CausalTrace.per_layer` (``aggregate``, ``ci``, ``n_boot``, ``seed``, ``reduce``, ...).

    Raises:
        FigureError: something that has no profile, or an option that does not apply.

    >>> from tracescribe.tracer import LayerProfile
    >>> curve = LayerProfile(np.array([1.0, 0.9, 1.0]), np.arange(3), "sum", n_pairs=4, n_groups=4)
    >>> profile({"negation": curve, "severity": curve}).data[-1].name
    'severity'
    """
    import plotly.graph_objects as go

    view = profile_view(sources, **options)
    figure = go.Figure(layout=theme.plotly_layout())
    several = len(view.series) > 1
    for i, (name, curve) in enumerate(view.series):
        colour = theme.SERIES[i % len(theme.SERIES)]
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
                line={"color": colour, "width": 2.2, "dash": DASHES[i % len(DASHES)]},
                marker={"size": 7, "symbol": SYMBOLS[i % len(SYMBOLS)], "color": colour},
                hovertext=[
                    f"{f'<b>{shown}</b><br>' if shown else ''}layer {layer}<br>CTE {number(value)}{more}"
                    for layer, value, more in zip(layers, curve.value.tolist(), spread, strict=True)
                ],
                hoverinfo="text",
                showlegend=several,
                legendgroup=str(i),
                name=shown,
            )
        )
    headline = view.title if title is None else title
    titles = wrap_phrases((headline,), round((width - 110) / 8.2)) if headline else []
    notes = wrap_phrases(view.notes, round((width - 70) / 5.9)) if headline else []
    header = [f"<b>{plotly_text(line)}</b>" for line in titles]
    header += [f'<span style="font-size:12px;color:{theme.MUTED}">{plotly_text(line)}</span>' for line in notes]
    all_layers = sorted({layer for _, curve in view.series for layer in curve.layers.tolist()})
    step = max(1, round(len(all_layers) * 24 / (width - 100)))
    figure.update_layout(
        width=width,
        height=height,
        margin={"l": 62, "r": 24, "t": 20 + 22 * len(titles) + 17 * len(notes) + (26 if several else 0), "b": 54},
        title={
            "text": "<br>".join(header),
            "font": {"size": 16, "color": theme.INK},
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
        }
        if header
        else None,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12, "color": theme.INK},
        },
        xaxis=theme.plotly_axis(
            title={"text": "layer (0 = embedding output)", "font": {"size": 12, "color": theme.MUTED}},
            tickmode="array",
            tickvals=[layer for layer in all_layers if layer % step == 0],
            showline=True,
            linecolor=theme.FAINT,
        ),
        yaxis=theme.plotly_axis(
            title={"text": view.quantity, "font": {"size": 12, "color": theme.MUTED}},
            showgrid=True,
            gridcolor=theme.GRID,
            zeroline=True,
            zerolinecolor=theme.FAINT,
            range=list(view.span),
        ),
    )
    return figure

"""The interactive heatmap: layer × token with real token strings, and the layer profile beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ...tracer.results.maps import LayerProfile
from .. import theme
from ..figure_data.heatmap import HeatmapData
from ..figure_data.labels import cell_text, number, plotly_text, shorten, text_units, wrap_phrases
from .layout import check_size, header_title, plotly_axis, plotly_layout, scale_ticks

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from .figure import NotebookFigure

__all__ = ["draw_heatmap"]

_LEFT, _RIGHT, _GAP, _PROFILE = 58, 86, 16, 150
_CELLS = (380, 600)  # pixels: the cells of few tokens are not stretched, those of many are not crushed
_PITCH = (17, 68)
_VALUE_SIZE, _TICK_SIZE = 10.5, 11
_ABOVE = 11  # characters of a line above the colours: what the right margin holds


def draw_heatmap(
    view: HeatmapData, *, values: Literal["auto"] | bool, width: int | None, height: int | None
) -> NotebookFigure:
    """Cells with hover text, the layer profile beside them on the same layer axis, title and notes above."""
    from .figure import NotebookFigure

    check_size("width", width)
    check_size("height", height)
    frame = _Frame(view, width, height)
    figure = NotebookFigure(layout=plotly_layout())
    written = frame.values_fit if values == "auto" else bool(values)
    figure.add_trace(_cells(view, written))
    if not written and view.below_zero.any():
        _add_dashes(figure, view, frame)
    if view.profile is not None:
        _add_profile(figure, view.profile, plotly_text(view.profile_name))
    if not np.isfinite(view.values).all():
        _add_missing(figure, view)
    _lay_out(figure, view, frame)
    return figure


class _Frame:
    """Pixels: plotly does not fit text into margins or cells by itself."""

    def __init__(self, view: HeatmapData, width: int | None, height: int | None) -> None:
        n_layers, n_columns = view.values.shape
        beside = _GAP + _PROFILE if view.profile is not None else 0
        least, most = _PITCH
        if width is None:
            cells = float(np.clip(n_columns * 62, *_CELLS))
            cells = float(np.clip(cells, n_columns * least, max(n_columns * most, 240)))
        else:
            cells = max(width - _LEFT - _RIGHT - beside, 120)
        self.pitch = cells / max(n_columns, 1)
        self.width = round(_LEFT + cells + beside + _RIGHT)
        self.cells_end = cells / (cells + beside)
        self.profile_start = (cells + _GAP) / (cells + beside) if beside else 1.0

        self.ticks = [shorten(label, 24 if view.counts is None else 32) for label in view.labels]
        # Bold text, which marks the differing tokens, is wider.
        longest = max((text_units(tick) * (1.1 if m else 1) for tick, m in zip(self.ticks, view.marked, strict=True)))
        self.angle = 0 if longest * _TICK_SIZE + 8 <= self.pitch else -45 if self.pitch >= 24 else -90
        reach = {0: 1.4, -45: longest * 0.72 + 1.2, -90: longest + 0.8}[self.angle]
        self.bottom = max(round(10 + reach * _TICK_SIZE), 46 if beside else 26)  # the profile's own axis needs 46

        self.title = wrap_phrases((view.title,), round((self.width - _LEFT - 50) / 8.2)) if view.title else []
        self.notes = wrap_phrases(view.notes, round((self.width - _LEFT - 10) / 5.9)) if view.title else []
        marks = 14 if view.marked.any() else 4
        self.top = 12 + 21 * len(self.title) + 16 * len(self.notes) + (4 if self.title else 0) + marks

        self.row = float(np.clip(430 / n_layers, 13, 34))
        self.height = height or round(self.row * n_layers + self.top + self.bottom)
        if height:
            self.row = max(height - self.top - self.bottom, 1) / n_layers

        widest = max((len(cell_text(v)) for v in view.values.ravel()), default=0)
        self.values_fit = widest * _VALUE_SIZE * 0.58 + 4 <= self.pitch and self.row >= _VALUE_SIZE + 3


def _cells(view: HeatmapData, written: bool) -> go.Heatmap:
    import plotly.graph_objects as go

    stops = np.linspace(0, 1, len(theme.PALETTES[view.palette]))
    tokens, quantity = [plotly_text(label) for label in view.labels], plotly_text(view.quantity)
    above = "<br>".join(map(plotly_text, wrap_phrases((view.quantity,), _ABOVE)))
    extra = [""] * len(tokens) if view.counts is None else [f"<br>{n:,} pairs" for n in view.counts.tolist()]
    hover = [
        [f"<b>{token}</b><br>layer {layer}<br>{quantity} {number(value)}{more}"
         for token, value, more in zip(tokens, row, extra, strict=True)]
        for layer, row in zip(view.layers.tolist(), view.values.tolist(), strict=True)
    ]  # fmt: skip
    return go.Heatmap(
        z=[[value if np.isfinite(value) else None for value in row] for row in view.values.tolist()],
        x=list(range(len(tokens))),
        y=view.layers.tolist(),
        zmin=-view.limit,
        zmax=view.limit,
        zmid=0,
        colorscale=[[float(stop), colour] for stop, colour in zip(stops, theme.PALETTES[view.palette], strict=True)],
        xgap=1,
        ygap=1,
        # Without a colour of its own, plotly writes each cell dark or light, whichever contrasts with the cell.
        text=[[cell_text(value) for value in row] for row in view.values.tolist()] if written else None,
        texttemplate="%{text}" if written else None,
        textfont={"size": _VALUE_SIZE, "family": theme.FONTS} if written else None,
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        name=quantity,
        colorbar={
            "title": {"text": above, "side": "top", "font": {"size": 12, "color": theme.MUTED}},
            "thickness": 10,
            "outlinewidth": 0,
            "x": 1.0,
            "xpad": 14,
            "len": 1.0,
            **scale_ticks(view.limit, view.clipped_ends),
            "tickfont": {"size": 10.5, "color": theme.INK},
            "ticks": "",
        },
    )


def _add_dashes(figure: go.Figure, view: HeatmapData, frame: _Frame) -> None:
    """A dash, as of a minus, in cells below 0 that have no number: printed in grey, colours lose their sign."""
    import plotly.graph_objects as go

    places = np.argwhere(view.below_zero).tolist()
    inks = [theme.text_colour(float(view.values[layer, column]), view.limit, view.palette) for layer, column in places]
    figure.add_trace(
        go.Scatter(
            x=[column for _, column in places],
            y=[int(view.layers[layer]) for layer, _ in places],
            mode="markers",
            marker={
                "symbol": "line-ew",
                "size": min(7.0, 0.5 * frame.pitch),
                "line": {"width": min(1.25, 0.2 * frame.row), "color": inks},
            },
            hoverinfo="skip",
            showlegend=False,
            name="below 0",
        )
    )


def _add_missing(figure: go.Figure, view: HeatmapData) -> None:
    """Grey in the place of cells without a value, which must not look like 0."""
    import plotly.graph_objects as go

    figure.add_trace(
        go.Heatmap(
            z=[[None if np.isfinite(value) else 0 for value in row] for row in view.values.tolist()],
            x=list(range(len(view.columns))),
            y=view.layers.tolist(),
            colorscale=[[0, theme.MISSING], [1, theme.MISSING]],
            showscale=False,
            xgap=1,
            ygap=1,
            hoverinfo="skip",
            name="no value",
        )
    )


def _add_profile(figure: go.Figure, curve: LayerProfile, label: str) -> None:
    import plotly.graph_objects as go

    layers = curve.layers.tolist()
    spread = [""] * len(layers)
    if curve.lo is not None and curve.hi is not None:
        lo, hi = curve.lo.tolist(), curve.hi.tolist()
        spread = [f"<br>{curve.ci or 0:.0%} CI {number(a)} to {number(b)}" for a, b in zip(lo, hi, strict=True)]
        figure.add_trace(
            go.Scatter(
                x=[*hi, *lo[::-1]],
                y=[*layers, *layers[::-1]],
                xaxis="x2",
                fill="toself",
                fillcolor=theme.over_white(theme.SERIES[0], 0.2),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                name="interval",
            )
        )
    values = curve.value.tolist()
    figure.add_trace(
        go.Scatter(
            x=[value if np.isfinite(value) else None for value in values],
            y=layers,
            xaxis="x2",
            mode="lines+markers",
            line={"color": theme.SERIES[0], "width": 2},
            marker={"size": 5.5, "color": theme.SERIES[0]},
            hovertext=[
                f"layer {layer}<br>{label} {number(value)}{more}"
                for layer, value, more in zip(layers, values, spread, strict=True)
            ],
            hoverinfo="text",
            showlegend=False,
            name=label,
        )
    )
    low, high = theme.axis_ends(curve.value, curve.lo, curve.hi)
    room = 0.06 * (high - low)
    figure.update_layout(
        xaxis2=plotly_axis(
            title={"text": label, "font": {"size": 12, "color": theme.MUTED}, "standoff": 8},
            anchor="y",
            showgrid=True,
            gridcolor=theme.GRID,
            zeroline=True,
            zerolinecolor=theme.FAINT,
            zerolinewidth=1,
            nticks=4,
            range=[low - room, high + room],
        )
    )


def _lay_out(figure: go.Figure, view: HeatmapData, frame: _Frame) -> None:
    n_columns = view.values.shape[1]
    ticktext = [
        f'<b><span style="color:{theme.ACCENT}">{plotly_text(tick)}</span></b>' if marked else plotly_text(tick)
        for tick, marked in zip(frame.ticks, view.marked, strict=True)
    ]
    layers = view.layers.tolist()
    step = max(1, round(12 / frame.row))
    shown = [layer for layer in layers if layer % step == 0]
    figure.update_layout(
        width=frame.width,
        height=frame.height,
        margin={"l": _LEFT, "r": _RIGHT, "t": frame.top, "b": frame.bottom, "pad": 0},
        title=header_title(frame.title, frame.notes),
        xaxis=plotly_axis(
            domain=[0, frame.cells_end],
            range=[-0.5, n_columns - 0.5],
            tickmode="array",
            tickvals=list(range(n_columns)),
            ticktext=ticktext,
            tickangle=frame.angle,
            tickfont={"size": _TICK_SIZE, "color": theme.INK},
        ),
        yaxis=plotly_axis(
            title={"text": view.axis_name, "font": {"size": 12, "color": theme.MUTED}},
            range=[layers[0] - 0.5, layers[-1] + 0.5],
            tickmode="array",
            tickvals=shown,
            ticktext=[str(layer) for layer in shown],
            ticklabelstandoff=4,
        ),
    )
    if view.profile is not None:
        figure.update_layout(xaxis2={"domain": [frame.profile_start, 1.0]})
    for column in np.flatnonzero(view.marked).tolist():
        figure.add_annotation(
            x=column, xref="x", y=1, yref="paper", yanchor="bottom", yshift=-1, text="▾", showarrow=False,
            font={"size": 14, "color": theme.ACCENT},
        )  # fmt: skip

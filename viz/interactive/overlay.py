"""The interactive map over an image: one panel per layer; hovering shows the numbers."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from .. import theme
from ..figure_data.labels import number, plotly_text, wrap_phrases
from ..figure_data.overlay import OUTLINE, OverlayData, Segment, blended
from .layout import check_size, plotly_axis, plotly_layout, scale_ticks

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from .figure import NotebookFigure

__all__ = ["draw_overlay"]


def draw_overlay(view: OverlayData, width: int | None) -> NotebookFigure:
    """A panel per layer: the picture as an image, with transparent cells over it that carry the numbers."""
    check_size("width", width)
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from .figure import NotebookFigure

    n_panels = len(view.layers)
    across = min(n_panels, 4 if n_panels != 5 else 5)
    down = -(-n_panels // across)
    side = 210 if width is None else max(60, (width - 110 - 14 * (across - 1)) // across)
    rows, columns = view.outlined.shape
    tall = round(side * view.film.shape[0] / view.film.shape[1])
    plot_width = across * side + (across - 1) * 14
    notes = wrap_phrases(view.notes, round(plot_width / 6))
    top = 34 + (26 + 17 * len(notes) if view.title else 0)
    plot_height = down * tall + (down - 1) * 34
    figure = make_subplots(
        figure=NotebookFigure(),
        rows=down,
        cols=across,
        subplot_titles=[plotly_text(view.panel_title(at)) for at in range(n_panels)],
        horizontal_spacing=14 / plot_width,
        vertical_spacing=34 / plot_height if down > 1 else 0,
    )
    for at in range(n_panels):
        where = {"row": at // across + 1, "col": at % across + 1}
        picture = blended(view.film, view.values[at], view.limit, view.palette)
        dx, dy = columns / picture.shape[1], rows / picture.shape[0]
        # plotly puts a pixel's centre, not its corner, at x0, y0
        figure.add_trace(go.Image(source=_png(picture), x0=dx / 2, y0=dy / 2, dx=dx, dy=dy, hoverinfo="skip"), **where)
        figure.add_trace(_hover_cells(view, at), **where)
        for ink, segments in view.dashes(at).items():
            figure.add_trace(_dashes(segments, ink), **where)
        for (x0, y0), (x1, y1) in view.borders:
            figure.add_shape(type="line", x0=x0, y0=y0, x1=x1, y1=y1, line={"color": OUTLINE, "width": 1.5}, **where)
    figure.add_trace(_colour_bar(view), row=1, col=1)
    hidden: dict[str, Any] = {"showticklabels": False, "constrain": "domain"}
    figure.update_xaxes(plotly_axis(range=[0, columns], **hidden))
    figure.update_yaxes(plotly_axis(range=[rows, 0], **hidden))
    header = [f"<b>{plotly_text(view.title)}</b>"] if view.title else []
    header += [
        f'<span style="font-size:12px;color:{theme.MUTED}">{plotly_text(line)}</span>' for line in notes if view.title
    ]
    figure.update_layout(
        plotly_layout(),
        width=plot_width + 110,
        height=plot_height + top + 14,
        margin={"l": 14, "r": 96, "t": top, "b": 14, "pad": 0},
        title={"text": "<br>".join(header), "x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 12}},
    )
    figure.update_annotations(font={"size": 12, "color": theme.INK}, yshift=2)
    return figure


def _hover_cells(view: OverlayData, at: int) -> go.Heatmap:
    """Transparent cells that carry the numbers; the picture under them is drawn already."""
    import plotly.graph_objects as go

    rows, columns = view.outlined.shape
    values = view.values[at]
    return go.Heatmap(
        z=[[value if np.isfinite(value) else None for value in row] for row in values.tolist()],
        x0=0.5,
        dx=1,
        y0=0.5,
        dy=1,
        colorscale=[[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]],
        showscale=False,
        hovertext=[
            [f"<b>patch {r},{c}</b><br>layer {view.layers[at]}<br>CTE {number(values[r, c])}" for c in range(columns)]
            for r in range(rows)
        ],
        hoverinfo="text",
        name=f"layer {view.layers[at]}",
    )


def _dashes(segments: list[Segment], ink: str) -> go.Scatter:
    """The signs of patches below 0."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[x for (x0, _), (x1, _) in segments for x in (x0, x1, None)],
        y=[y for (_, y0), (_, y1) in segments for y in (y0, y1, None)],
        mode="lines",
        line={"color": ink, "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
        name="below 0",
    )


def _colour_bar(view: OverlayData) -> go.Scatter:
    """A trace without points that only carries the scale."""
    import plotly.graph_objects as go

    stops = np.linspace(0, 1, len(theme.PALETTES[view.palette]))
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={
            "color": [0],
            "cmin": -view.limit,
            "cmax": view.limit,
            "colorscale": [
                [float(stop), colour] for stop, colour in zip(stops, theme.PALETTES[view.palette], strict=True)
            ],
            "showscale": True,
            "colorbar": {
                "title": {"text": "CTE", "side": "top", "font": {"size": 12, "color": theme.MUTED}},
                **scale_ticks(view.limit, view.clipped_ends),
                "thickness": 10,
                "outlinewidth": 0,
                "tickfont": {"size": 10.5, "color": theme.INK},
                "ticks": "",
            },
        },
    )


def _png(picture: Float[np.ndarray, "y x 3"]) -> str:
    """A picture as a data URI: twenty times smaller than its numbers as JSON."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

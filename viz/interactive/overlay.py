"""Layer x patch maps of an image tower, drawn over the image: one panel a layer."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import FigureError
from ...tracer.results.causal_trace import CausalTrace
from .. import theme
from ..figure_data import pair_number
from ..labels import number, plotly_text, wrap_phrases

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["OverlayView", "export_overlay", "overlay", "overlay_view"]

MAX_PANELS = 8
OUTLINE = "#ffd400"  # yellow: on no grey film and on no red-blue scale
_ARROWS = {"foil->correct": "counterfactual → image", "correct->foil": "image → counterfactual"}


@dataclass(frozen=True, eq=False)
class OverlayView:
    """What there is to draw, whoever draws it.

    film: grey, 0 to 1, as wide and high as the tower's input, cut to what its grid covers.
    values: CTE by layer and cell of the grid; NaN where no column holds the cell, or several do.
    first: CTE by layer of each token before the patches. outlined: cells whose pixels differ.
    """

    film: Float[np.ndarray, "h w"]
    values: Float[np.ndarray, "layer row column"]
    layers: Int[np.ndarray, "layer"]
    first: dict[str, Float[np.ndarray, "layer"]]
    outlined: Bool[np.ndarray, "row column"]
    limit: float
    title: str
    notes: tuple[str, ...]

    @property
    def borders(self) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """Line segments (x0, y0), (x1, y1) around the outlined cells, in cells."""
        inside = np.pad(self.outlined, 1)
        segments = []
        for row, column in np.argwhere(inside[1:, :] != inside[:-1, :]):
            segments.append(((column - 1.0, float(row)), (float(column), float(row))))
        for row, column in np.argwhere(inside[:, 1:] != inside[:, :-1]):
            segments.append(((float(column), row - 1.0), (float(column), float(row))))
        return segments

    def panel_title(self, at: int) -> str:
        """The layer's name, with the effect of tokens that have no place on the film."""
        named = "".join(f" · {name} {number(values[at], 2)}" for name, values in self.first.items())
        return f"layer {self.layers[at]}{named}"


def overlay_view(
    trace: CausalTrace,
    image: Any,
    pair: int | str | None = None,
    layers: list[int] | None = None,
    limit: float | None = None,
) -> OverlayView:
    """The map of one pair of an image trace over its film.

    image: the pair's image as the model sees it: pixels [3, h, w] (``model.image.pixels(...)``), or a path, PIL image
        or array [h, w] or [h, w, 3] of the same aspect ratio as the model's input.
    pair: number or id of the pair; None where there is only one.
    layers: which layers get a panel; None = all of them, or, where there are more than eight, eight from first to last.
    limit: colours run from -limit to limit; None = the largest absolute value of a patch.

    Raises:
        FigureError: not an image trace, no such pair or layer, or an image of another shape.
    """
    if not isinstance(trace, CausalTrace) or trace.provenance.get("modality") != "image":
        raise FigureError("an overlay needs the result of trace_images; draw other traces with heatmap")
    if pair is None and trace.n_pairs > 1:
        raise FigureError(f"the trace has {trace.n_pairs} image pairs: choose one to draw, e.g. pair={trace.ids[0]!r}")
    i = pair_number(trace, 0 if pair is None else pair)
    tower = trace.provenance["tower"]
    grid, first = tuple(tower["grid"]), tower["first"]
    chosen = _chosen_layers(trace, layers)
    regions = trace.provenance["regions"]
    if regions is None:  # the set of differing patches, pair by pair
        regions = [np.flatnonzero(trace.differs[i]).tolist()]
    by_position = np.full((len(chosen), len(first) + grid[0] * grid[1]), np.nan)
    counts = np.bincount([position for own in regions for position in own], minlength=by_position.shape[1])
    cte = trace.cte[i, np.searchsorted(trace.layers, chosen)]
    for column, own in enumerate(regions):
        by_position[:, own] = cte[:, column, None]
    by_position[:, counts > 1] = np.nan
    named = {name: by_position[:, at] for at, name in enumerate(first) if np.isfinite(by_position[:, at]).any()}
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise FigureError(f"limit={limit!r}: colours need a finite limit above 0")
    margin = f"S_image − S_counterfactual = {trace.denominator[i]:.3f}".replace("-", "−")
    site = trace.provenance.get("site", "resid")
    notes = [margin, _ARROWS[trace.direction], "outline: where the pixels differ"]
    if not trace.valid[i]:
        notes.insert(0, f"no CTE: the margin is below the floor of {trace.floor:g}")
    elif trace.denominator[i] < 0:
        notes.insert(1, "the model prefers the counterfactual")
    if site != "resid":
        notes.append(f"site {site}")
    return OverlayView(
        film=_film(image, tuple(tower["image_size"]), (grid[0] * tower["cell"][0], grid[1] * tower["cell"][1])),
        values=by_position[:, len(first) :].reshape(-1, *grid),
        layers=chosen,
        first=named,
        outlined=trace.differs[i, len(first) :].reshape(grid),
        limit=theme.colour_limit(by_position[:, len(first) :]) if limit is None else float(limit),
        title=f"CTE by layer and patch, {trace.ids[i]} — {trace.provenance.get('model', '')}".rstrip(" —"),
        notes=tuple(notes),
    )


def _chosen_layers(trace: CausalTrace, layers: list[int] | None) -> Int[np.ndarray, "layer"]:
    if layers is None:
        spread = np.linspace(0, len(trace.layers) - 1, min(len(trace.layers), MAX_PANELS)).round().astype(int)
        return trace.layers[spread]
    unknown = sorted(set(layers) - set(trace.layers.tolist()))
    if unknown or not layers:
        raise FigureError(f"layers={layers}: the trace has layers {trace.layers[0]} to {trace.layers[-1]}")
    return np.array(sorted(set(layers)))


def _film(image: Any, size: tuple[int, int], covered: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """The image in grey, 0 to 1, cut to the part that the patches cover."""
    if isinstance(image, (str, os.PathLike)):
        from ...patching import open_image

        image = open_image(Path(image))
    values = image.detach().cpu().float().numpy() if hasattr(image, "detach") else np.asarray(image, dtype=np.float64)
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3:
        values = values[..., :3].mean(axis=-1)
    if values.ndim != 2 or abs(values.shape[1] / values.shape[0] - size[1] / size[0]) > 0.02 * size[1] / size[0]:
        raise FigureError(
            f"the image has shape {list(values.shape)}, but the model sees {size[0]} x {size[1]} pixels: give what it "
            f"sees, model.image.pixels(image)"
        )
    low, high = float(values.min()), float(values.max())
    grey = (values - low) / (high - low or 1.0)
    keep = [round(whole * part / full) for whole, part, full in zip(grey.shape, covered, size, strict=True)]
    return grey[: keep[0], : keep[1]]


def blended(
    film: Float[np.ndarray, "h w"], values: Float[np.ndarray, "row column"], limit: float
) -> Float[np.ndarray, "y x 3"]:
    """The film with the map over it: the stronger an effect, the more its colour covers the film.

    Where the effect is 0 or unknown the film is itself, a little paler, so that colours stand out from its greys.
    """
    repeat = [max(1, round(400 / n)) for n in values.shape]
    rows, columns = (n * r for n, r in zip(values.shape, repeat, strict=True))
    at = [(np.arange(n) + 0.5) / n * whole for n, whole in zip((rows, columns), film.shape, strict=True)]
    paler = 0.12 + 0.80 * film[np.ix_(at[0].astype(int), at[1].astype(int))]
    shown = np.nan_to_num(values)
    colour = np.array([[theme.colour_at(value, limit) for value in row] for row in shown])
    strength = 0.72 * np.minimum(1.0, np.abs(shown) / limit) ** 0.6
    wide = [np.repeat(np.repeat(part, repeat[0], axis=0), repeat[1], axis=1) for part in (colour, strength)]
    return paler[..., None] * (1 - wide[1][..., None]) + wide[0] * wide[1][..., None]


def overlay(
    trace: CausalTrace,
    image: Any,
    pair: int | str | None = None,
    *,
    layers: list[int] | None = None,
    limit: float | None = None,
    title: str | None = None,
    width: int | None = None,
) -> go.Figure:
    """Causal tracing effect by layer and patch over the image, as a plotly figure; hovering shows the numbers.

    trace: from :func:`tracescribe.trace_images`. The other arguments as in :func:`overlay_view`.
    title: in place of the default one; "" for none.
    width: pixels; None = from the number of layers.

    Blue is negative, red positive (ColorBrewer's RdBu, centred at 0); patches whose pixels differ are outlined.

    Raises:
        FigureError: see :func:`overlay_view`.

    >>> import tracescribe as ts
    >>> from tracescribe.benchmark.phantom import counterfactual_pairs
    >>> model, pairs = ts.load("phantom"), counterfactual_pairs(1)
    >>> figure = overlay(ts.trace_images(model, pairs, progress=False), pairs[0].image)
    >>> [annotation.text for annotation in figure.layout.annotations[:2]]
    ['layer 0', 'layer 1']
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    view = overlay_view(trace, image, pair, layers, limit)
    n_panels = len(view.layers)
    across = min(n_panels, 4 if n_panels != 5 else 5)
    down = -(-n_panels // across)
    side = 210 if width is None else max(60, (width - 110 - 14 * (across - 1)) // across)
    rows, columns = view.outlined.shape
    tall = round(side * view.film.shape[0] / view.film.shape[1])
    shown = view.title if title is None else title
    plot_width = across * side + (across - 1) * 14
    notes = wrap_phrases(view.notes, round(plot_width / 6))
    top = 34 + (26 + 17 * len(notes) if shown else 0)
    plot_height = down * tall + (down - 1) * 34
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=[plotly_text(view.panel_title(at)) for at in range(n_panels)],
        horizontal_spacing=14 / plot_width,
        vertical_spacing=34 / plot_height if down > 1 else 0,
    )
    for at in range(n_panels):
        where = {"row": at // across + 1, "col": at % across + 1}
        picture = blended(view.film, view.values[at], view.limit)
        dx, dy = columns / picture.shape[1], rows / picture.shape[0]
        # plotly puts a pixel's centre, not its corner, at x0, y0
        figure.add_trace(go.Image(source=_png(picture), x0=dx / 2, y0=dy / 2, dx=dx, dy=dy, hoverinfo="skip"), **where)
        figure.add_trace(_hover_cells(view, at), **where)
        for (x0, y0), (x1, y1) in view.borders:
            figure.add_shape(type="line", x0=x0, y0=y0, x1=x1, y1=y1, line={"color": OUTLINE, "width": 1.5}, **where)
    figure.add_trace(_colour_bar(view.limit), row=1, col=1)
    hidden: dict[str, Any] = {"showticklabels": False, "constrain": "domain"}
    figure.update_xaxes(theme.plotly_axis(range=[0, columns], **hidden))
    figure.update_yaxes(theme.plotly_axis(range=[rows, 0], **hidden))
    header = [f"<b>{plotly_text(shown)}</b>"] if shown else []
    header += [
        f'<span style="font-size:12px;color:{theme.MUTED}">{plotly_text(line)}</span>' for line in notes if shown
    ]
    figure.update_layout(
        theme.plotly_layout(),
        width=plot_width + 110,
        height=plot_height + top + 14,
        margin={"l": 14, "r": 96, "t": top, "b": 14, "pad": 0},
        title={"text": "<br>".join(header), "x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 12}},
    )
    figure.update_annotations(font={"size": 12, "color": theme.INK}, yshift=2)
    return figure


def _hover_cells(view: OverlayView, at: int) -> go.Heatmap:
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


def _colour_bar(limit: float) -> go.Scatter:
    """A trace without points that only carries the scale."""
    import plotly.graph_objects as go

    stops = np.linspace(0, 1, len(theme.DIVERGING))
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={
            "color": [0],
            "cmin": -limit,
            "cmax": limit,
            "colorscale": [[float(stop), colour] for stop, colour in zip(stops, theme.DIVERGING, strict=True)],
            "showscale": True,
            "colorbar": {
                "title": {"text": "CTE", "side": "top", "font": {"size": 12, "color": theme.MUTED}},
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


def export_overlay(
    trace: CausalTrace,
    image: Any,
    path: str | os.PathLike[str],
    pair: int | str | None = None,
    *,
    layers: list[int] | None = None,
    limit: float | None = None,
    width: Literal["column", "page"] | float = "page",
    title: str | None = None,
    notes: bool = False,
    font: str | None = None,
    dpi: int = 300,
) -> Path:
    """Write the overlay as a figure for a paper (.pdf, .svg, .eps, .png) and return its path.

    The first panel is the film itself. Arguments as in :func:`overlay` and :func:`tracescribe.viz.export`.

    Raises:
        FigureError: see :func:`overlay_view`; an unknown suffix, width or font.
        OutputError: nothing can be written at ``path``; nothing was written.
    """
    from ...io.atomic import ensure_writable, write_atomically
    from ..paper.export import _inches, _render, _settings, suffix_of

    suffix = suffix_of(path)
    inches = _inches(width)
    ensure_writable(path)
    view = overlay_view(trace, image, pair, layers, limit)
    with _settings():
        from ..paper.fonts import Fonts
        from ..paper.overlay import draw_overlay

        figure = draw_overlay(view, Fonts(font), inches, (title or "", view.notes if notes else ()))
        content = _render(figure, suffix, title or view.title, ". ".join(view.notes), dpi)
    with write_atomically(path, binary=True) as handle:
        handle.write(content)
    return Path(path)

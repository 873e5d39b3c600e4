"""Signs without colour: printed in grey, a cell below 0 without a number differs from the cell as far above 0."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from test_viz_labels import linear

import tracescribe as ts
from tracescribe.benchmark.phantom import counterfactual_pairs
from tracescribe.tracer import TraceMap
from tracescribe.viz import caption, draw, export, panels, theme
from tracescribe.viz.figure_data import heatmap_data
from tracescribe.viz.figure_data.overlay import overlay_data
from tracescribe.viz.interactive.overlay import draw_overlay
from tracescribe.viz.paper.files import matplotlib_settings
from tracescribe.viz.paper.fonts import Fonts
from tracescribe.viz.paper.heatmap import draw_heatmap
from tracescribe.viz.paper.panels import draw_panels

LIMIT = 1.0
SEEN = 3.0  # contrast of a mark with what is around it (WCAG 2.1, success criterion 1.4.11)


def mirrored(n_layers: int, n_columns: int) -> TraceMap:
    """Each value in an even column, and its negative in the next one."""
    values = np.random.default_rng(0).uniform(0.15, 1, (n_layers, n_columns)) * np.resize([1, -1], n_columns)
    values[:, 1::2] = -values[:, 0:-1:2] if n_columns % 2 else -values[:, 0::2]
    return TraceMap(values, tuple(f"t{i}" for i in range(n_columns)), np.arange(n_layers), np.full(n_columns, 9))


def map_alone(cells: TraceMap, palette: str, inches: float = 3.25) -> tuple[Figure, list[Axes]]:
    view = replace(heatmap_data(cells, limit=LIMIT), palette=palette)
    figure = draw_heatmap(view, Fonts(None, 6.5), inches, ("", ()), values=False, height=None)
    return figure, [axes for axes in figure.axes if axes.get_ylabel() == "layer"]


def map_in_panels(cells: TraceMap, palette: str) -> tuple[Figure, list[Axes]]:
    shown = panels({"one": cells, "two": cells}, palette=palette, limit=LIMIT).shown
    figure = draw_panels(shown, Fonts(None, 6.5), 6.75, ("", ()), values=False, height=None)
    return figure, [axes for axes in figure.axes if axes.get_title(loc="left") in ("one", "two")]


def map_in_own_axes(cells: TraceMap, palette: str) -> tuple[Figure, list[Axes]]:
    """Where a colour bar takes room when the figure is drawn, so that numbers that seemed to fit are left out."""
    figure = Figure(figsize=(3.6, 2.4), layout="constrained")
    axes = figure.subplots()
    drawn = draw(cells, axes, palette=palette, limit=LIMIT)
    for _ in range(3):
        figure.colorbar(drawn, ax=axes, pad=0.1)
    return figure, [axes]


def in_grey(figure: Figure, axes: Axes, cells: TraceMap) -> list[list[np.ndarray]]:
    """The luminance of the middle of each cell, by layer and column, as a grey printer gives it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=300)
    picture = np.asarray(Image.open(buffer).convert("RGB")) / 255
    luminance = linear(picture) @ np.array([0.2126, 0.7152, 0.0722])
    scale = 300 / figure.dpi
    layers_across = axes.get_ylabel() != "layer"

    def middle(layer: int, column: int) -> np.ndarray:
        at = np.array((layer, column) if layers_across else (column, layer), dtype=float)
        ends = axes.transData.transform([at - 0.35, at + 0.35]) * scale
        (x0, x1), (y0, y1) = (np.sort(ends[:, i]).round().astype(int) for i in (0, 1))
        return np.asarray(luminance[len(luminance) - y1 : len(luminance) - y0, x0:x1])

    n_layers, n_columns = cells.values.shape
    return [[middle(layer, column) for column in range(n_columns)] for layer in range(n_layers)]


def contrast(cell: np.ndarray) -> float:
    """Of the darkest or lightest part of a cell with most of it."""
    most = float(np.median(cell))
    return max((max(most, part) + 0.05) / (min(most, part) + 0.05) for part in (float(cell.min()), float(cell.max())))


@pytest.mark.parametrize("palette", theme.PALETTES)
@pytest.mark.parametrize("make", [map_alone, map_in_panels, map_in_own_axes])
def test_signs_can_be_read_in_grey(make: Callable[[TraceMap, str], tuple[Figure, list[Axes]]], palette: str) -> None:
    cells = mirrored(12, 8)
    with matplotlib_settings():
        figure, drawn = make(cells, palette)
        figure.draw_without_rendering()
        pictures = [in_grey(figure, axes, cells) for axes in drawn]
    for picture in pictures:
        for row, values in zip(picture, cells.values, strict=True):
            for cell, value in zip(row, values, strict=True):
                assert (contrast(cell) >= SEEN) == (value < 0), value


def test_signs_of_the_smallest_cells_can_be_read() -> None:
    with matplotlib_settings():
        cells = mirrored(33, 77)
        figure, drawn = map_alone(cells, "RdBu", inches=6.75)
        picture = in_grey(
            figure, drawn[0], TraceMap(cells.values[:, :38], cells.rows[:38], cells.layers, cells.counts[:38])
        )
    seen = np.array([[contrast(cell) > 1.5 for cell in row] for row in picture])
    np.testing.assert_array_equal(seen, cells.values[:, :38] < 0)


def test_a_cell_has_a_number_or_a_dash(tmp_path: Path) -> None:
    """The vector file: as many dashes as cells below 0 where numbers are off, and one on the scale; else none."""
    cells = mirrored(4, 6)
    for values, dashes in ((False, (cells.values < -0.1).sum()), (True, 0)):
        svg = export(cells, tmp_path / "a.svg", values=values, profile=False).read_text(encoding="utf-8")
        assert svg.count("−.") >= (12 if values else 0)
        collections = [part for part in svg.split("<g id=") if part.startswith('"_Dashes')]
        assert sum(part.count("<path") for part in collections) == dashes


def test_what_is_near_0_has_no_dash_and_the_caption_says_what_a_dash_is() -> None:
    faint = TraceMap(np.array([[1.0, -0.09], [0.5, -0.01]]), ("a", "b"), np.arange(2), np.ones(2, dtype=int))
    assert not heatmap_data(faint).below_zero.any()
    assert "dash" not in caption(panels({"a": faint}))
    both = TraceMap(np.array([[1.0, -0.2], [0.5, np.nan]]), ("a", "b"), np.arange(2), np.ones(2, dtype=int))
    np.testing.assert_array_equal(heatmap_data(both).below_zero, [[False, True], [False, False]])
    assert "A dash in the place of a number: below 0." in caption(panels({"a": both}))


def test_interactive_maps_and_cards_have_the_dashes_of_cells_without_numbers() -> None:
    cells = mirrored(4, 6)
    figure = ts.viz.heatmap(cells, values=False, limit=LIMIT)
    [dashes] = [trace for trace in figure.data if trace.name == "below 0"]
    assert dashes.hoverinfo == "skip"  # the cell below says its number
    below = {(column, layer) for layer, column in np.argwhere(cells.values < -0.1).tolist()}
    assert set(zip(dashes.x, dashes.y, strict=True)) == below
    assert [trace.name for trace in ts.viz.heatmap(cells, values=True).data].count("below 0") == 0
    assert sum(part.count("h") for part in _strokes(cells._repr_html_())) == len(below)


def _strokes(svg: str) -> list[str]:
    """The paths of dashes in a card."""
    return [part.split('d="')[1].split('"')[0] for part in svg.split("<path ")[1:] if part.startswith('stroke="#')]


def test_patches_below_0_have_a_dash_over_the_image() -> None:
    model, films = ts.load("phantom"), counterfactual_pairs(1, seed=3, condition="effusion")
    trace = ts.trace_images(model, films, grid=8, progress=False)
    view = overlay_data(trace, films[0].image)
    assert view.below_zero.any()
    for at, below in enumerate(view.below_zero):
        places = {(row, column) for row, column in np.argwhere(below).tolist()}
        assert {(int(y), int(x)) for segments in view.dashes(at).values() for (x, y), _ in segments} == places
    drawn = [trace for trace in draw_overlay(view, None).data if trace.name == "below 0"]
    assert sum(len(trace.x) for trace in drawn) == 3 * view.below_zero.sum()  # two ends and a gap
    assert sum(part.count("h") for part in _strokes(trace._repr_html_())) == int(
        (trace.cte < -0.1 * np.nanmax(np.abs(trace.cte))).sum()
    )

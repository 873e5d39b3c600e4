"""Maps over the film: the right cell in the right place, one scale about 0, every format, and clear refusals."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from builders import synthetic_trace

import tracescribe as ts
from tracescribe.benchmark.phantom import counterfactual_pairs
from tracescribe.viz import FigureError, export_overlay, overlay
from tracescribe.viz.figure_data.overlay import blended, overlay_data


@pytest.fixture(scope="module")
def pairs() -> list[ts.ImagePair]:
    return counterfactual_pairs(2, condition="nodule")


@pytest.fixture(scope="module")
def trace(pairs: list[ts.ImagePair]) -> ts.CausalTrace:
    return ts.trace_images(ts.load("phantom"), pairs, grid=4, progress=False)


def test_each_cell_lies_where_its_patch_is(trace: ts.CausalTrace, pairs: list[ts.ImagePair]) -> None:
    view = overlay_data(trace, pairs[1].image, pair=1)
    assert view.values.shape == (4, 4, 4) and view.film.shape == (64, 64)
    for row, column in ((0, 0), (1, 2), (3, 1)):
        np.testing.assert_array_equal(view.values[:, row, column], trace.cte[1, :, 4 * row + column])
    films = [np.asarray(side, dtype=float) for side in (pairs[1].image, pairs[1].counterfactual)]
    changed = (films[0] != films[1]).reshape(4, 16, 4, 16).any(axis=(1, 3))
    np.testing.assert_array_equal(view.outlined, changed)
    assert view.limit == pytest.approx(np.abs(trace.cte[1]).max())


def test_borders_enclose_exactly_the_outlined_cells(trace: ts.CausalTrace, pairs: list[ts.ImagePair]) -> None:
    view = overlay_data(trace, pairs[0].image, pair=0)
    object.__setattr__(view, "outlined", np.array([[True, True], [False, True]]))
    edges = {frozenset(segment) for segment in view.borders}
    corners = ["00", "10", "20", "21", "22", "12", "11", "01", "00"]  # an L, walked around
    walked = [(float(x), float(y)) for x, y in corners]
    assert edges == {frozenset(step) for step in pairwise(walked)}


def test_colour_covers_the_film_in_proportion_to_the_effect() -> None:
    film = np.linspace(0, 1, 64).reshape(8, 8)
    values = np.array([[0.0, 1.0], [-1.0, np.nan]])
    picture = blended(film, values, limit=1.0)
    high, wide = picture.shape[0] // 2, picture.shape[1] // 2
    neutral, positive = picture[:high, :wide], picture[:high, wide:]
    negative, unknown = picture[high:, :wide], picture[high:, wide:]
    for grey in (neutral, unknown):
        assert np.ptp(grey, axis=-1).max() < 1e-12  # the film itself
    assert (positive[..., 0] > positive[..., 2]).all() and (negative[..., 2] > negative[..., 0]).all()
    assert picture.min() >= 0 and picture.max() <= 1


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "eps"])
def test_static_files_are_the_same_each_time(
    trace: ts.CausalTrace, pairs: list[ts.ImagePair], suffix: str, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        export_overlay(trace, pairs[0].image, path, 0, layers=None if suffix == "svg" else [3], width="column", dpi=80)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == "svg":
        text = paths[0].read_text(encoding="utf-8")
        assert 'width="234pt"' in text and all(f"layer {layer}" in text for layer in range(4)) and "image" in text


def test_the_interactive_figure_holds_every_number(trace: ts.CausalTrace, pairs: list[ts.ImagePair]) -> None:
    figure = trace.overlay(pairs[0].image, pair=0, layers=[0, 3])
    cells = [panel for panel in figure.data if panel.type == "heatmap"]
    assert len(cells) == 2
    for panel, layer in zip(cells, (0, 3), strict=True):
        np.testing.assert_allclose(np.array(panel.z, dtype=float).ravel(), trace.cte[0, layer], rtol=1e-6)
    bar = next(panel.marker for panel in figure.data if panel.type == "scatter")
    assert bar.cmin == -bar.cmax < 0


def test_a_class_token_is_told_in_words(trace: ts.CausalTrace) -> None:
    from models import WordTokenizer, counterfactual_pixels, open_clip_image_model

    model = ts.wrap(open_clip_image_model(), tokenizer=WordTokenizer())
    image, other = counterfactual_pixels(1, (32, 32), (8, 8), [(0, 1)])
    pair = ts.ImagePair(image=image, counterfactual=other, caption="a mass")
    whole = ts.trace_images(model, [pair], floor=0, progress=False)
    view = overlay_data(whole, image)
    assert [view.panel_title(at) for at in (0, 3)] == ["layer 0 · class 0.00", "layer 3 · class 1.00"]
    sets = ts.trace_images(model, [pair], positions="differing", floor=0, progress=False)
    values = overlay_data(sets, image).values
    assert np.isfinite(values[:, 0, 1]).all() and np.isfinite(values).sum() == 4  # only the set has a value


def test_what_cannot_be_drawn_is_refused(trace: ts.CausalTrace, pairs: list[ts.ImagePair], tmp_path: Path) -> None:
    film = pairs[0].image
    with pytest.raises(FigureError, match="needs the result of trace_images"):
        overlay(synthetic_trace(), film)
    with pytest.raises(FigureError, match="2 image pairs: choose one"):
        overlay(trace, film)
    with pytest.raises(FigureError, match=r"shape \[64, 48\], but the model sees 64 x 64"):
        overlay(trace, np.zeros((64, 48)), 0)
    with pytest.raises(FigureError, match="layers 0 to 3"):
        overlay(trace, film, 0, layers=[7])
    with pytest.raises(FigureError, match="limit=0"):
        overlay(trace, film, 0, limit=0)
    with pytest.raises(FigureError, match=r"limit=.*: colours need a finite limit"):
        overlay(trace, film, 0, limit=2**64 * 1000 * 10**400)
    for odd in ({}, ["a"], object(), np.array(["a"]), 10**400, [b"x"]):
        with pytest.raises(FigureError, match="is a path, a PIL image, or an array of numbers, not "):
            overlay(trace, odd, 0)
    with pytest.raises(FigureError, match=r"shape \[0, 3\], but the model sees"):
        overlay(trace, np.zeros((0, 3)), 0)
    with pytest.raises(FigureError, match="the image holds NaN or infinity"):
        overlay(trace, np.full((64, 64), np.nan), 0)
    with pytest.raises(FigureError, match=r"\.gif"):
        export_overlay(trace, film, tmp_path / "x.gif", 0)
    assert not list(tmp_path.iterdir())

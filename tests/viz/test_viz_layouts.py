"""Figures of several results: panels on one scale, layer weights, trade-offs, curves, and an author's axes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.dom import minidom

import matplotlib
import numpy as np
import pytest
from builders import synthetic_trace
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import tracescribe as ts
from tracescribe.benchmark.metrics import Interval
from tracescribe.tracer import LayerProfile, TraceMap
from tracescribe.viz import (
    FigureError,
    PaperFigure,
    alpha_bars,
    caption,
    curves,
    draw,
    export,
    export_table,
    panels,
    pareto,
    published_maps,
)
from tracescribe.viz.figure_data import AlphaData, PanelsData, PointsData
from tracescribe.viz.figure_data.curve_panels import CurvePanelsData
from tracescribe.viz.paper.curve_panels import draw_curve_panels
from tracescribe.viz.paper.files import WIDTHS, PaperOptions, inches_of, matplotlib_settings, rendered
from tracescribe.viz.paper.fonts import Fonts
from tracescribe.viz.paper.panels import draw_panels
from tracescribe.viz.paper.plans import draw_alpha

TRACE, OTHER = synthetic_trace(8, 12), synthetic_trace(8, 12, seed=1)
GOLDEN = Path(__file__).parents[1] / "golden" / "cte_clip_vit_b32_valse.json"
HASHES = Path(__file__).with_name("figure_hashes.json")


def a_map(n_rows: int, n_layers: int, marked: int = 3, seed: int = 0) -> TraceMap:
    rows = [f"token{i}" for i in range(n_rows)]
    rows[marked] = "first differing"
    values = np.random.default_rng(seed).normal(0, 0.4, (n_layers + 1, n_rows))
    return TraceMap(values, tuple(rows), np.arange(n_layers + 1), np.full(n_rows, 9), n_pairs=9)


def a_plan(beta: float = 1.0) -> ts.Prescription:
    return ts.prescribe(TRACE, beta=beta)


# -- the published figure ------------------------------------------------------------------------------------------


def test_the_published_figure_takes_three_lines_and_shows_the_published_numbers(tmp_path: Path) -> None:
    maps = published_maps()
    figure = panels(maps)
    path = export(figure, tmp_path / "figure.pdf", "page")
    assert path.stat().st_size > 5000
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    shown = figure.shown
    assert isinstance(shown, PanelsData) and shown.names == ("negation in the foil", "negation in the caption")
    for view, key, n in zip(shown.views, ("foil_correct", "caption_correct"), (81, 72), strict=True):
        np.testing.assert_array_equal(view.values.T, np.array(golden["maps"][key]["cte"]))
        assert view.columns == tuple(golden["rows"]) and view.limit == shown.limit == 1.0
        assert view.profile is not None and view.counts is not None and set(view.counts) == {n}
        np.testing.assert_allclose(view.profile.value, view.values.sum(axis=1))
    # The published sums of the foil map by layer 1..12 (FIGURE: arXiv 2407.10488's arrays, read by NAST).
    sums = [0.947, 1.016, 0.989, 1.012, 0.849, 0.856, 0.811, 0.775, 0.792, 0.823, 0.877, 1.0]
    assert shown.views[0].profile is not None
    np.testing.assert_allclose(shown.views[0].profile.value[1:], sums, atol=5e-4)
    assert set(published_maps(wrong=True)) == {*maps, "negation in the foil, model wrong"}


def test_bars_may_be_the_published_locality() -> None:
    shown = panels(published_maps(), bars="locality").shown
    assert isinstance(shown, PanelsData) and shown.bars_name == "locality over rows"
    # Quantmeyer et al.: layer means .236 and .249
    means = [float(view.profile.value.mean()) for view in shown.views if view.profile is not None]
    np.testing.assert_allclose(means, [0.236, 0.249], atol=1e-3)


# -- panels --------------------------------------------------------------------------------------------------------


def test_panels_share_one_scale_and_keep_each_maps_numbers() -> None:
    small = replace(a_map(6, 12), values=0.1 * a_map(6, 12).values)
    shown = panels({"a": a_map(6, 12), "b": small}).shown
    assert isinstance(shown, PanelsData)
    assert {view.limit for view in shown.views} == {float(np.abs(a_map(6, 12).values).max())}
    np.testing.assert_array_equal(shown.views[1].values, small.values)


def test_a_difference_is_the_second_minus_the_first_over_common_rows() -> None:
    first, second = a_map(6, 4), a_map(5, 4, seed=1)
    shown = panels({"before": first, "after": second}, difference="after − before").shown
    assert isinstance(shown, PanelsData) and shown.names[2] == "after − before"
    np.testing.assert_allclose(shown.views[2].values, second.values - first.values[:, :5])
    assert shown.views[2].profile is not None and shown.views[2].profile.lo is None
    with pytest.raises(FigureError, match="needs two maps, a first and a second, not 3"):
        panels({"a": first, "b": first, "c": first}, difference="d")
    with pytest.raises(FigureError, match="no token row in common"):
        panels({"a": first, "b": replace(first, rows=tuple("uvwxyz"))}, difference="d")


def test_a_token_that_repeats_is_compared_with_itself() -> None:
    """A name was looked up by its first place, so that a second "no" got the numbers of the first."""
    rows = ("no", "edema", "no", "effusion", ".")
    first, second = (replace(a_map(5, 4, seed=seed), rows=rows) for seed in (0, 1))
    shown = panels({"before": first, "after": second}, difference="d").shown
    assert isinstance(shown, PanelsData) and shown.views[2].columns == rows
    np.testing.assert_array_equal(shown.views[2].values, second.values - first.values)
    moved = replace(a_map(4, 4, seed=1), rows=("effusion", "no", "no", "new"))
    shown = panels({"before": first, "after": moved}, difference="d").shown
    assert isinstance(shown, PanelsData) and shown.views[2].columns == ("effusion", "no", "no")
    np.testing.assert_array_equal(shown.views[2].values, moved.values[:, :3] - first.values[:, [3, 0, 2]])


def test_the_bars_of_a_difference_of_traces_have_an_interval_of_what_both_share() -> None:
    bars = panels({"a": TRACE, "b": OTHER}, difference="b − a", n_boot=200).shown.views[2].profile  # type: ignore[union-attr]
    assert bars is not None and bars.lo is not None and bars.hi is not None and bars.ci == 0.95
    np.testing.assert_allclose(bars.value, OTHER.per_layer(ci=None).value - TRACE.per_layer(ci=None).value, atol=1e-12)
    assert (bars.lo[1:-1] < bars.hi[1:-1]).all()
    same = panels({"a": TRACE, "b": TRACE}, difference="b − a", n_boot=200).shown.views[2].profile  # type: ignore[union-attr]
    assert same is not None and same.lo is not None
    np.testing.assert_array_equal(same.lo, 0)  # the same pairs are drawn for both, so that nothing is left
    assert panels({"a": TRACE, "b": OTHER}, difference="d", bars="locality").shown.views[2].profile.lo is None  # type: ignore[union-attr]


def test_bars_of_traces_have_their_interval_and_the_caption_says_so() -> None:
    figure = panels({"negation": TRACE, "control": OTHER}, n_boot=200)
    shown = figure.shown
    assert isinstance(shown, PanelsData) and shown.views[0].profile is not None
    np.testing.assert_array_equal(shown.views[0].profile.lo, TRACE.per_layer(n_boot=200).lo)
    said = caption(figure)
    for part in ("Negation: 8 pairs", "control: 8 pairs", "foil → correct", "residual stream", "95% bootstrap interval",
                 "run from −1 to 1", "Below: sum over tokens", "tokens in which the two captions differ"):  # fmt: skip
        assert part in said, part


@pytest.mark.parametrize(("n_rows", "n_layers", "n_panels", "inches"), [
    (8, 12, 2, 6.75), (8, 12, 2, 3.25), (8, 12, 7, 6.75), (77, 32, 2, 6.75), (77, 12, 1, 3.25), (6, 32, 3, 3.03),
])  # fmt: skip
def test_no_text_of_panels_is_cut_off_or_collides(n_rows: int, n_layers: int, n_panels: int, inches: float) -> None:
    names = {f"condition {i} with a name of some length": a_map(n_rows, n_layers, seed=i) for i in range(n_panels)}
    figure = all_text_is_inside(panels(names), inches)
    assert figure.bbox.height / figure.dpi <= 9.0  # a page's text is that high


@pytest.mark.parametrize("source", [
    panels({"negation": TRACE.control(OTHER), "other": OTHER.control(TRACE)}),
    panels({"a": replace(a_map(4, 6), values=4e5 * a_map(4, 6).values)}),
    panels({"a": replace(a_map(4, 6), quantity="patched indirectness of everything")}),
    panels({"a": a_map(4, 6)}, limit=0.05), panels({"a": a_map(4, 6)}, limit=0.00125, bars=None),
])  # fmt: skip
def test_name_and_numbers_of_the_colours_have_room_beside_panels(source: PaperFigure) -> None:
    all_text_is_inside(source, 3.25)


def all_text_is_inside(source: PaperFigure, inches: float) -> Figure:
    """Draws panels; no text of them is cut off, meets another, or is too small."""
    shown = source.shown
    assert isinstance(shown, PanelsData)
    with matplotlib_settings():
        figure = draw_panels(shown, Fonts(), inches, ("", ()), values="auto", height=None)
        figure.draw_without_rendering()
        width, height = figure.bbox.width, figure.bbox.height
        boxes = []
        for axes in figure.axes:
            titles = [axes.title, axes._left_title]  # type: ignore[attr-defined]
            for text in (*titles, *axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label):
                if text.get_text():
                    box = text.get_window_extent()
                    assert box.x0 >= -0.5 and box.x1 <= width + 0.5, text.get_text()
                    assert box.y0 >= -0.5 and box.y1 <= height + 0.5, text.get_text()
                    assert text.get_fontsize() >= 4.5
                    boxes.append((box, text.get_text()))
        slack = 0.01 * figure.dpi  # a glyph's box has an empty rim of a hundredth of an inch
        for i, (one, said) in enumerate(boxes):
            for other, told in boxes[:i]:
                across = min(one.x1, other.x1) - max(one.x0, other.x0)
                along = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert min(across, along) <= slack, (said, told)
        assert "first differing" in {said for _, said in boxes}
    return figure


def test_rounding_noise_fills_neither_the_colours_nor_the_axes() -> None:
    noise = replace(a_map(4, 6), values=1e-7 * a_map(4, 6).values)
    with matplotlib_settings():
        shown = panels({"a": noise, "b": noise}, difference="b − a").shown
        assert isinstance(shown, PanelsData)
        figure = draw_panels(shown, Fonts(), 6.75, ("", ()), values="auto", height=None)
        bars = [axes for axes in figure.axes if axes.containers]
        assert len(bars) == 3 and all(axes.get_ylim()[1] >= 0.05 for axes in bars)
    interactive = ts.viz.heatmap(noise)
    assert interactive.layout.xaxis2.range[1] - interactive.layout.xaxis2.range[0] >= 0.05
    low, high = ts.viz.profile(noise).layout.yaxis.range
    assert high - low >= 0.5


def test_twelve_curves_or_points_look_different() -> None:
    many = {f"arm {i}": ([0, 1], [i, i]) for i in range(12)}
    points = pareto({f"arm {i}": (i, -i) for i in range(12)}, "x", "y")
    profiles = {name: LayerProfile(np.ones(2), np.arange(2), "sum", n_pairs=1, n_groups=1) for name in many}
    for source in (curves(many, "x", "y"), points, ts.viz.profile(profiles)):
        axes = Figure().subplots()
        draw(source, axes)
        looks = [
            (line.get_color(), line.get_marker(), line.get_linestyle())
            for line in axes.lines
            if str(line.get_label()).startswith("arm")
        ]
        assert len(looks) == len({*looks}) == 12


def test_maps_of_different_depth_are_refused_with_what_can_be_drawn() -> None:
    with pytest.raises(FigureError, match=r"layers 0 to 8, the first panel 0 to 6.*profiles in one figure"):
        panels({"a": a_map(4, 6), "b": a_map(4, 8)})


def test_equal_relative_depths_of_different_models_stand_above_each_other() -> None:
    """The middle of a cell is at layer / L of its map, in all panels, and so are the bars and the ticks."""
    blocks = a_map(4, 6)
    blocks = replace(blocks, values=blocks.values[1:], layers=blocks.layers[1:])  # without layer 0, as maps of heads
    shown = panels({"deep": a_map(4, 12), "shallow": a_map(4, 5), "blocks": blocks}, axis="depth", per_row=1).shown
    assert isinstance(shown, PanelsData)
    with matplotlib_settings():
        figure = draw_panels(shown, Fonts(), 3.25, ("", ()), values="auto", height=None)
    figure.draw_without_rendering()
    cells = [axes for axes in figure.axes if axes.get_title(loc="left") in shown.names]
    bars = [axes for axes in figure.axes if axes.get_xlabel() == "relative depth"]
    at_depth = {0.0: [], 0.5: [], 1.0: []}  # type: dict[float, list[float]]
    for view, above, below in zip(shown.views, cells, bars, strict=True):
        n = view.layers[-1]
        for axes in (above, below):
            for depth, places in at_depth.items():
                places.append(axes.transData.transform((depth * n - view.layers[0], 0))[0])
        names = [label.get_text() for label in below.get_xticklabels()]
        np.testing.assert_allclose(below.get_xticks(), [float(name) * n - view.layers[0] for name in names])
        assert {"0.5", "1"} <= set(names) and ("0" in names) == (view.layers[0] == 0)
    for places in at_depth.values():
        assert len(places) == 6 and np.ptp(places) < 0.01  # pixels
    assert at_depth[1.0][0] - at_depth[0.5][0] == pytest.approx(at_depth[0.5][0] - at_depth[0.0][0], abs=0.01)


def test_the_depth_axis_says_itself_in_captions_and_its_table_has_every_layer(tmp_path: Path) -> None:
    figure = panels({"a": a_map(4, 5), "b": a_map(4, 3)}, axis="depth", bars=None)
    assert "relative depth" in ts.viz.caption(figure) and figure.shown.title == "CTE by relative depth and token"
    lines = ts.viz.export_table(figure, tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == ["5", "4", "3", "2", "1", "0"]
    assert lines[1].endswith(",,,,")  # the second map has no layer 5
    for wrong, sentence in (
        ({"axis": "width"}, "axis='width': choose layer or depth"),
        ({"axis": "depth", "difference": "b − a"}, "a difference is of the same layers"),
        ({"axis": "layer"}, "axis='depth' draws them"),
    ):
        with pytest.raises(FigureError, match=sentence):
            panels({"a": a_map(4, 5), "b": a_map(4, 3)}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(FigureError, match="has layer 0 only"):
        panels({"a": a_map(4, 0)}, axis="depth")


def test_panels_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(FigureError, match="dict of names"):
        panels([TRACE])  # type: ignore[arg-type]
    with pytest.raises(FigureError, match="dict of names"):
        panels({})
    with pytest.raises(FigureError, match="same layers"):
        panels({"a": a_map(4, 4), "b": a_map(4, 5)})
    with pytest.raises(FigureError, match="bars='median'"):
        panels({"a": TRACE}, bars="median")  # type: ignore[arg-type]
    with pytest.raises(FigureError, match="per_row=0"):
        panels({"a": TRACE}, per_row=0)
    with pytest.raises(FigureError, match="leave no room"):
        rendered(panels({str(i): a_map(4, 32) for i in range(9)}, per_row=9).shown, ".svg", PaperOptions("column"))
    with pytest.raises(FigureError, match="palette='jet'"):
        panels({"a": TRACE}, palette="jet")
    with pytest.raises(FigureError, match="LayerProfile"):
        panels({"a": TRACE.per_layer()})  # type: ignore[dict-item]


# -- layer weights, trade-offs, curves -----------------------------------------------------------------------------


def test_alpha_bars_hold_the_plans_numbers_and_shares_sum_to_one(tmp_path: Path) -> None:
    plan = a_plan(beta=2)
    figure = alpha_bars(plan, {"uniform": np.ones(12), "CTE-weighted": plan.multipliers})
    shown = figure.shown
    assert isinstance(shown, AlphaData)
    np.testing.assert_array_equal(shown.alpha, plan.alpha)
    np.testing.assert_array_equal(shown.multipliers, plan.multipliers)
    assert shown.power == "α²" and [round(share.sum(), 9) for _, share in shown.shares] == [1, 1]
    lines = export_table(figure, tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "block,alpha,low,high,multiplier,uniform,CTE-weighted" and len(lines) == 13
    assert "multiplier α²" in caption(figure)
    with pytest.raises(FigureError, match="12 numbers"):
        alpha_bars(plan, np.ones(3))
    with pytest.raises(FigureError, match="not a CausalTrace"):
        alpha_bars(TRACE)


def texts_inside(figure: Figure) -> list[str]:
    """All texts, none of which is cut off; of axes too narrow for anything, nothing could be read."""
    figure.draw_without_rendering()
    found = []
    for axes in figure.axes:
        legend = axes.get_legend()
        texts = [*axes.texts, axes.xaxis.label, axes.yaxis.label]
        for axis, at in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = axis.get_view_interval()
            texts += [label for label in axis.get_ticklabels() if low <= label.get_position()[at] <= high]
        for text in (*texts, *(() if legend is None else legend.get_texts())):
            if text.get_text():
                box = text.get_window_extent()
                assert box.x0 > -0.5 and box.y0 > -0.5, text.get_text()  # half a point of ink's margin
                assert box.x1 < figure.bbox.width + 0.5 and box.y1 < figure.bbox.height + 0.5, text.get_text()
                found.append(text.get_text())
    return found


@pytest.mark.parametrize("n_blocks", [12, 32])
def test_many_shares_with_long_names_leave_room_for_their_bars(n_blocks: int) -> None:
    names = ("uniform", "CTE-weighted (update)", "inverse of the weights, budget kept", "front four blocks")
    figure = alpha_bars(
        ts.Prescription(np.linspace(0, 1, n_blocks), beta=2), {name: np.ones(n_blocks) for name in names}
    )
    assert isinstance(figure.shown, AlphaData)
    with matplotlib_settings():
        drawn = draw_alpha(figure.shown, Fonts(), 3.25, ("", ()), height=None)
        assert set(names) <= set(texts_inside(drawn))
        above, below = drawn.axes
        assert min(axes.get_window_extent().width for axes in drawn.axes) > 0.75 * drawn.bbox.width
        assert below.get_legend().get_window_extent().y1 < above.get_window_extent().y0
        bars = [bar for bar in below.patches if bar.get_height() > 0]
        assert all(bar.get_linewidth() < 0.2 * bar.get_window_extent().width for bar in bars)  # not edge alone


def test_a_figure_without_room_for_its_names_is_refused(tmp_path: Path) -> None:
    figure = alpha_bars(a_plan(), {"uniform": np.ones(12), "CTE-weighted": np.ones(12)})
    with pytest.raises(FigureError, match="too little room for its names"):
        export(figure, tmp_path / "a.pdf", 1.5, height=0.5)
    assert not list(tmp_path.iterdir())


def test_an_update_share_is_drawn_as_its_share() -> None:
    from tracescribe.finetune import UpdateShare

    size = np.arange(1.0, 13.0)
    shown = alpha_bars(a_plan(), UpdateShare(size)).shown
    assert isinstance(shown, AlphaData)
    np.testing.assert_allclose(shown.shares[0][1], size / size.sum())


def test_the_front_holds_what_nothing_beats() -> None:
    points = {"a": (1.0, 3.0), "b": (2.0, 2.0), "c": (1.5, 1.0), "d": (3.0, 1.0), "e": (2.0, 2.0)}
    assert "Filled and joined by a line: what no other is better than in both." in caption(pareto(points, "x", "y"))
    shown = pareto(points, "x", "y").shown
    assert isinstance(shown, PointsData) and shown.front.tolist() == [True, True, False, True, True]
    lower = pareto(points, "x", "y", better=("lower", "higher")).shown
    assert isinstance(lower, PointsData) and lower.front.tolist() == [True, False, False, False, False]
    with_interval = pareto({"a": (Interval(1, 0, 2), 3)}, "x", "y").shown
    assert isinstance(with_interval, PointsData) and with_interval.x.tolist() == [[1, 0, 2]]
    unknown = pareto({"a": (Interval(1, float("nan"), float("nan")), 3)}, "x", "y").shown
    assert isinstance(unknown, PointsData) and unknown.x.tolist() == [[1, 1, 1]]
    for bad in ({}, {"a": (1,)}, {"a": (1, float("nan"))}, {"a": "xy"}, {"a": 3}):
        with pytest.raises(FigureError):
            pareto(bad, "x", "y")  # type: ignore[arg-type]


def test_curves_are_refused_where_arrays_do_not_fit(tmp_path: Path) -> None:
    figure = curves({"by CTE": ([0, 1], [0.0, 1.0], [0.0, 0.9], [0.1, 1.0]), "random": ([0, 1], [0, 1])}, "n", "f")
    table = export_table(figure, tmp_path / "t.md").read_text(encoding="utf-8")
    assert "| by CTE | 1.00 | 1.00 | 0.90 | 1.00 |" in table and "| random | 0.00 | 0.00 | – | – |" in table
    for bad in ({}, {"a": ([0, 1], [0])}, {"a": ([0, np.nan], [0, 1])}, {"a": ([], [])}, {"a": 3}, {"a": ("x", "y")}):
        with pytest.raises(FigureError):
            curves(bad, "n", "f")


KINDS: dict[str, Callable[[], PaperFigure]] = {
    "panels": lambda: panels(published_maps()),
    "difference": lambda: panels(dict(zip("ab", published_maps().values(), strict=True)), difference="b − a"),
    "alpha": lambda: alpha_bars(ts.Prescription(np.linspace(0, 1, 12), beta=2), {"uniform": np.ones(12)}),
    "pareto": lambda: pareto({"CLIP": (90, 24.6), "NegCLIP": (80, 41.3), "NAST": (84, 55.6)}, "kept", "claims"),
    "curves": lambda: curves({"a": ([0, 1, 2], [0, 0.8, 1]), "b": ([0, 1, 2], [0, 0.4, 1])}, "cells", "faithfulness"),
}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"difference"}))
def test_each_kind_is_written_in_every_format_at_its_width_the_same_each_time(kind: str, tmp_path: Path) -> None:
    figure = KINDS[kind]()
    for suffix in (".pdf", ".svg", ".pgf"):  # embedding fonts in an EPS takes seconds; see test_viz_export
        one, two = (export(figure, tmp_path / f"{i}{suffix}", "acl").read_bytes() for i in "ab")
        assert one == two and len(one) > 2000
    pdf = (tmp_path / "a.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ ?([-\d. ]+)\]", pdf)
    assert box is not None and float(box[1].split()[2]) / 72 == pytest.approx(7.7 / 2.54, abs=1e-4)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"/Subtype /Image" not in pdf
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "image/png"} and "<script" not in bundle["text/html"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_looks_as_it_did_when_a_person_judged_it(kind: str) -> None:
    """A coarse grey picture, so that another version of a font or of matplotlib does not count, but a moved axis does.

    To renew after looking at the figure: `PYTHONPATH=tests python tests/viz/test_viz_layouts.py`.
    """
    stored = np.array(json.loads(HASHES.read_text(encoding="utf-8"))[kind])
    found = thumbnail(KINDS[kind]())
    assert found.shape == stored.shape
    # Text that moves by a pixel changes a cell of 8-bit grey by a few; a panel or an axis that moves, by dozens.
    assert np.abs(found - stored).mean() < 4 and np.quantile(np.abs(found - stored), 0.98) < 40


def thumbnail(figure: PaperFigure) -> np.ndarray:
    import io

    picture = Image.open(io.BytesIO(rendered(figure.shown, ".png", PaperOptions("page", dpi=100))))
    return np.asarray(picture.convert("L").resize((32, 16), Image.Resampling.BOX)).astype(int)


# -- sizes, fonts, palettes ----------------------------------------------------------------------------------------


def test_widths_are_those_of_the_templates() -> None:
    points = {"icml": 234.8775, "icml-page": 487.8225}  # icml2024.sty, TeX points: 72.27 to the inch
    for name, size in points.items():
        assert inches_of(name) == pytest.approx(size / 72.27, abs=1e-3)
    millimetres = {"acl": 77, "acl-page": 160, "nature": 89, "nature-page": 183, "neurips": 139.7, "iclr": 139.7}
    for name, size in millimetres.items():
        assert inches_of(name) == pytest.approx(size / 25.4, abs=1e-6)
    assert set(WIDTHS) == {*points, *millimetres, "column", "page"}


def test_a_width_may_be_a_measure() -> None:
    for measure, inches in {"89mm": 89 / 25.4, "8.5 cm": 8.5 / 2.54, "234.8775pt": 3.25, "4in": 4.0}.items():
        assert inches_of(measure) == pytest.approx(inches, abs=1e-9)
    for wrong in ("3cm", "-8cm", "8", "8em", "1e9cm", "cm", "999in"):  # 3 cm are less than the least
        with pytest.raises(FigureError, match="width"):
            inches_of(wrong)


def test_size_and_palette_are_the_authors(tmp_path: Path) -> None:
    def sizes(path: Path) -> set[float]:
        return {
            float(size)
            for size in re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", path.read_text(encoding="utf-8"))
        }

    plain, large = (sizes(export(TRACE, tmp_path / f"{s}.svg", "page", size=s)) for s in (6.5, 9.0))
    assert max(large) > max(plain) >= 6.5 and 9.0 in large
    drawn = {p: export(TRACE, tmp_path / f"{p}.svg", palette=p).read_text(encoding="utf-8") for p in ("RdBu", "PuOr")}
    assert "#67001f" in drawn["RdBu"] and "#67001f" not in drawn["PuOr"] and "#7f3b08" in drawn["PuOr"]
    with pytest.raises(FigureError, match="size=99"):
        export(TRACE, tmp_path / "x.svg", size=99)
    with pytest.raises(FigureError, match="applies to maps"):
        export(TRACE.per_layer(), tmp_path / "x.svg", palette="PuOr")


def test_pgf_holds_every_token_as_text_and_needs_no_latex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no LaTeX to be found
    rows = ("negator", "50%_$x$", "\\input{a}", "a^b~c#d&e")
    cells = TraceMap(np.eye(4), rows, np.arange(4), np.ones(4, dtype=int))
    code = export(panels({"one & two": cells}), tmp_path / "a.pgf", "icml").read_text(encoding="utf-8")
    escaped = (r"50\%\_\$x\$", r"\textbackslash{}input\{a\}", r"a\textasciicircum{}b\textasciitilde{}c\#d\&e")
    for text in (*escaped, r"one \& two"):
        assert text in code, text
    assert r"\input{a}" not in code and "DejaVu" not in code
    assert r"\pgfqpoint{3.250000in}" in code and code.count(r"\begin{pgfpicture}") == 1
    with pytest.raises(FigureError, match=r"write a \.pdf"):
        film = np.zeros((8, 8))
        from tracescribe.viz.figure_data import OverlayData

        data = OverlayData(film, np.zeros((1, 2, 2)), np.zeros(1, int), {}, np.zeros((2, 2), bool), 1.0, "", ())
        rendered(data, ".pgf", PaperOptions())


def test_a_picture_without_a_font_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracescribe.viz.paper import fonts

    monkeypatch.setattr(fonts, "_names", lambda: {"DejaVu Sans"})
    monkeypatch.setattr(fonts, "_list_new_fonts", lambda: False)
    cells = TraceMap(np.eye(2), ("🫁\ufe0f lung", "無し"), np.arange(2), np.ones(2, dtype=int))
    with pytest.warns(UserWarning, match=r"no installed font has .*\(3 characters\).*its name in brackets or �"):
        svg = export(cells, tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "[lungs] lung" in svg and "��" in svg and "無" not in svg


def test_scripts_have_a_font_where_one_is_installed(tmp_path: Path) -> None:
    wanted = {"لا": "Noto Sans Arabic", "नहीं": "Noto Sans Devanagari", "無し": "Noto Sans CJK SC"}
    fonts = Fonts()
    with matplotlib_settings():
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fonts.admit(*wanted)
    missing = [text for text in wanted if fonts.drawable(text) != text]
    if missing:
        pytest.skip(f"no installed font has {missing[0]}")
    # Joined: an Arabic letter in a word is narrower than the same letters apart.
    assert fonts.width("ععععع", 10) < 0.9 * 5 * fonts.width("ع", 10)


def test_points_in_a_crowd_are_told_by_a_legend() -> None:
    apart = {"a": (1, 3), "b": (2, 2), "c": (3, 1), "d": (1.1, 3)}
    for points, told in ((apart, False), ({**apart, "e": (1.05, 3.1)}, True)):
        axes = Figure(figsize=(3.25, 2.5)).subplots()
        draw(pareto(points, "kept", "gained"), axes)
        beside = {text.get_text() for text in axes.texts}
        legend = axes.get_legend()
        assert (legend is not None) == told
        assert (beside if legend is None else {text.get_text() for text in legend.get_texts()}) == set(points)


def test_numbers_of_a_panel_above_an_empty_place_are_as_large_as_the_others() -> None:
    one = {"a": ([0, 1], [0.0, 1.0])}
    shown = curves(dict.fromkeys("pqrst", one), "x", "y").shown
    assert isinstance(shown, CurvePanelsData)
    figure = draw_curve_panels(shown, Fonts(), 5.5, ("", ()), height=None, transparent=True)
    figure.draw_without_rendering()
    shown_axes = [axes for axes in figure.axes if axes.get_visible()]
    sizes = {t.get_fontsize() for axes in shown_axes for t in axes.get_xticklabels() + axes.get_yticklabels()}
    assert len(shown_axes) == 5
    assert sizes == {Fonts().tick}


# -- an author's axes ----------------------------------------------------------------------------------------------


def test_a_map_is_drawn_into_an_authors_axes() -> None:
    figure = Figure(figsize=(6.75, 2.5))
    left, right = figure.subplots(1, 2)
    before = dict(matplotlib.rcParams)
    mesh = draw(TRACE, left, title="a", palette="PuOr", values=False)
    assert draw({"a": TRACE, "b": OTHER}, right, n_boot=50) is None
    assert dict(matplotlib.rcParams) == before
    np.testing.assert_allclose(mesh.get_array().reshape(6, 13), TRACE.map().values.T)
    assert mesh.get_clim() == (-1.0, 1.0) and left.get_xlabel() == "layer"
    assert [label.get_text() for label in left.get_yticklabels()] == list(TRACE.map().rows)
    assert left.get_title(loc="left") == "a" and len(left.texts) == 0
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["a", "b"]
    figure.colorbar(mesh, ax=left)
    figure.draw_without_rendering()


def test_names_in_an_authors_axes_are_thinned_to_what_it_has_room_for() -> None:
    axes = Figure(figsize=(2, 2)).subplots()
    draw(a_map(77, 32, marked=40), axes)
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert "first differing" in named and len(named) < 25
    assert len(axes.get_xticks()) < 20 and not axes.texts


@pytest.mark.parametrize("kind", ["alpha", "pareto", "curves"])
def test_other_kinds_are_drawn_into_an_authors_axes(kind: str) -> None:
    axes = Figure(figsize=(3, 2)).subplots()
    assert draw(KINDS[kind](), axes) is None and axes.has_data()


def test_numbers_of_small_axes_do_not_meet() -> None:
    figure = Figure(figsize=(1.4, 1.2))
    axes = figure.subplots()
    draw(pareto({"a": (48.31, 40.2), "b": (50.12, 41.3)}, "kept (%)", "gained (%)"), axes)
    figure.draw_without_rendering()
    for labels, ends in ((axes.get_xticklabels(), ("x0", "x1")), (axes.get_yticklabels(), ("y0", "y1"))):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert boxes and all(getattr(one, ends[1]) < getattr(other, ends[0]) for one, other in pairwise(boxes))


def test_layers_and_legend_meet_nothing_in_axes_that_a_layout_makes_smaller() -> None:
    maps = published_maps()
    figure = Figure(figsize=(6.75, 2.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.colorbar(draw(maps["negation in the foil"], left), ax=left, label="CTE")
    draw({name: one.per_layer("sum") for name, one in maps.items()}, right)
    figure.draw_without_rendering()
    for axes in (left, right):
        shown = [label for label in axes.get_xticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in shown]
        assert len(boxes) >= 4 and all(one.x1 < other.x0 for one, other in pairwise(boxes))
        for label, place in zip(shown, axes.get_xticks(), strict=True):
            assert label.get_text() == str(round(place))
    legend = right.get_legend().get_window_extent()
    curves_ = [line for line in right.lines if str(line.get_label()).startswith("negation")]
    assert len(curves_) == 2
    for line in curves_:
        points = right.transData.transform(line.get_xydata())
        assert (points[:, 1] < legend.y0).all()  # below it, and so is what joins them


def test_names_in_an_authors_axes_are_text_whatever_the_authors_settings_are() -> None:
    """The author made the axes, and with them texts: "$T$" was typeset, and usetex lost what follows "%"."""
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        left, right = Figure(figsize=(6, 3)).subplots(1, 2)
        draw(replace(a_map(3, 4, marked=1), rows=("50% of $x_1$", "a_b", "c & d")), left, title="$T$ & co")
        draw(curves({"$a$": ([0, 1], [0.0, 1.0]), "b_1": ([0, 1], [1.0, 0.0])}, "$x$", "50%"), right)
        legend = right.get_legend()
        assert legend is not None
        named = [text for text in left.get_children() if isinstance(text, Text) and text.get_text() == "$T$ & co"]
        for text in (*named, *left.get_yticklabels(), right.xaxis.label, right.yaxis.label, *legend.get_texts()):
            assert not text.get_usetex() and not text.get_parse_math(), text.get_text()
    assert len(named) == 1


def test_numbers_are_left_out_where_a_layout_makes_the_cells_smaller() -> None:
    figure = Figure(figsize=(8, 2), layout="constrained")
    axes = figure.subplots(1, 2)
    draw(a_map(4, 8), axes[0])
    assert len(axes[0].texts) == 36  # the cells are wide enough now

    def written() -> int:
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            figure.savefig(buffer := io.BytesIO(), format="svg")
        return len(re.findall(r">−?\d?\.\d\d<", buffer.getvalue().decode()))

    assert written() == 36
    axes[1].set_ylabel("a name\nthat takes\nmuch of the figure\n" * 8)
    assert written() == 0


def test_what_needs_a_figure_of_its_own_is_refused() -> None:
    axes = Figure().subplots()
    with pytest.raises(FigureError, match="need a figure of their own"):
        draw(KINDS["panels"](), axes)
    with pytest.raises(FigureError, match="not a str"):
        draw(TRACE, "axes")  # type: ignore[arg-type]
    with pytest.raises(FigureError, match="ndarray"):
        draw(np.ones((2, 2)), axes)  # type: ignore[arg-type]


def test_arguments_of_a_wrong_type_are_named() -> None:
    for call, name in (
        (lambda: panels({"a": TRACE}, title=5), "title"),
        (lambda: pareto({"a": (1, 2)}, None, "y"), "x"),
        (lambda: curves({"a": ([1], [2])}, "x", 4), "y"),
        (lambda: ts.viz.trace_page(5), "trace"),
    ):
        with pytest.raises(ts.errors.ArgumentError, match=f"the argument {name} must be of type"):
            call()  # type: ignore[no-untyped-call]
    with pytest.raises(FigureError, match="limit='x': colours need a finite limit"):
        panels({"a": TRACE}, limit="x")  # type: ignore[arg-type]


def test_the_numbers_of_panels_are_in_their_table(tmp_path: Path) -> None:
    figure = panels({"a|b": a_map(2, 1, marked=0), "c_d": a_map(2, 1, marked=0, seed=1)})
    frame = export_table(figure, tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert frame[0].startswith("layer,a|b: first differing,a|b: token1,a|b: sum over rows,c_d: first differing")
    values = np.array([[float(cell) for cell in line.split(",")] for line in frame[1:]])
    np.testing.assert_array_equal(values[::-1, 1:3], a_map(2, 1, marked=0).values)
    tex = export_table(figure, tmp_path / "t.tex").read_text(encoding="utf-8")
    assert r"c\_d: token1" in tex and r"\toprule" in tex


def test_a_profile_beside_a_map_has_no_numbers_that_touch(tmp_path: Path) -> None:
    values = np.full((4, 8), 0.02)
    values[1] = -0.025
    cells = TraceMap(values, tuple(f"head {i}" for i in range(8)), np.arange(1, 5), np.ones(8, dtype=int))
    svg = export(cells, tmp_path / "a.svg", "column").read_text(encoding="utf-8")
    assert "sum over" in svg
    assert isinstance(cells.per_layer(), LayerProfile)


def test_names_that_no_file_can_hold_are_replaced_in_every_format(tmp_path: Path) -> None:
    """The title went into the file's metadata as it was: a lone surrogate ended in an error of the file's writer."""
    bad = "a\x00\x07\x1b[2J\ud800\ufffe\u202e<b>&"
    for number, figure in enumerate(
        (
            ts.viz.curves({bad: ([0, 1], [0.0, 1.0])}, bad, bad, title=bad),
            ts.viz.pareto({bad: (1, 2), "b": (2, 1)}, bad, bad, title=bad),
        )
    ):
        for suffix in ("svg", "pdf", "png", "eps"):
            ts.viz.export(figure, tmp_path / f"{number}.{suffix}")
        assert minidom.parse(str(tmp_path / f"{number}.svg")).documentElement.tagName == "svg"


if __name__ == "__main__":
    HASHES.write_text(json.dumps({kind: thumbnail(make()).tolist() for kind, make in KINDS.items()}) + "\n")

"""Results show themselves in notebooks: small HTML without scripts, in which text from outside stays text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from builders import (
    synthetic_head_edges,
    synthetic_knock_out,
    synthetic_negator_attention,
    synthetic_neurons,
    synthetic_trace,
)

import tracescribe as ts
from tracescribe import cards
from tracescribe.benchmark import Evaluation
from tracescribe.benchmark.comparison import ALL, Comparison, Difference
from tracescribe.benchmark.metrics import Interval
from tracescribe.finetune import UpdateShare
from tracescribe.tracer import LayerProfile, TraceMap
from tracescribe.tracer.results.cells import MapCells

ATTACK = "<script>alert(1)</script>\"'&\x00\ud800"
TRACE = synthetic_trace(8, 12)


class Page(HTMLParser):
    """Tags, attributes and text of a fragment; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def html_of(result: Any) -> tuple[str, Page]:
    html = result._repr_html_()
    html.encode("utf-8")  # a notebook is saved as UTF-8
    return html, Page(html)


def attacked() -> ts.CausalTrace:
    tokens = tuple((row[0], ATTACK, *row[2:]) for row in TRACE.tokens)
    about = {**TRACE.provenance, "model": ATTACK}
    names = (ATTACK,) * TRACE.n_pairs
    return replace(TRACE, tokens=tokens, captions=names, foil_captions=names, provenance=about)


def a_plan() -> ts.Prescription:
    plan = ts.prescribe(TRACE, aggregate="sum")
    return replace(plan, warnings=(ATTACK,), provenance={"model": ATTACK})


def a_comparison() -> Comparison:
    change = Difference(ATTACK, ALL, ALL, ATTACK, 20, Interval(50, 40, 60), Interval(-3, -9, 2), 0.3, 0.4)
    return Comparison((ATTACK, "b"), (change,), 2)


def a_faithfulness() -> ts.Faithfulness:
    cells = MapCells(np.array([1, 1, 2]), np.array([0, 1, 0]), np.array([0.5, 0.2, 0.1]), (ATTACK, "[end]"))
    curves = np.random.default_rng(0).random((3, 4, 5))
    orders = np.array([[0, 1, 2], [0, 1, 2], [2, 0, 1]])
    numbers = np.arange(5)
    names = ("effect", "magnitude", "random 0")
    return ts.Faithfulness(cells, names, orders, np.arange(4), curves, 1 - curves, np.ones(5), numbers, numbers)


def a_circuit() -> ts.Circuit:
    ones = np.array([0.5, 0.9])
    return ts.Circuit(np.array([1, 3]), (ATTACK, "[end]"), ones, ones, ones, 30, "greedy", 0.9, 1.0, 12, 8)


RESULTS: dict[str, Callable[[], Any]] = {
    "trace": attacked,
    "one pair": lambda: attacked().select([0]),
    "map": lambda: TraceMap(np.eye(3), (ATTACK, "b", "c"), np.arange(3), np.ones(3, dtype=int)),
    "profile": lambda: TRACE.per_layer(),
    "excess": lambda: attacked().control(attacked()),
    "plan": a_plan,
    "update share": lambda: UpdateShare(np.arange(12.0), tuple(range(1, 13))),
    "comparison": a_comparison,
    "comparison of traces": lambda: ts.compare(TRACE, synthetic_trace(8, 12, seed=1), names=(ATTACK, "b"), n_boot=50),
    "faithfulness": a_faithfulness,
    "curve": lambda: a_faithfulness().curve("sufficiency"),
    "circuit": a_circuit,
    "neurons": lambda: synthetic_neurons(rows=(ATTACK, "[end]"), row=("[end]", ATTACK, "[end]", "[end]", ATTACK)),
    "edges between heads": synthetic_head_edges,
    "knock-out": lambda: synthetic_knock_out(traces={ATTACK: synthetic_knock_out().traces["[end]"]}),
    "negator attention": lambda: synthetic_negator_attention(negators=((ATTACK, "some"),) * 6),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_small_html_without_scripts(name: str) -> None:
    result = RESULTS[name]()
    html, page = html_of(result)
    assert not {"script", "style", "link", "img", "iframe"} & set(page.tags)
    assert not [attribute for attribute in page.attributes if attribute.startswith("on")]
    assert len(html.encode()) < 60_000 and "http" not in html
    assert type(result).__name__ in page.text and "\x00" not in html
    # The theme decides the colour of text: what is written in one of ours would vanish in the other theme.
    assert not re.search(r"(?<![-\w])color:(?!inherit)", html)
    assert len(repr(result)) < 600 and "\n" not in repr(result)


def test_arrays_are_told_by_their_shape() -> None:
    assert repr(TRACE.scores) == "Scores(correct [8], foil [8], patched [8 × 13 × 7])"
    assert repr(TRACE.select([0])).startswith("CausalTrace(1 pair, ")
    gradients = ts.finetune.BlockGradients(np.ones((5, 12)), np.ones((5, 12)), {"model": "m"})
    assert repr(gradients) == "BlockGradients(relative [5 × 12], fisher [5 × 12], 1 provenance)"


@pytest.mark.parametrize(
    "name", sorted(set(RESULTS) - {"profile", "excess", "update share", "edges between heads", "curve"})
)
def test_text_from_outside_stays_text(name: str) -> None:
    html, page = html_of(RESULTS[name]())
    assert "<script" not in html and "<script>al" in page.text


def test_a_trace_says_what_enters_its_map_and_shows_it() -> None:
    html, page = html_of(TRACE)
    used = int((TRACE.valid & (TRACE.denominator > 0)).sum())
    assert f"{used} (S_corr > S_foil)" in page.text and "foil → correct" in page.text
    shades = re.findall(r'<path fill="(#\w+)" d="([^"]*)"', html)
    cells = TRACE.map()
    assert sum(d.count("M") for _, d in shades) == cells.values.size  # each cell once
    assert set(cells.rows) <= set(re.findall(r">([^<>]+)</text>", html))
    assert html.count("<rect") == len(TRACE.layers)  # the sums below


def test_a_trace_of_images_shows_a_grid_of_patches_per_layer() -> None:
    from tracescribe.viz.figure_data import heatmap_data
    from tracescribe.viz.notebook.pictures import patches_svg

    columns = ("[CLS]", *(f"patch {row},{column}" for row in range(2) for column in range(3)))
    values = np.arange(14.0).reshape(2, 7) / 14
    drawn = patches_svg(heatmap_data(TraceMap(values, columns, np.arange(2), np.ones(7, dtype=int))))
    assert drawn is not None
    page = Page(drawn)
    assert page.tags.count("svg") == 2 and "layer 0" in page.text and "layer 1" in page.text
    assert sum(d.count("M") for d in re.findall(r' d="([^"]*)"', drawn)) == 12  # each patch of each layer once
    assert "1 other columns" in page.text
    assert patches_svg(heatmap_data(TraceMap(values, tuple("abcdefg"), np.arange(2), np.ones(7, dtype=int)))) is None


def test_a_map_says_what_it_is_of() -> None:
    cells = TraceMap(np.eye(2), ("a", "b"), np.arange(2), np.ones(2, dtype=int), quantity="attention to the negator")
    assert "attention to the negator" in html_of(cells)[1].text and "quantity" not in html_of(TRACE.map())[1].text


def test_figures_and_stability_are_one_line() -> None:
    assert repr(TRACE.heatmap()) == "NotebookFigure('CTE by layer and token — synthetic': heatmap, scatter)"
    assert repr(ts.prescribe(TRACE).stability).count(".") <= 3


def test_a_large_map_stays_small() -> None:
    values = np.random.default_rng(0).normal(size=(33, 77))
    cells = TraceMap(values, tuple(f"t{i}" for i in range(77)), np.arange(33), np.ones(77, dtype=int))
    html, _ = html_of(cells)
    assert len(html) < 80_000 and "overflow:auto" in html


def test_values_that_are_none_have_a_colour_of_their_own_and_no_bar() -> None:
    cells = TraceMap(np.array([[np.nan, 1.0], [0.0, 0.5]]), ("a", "b"), np.arange(2), np.array([0, 1]))
    assert 'fill="#d5dae0"' in html_of(cells)[0]
    curve = LayerProfile(np.array([np.nan, np.nan]), np.arange(2), "sum")
    assert "<rect" not in html_of(curve)[0]


def test_a_trace_too_large_to_draw_at_once_says_how_to_draw_it() -> None:
    html, page = html_of(synthetic_trace(20_001, 2, n_texts=2))
    assert "<svg" not in html and "drawn on demand: .heatmap()" in page.text


def test_a_trace_without_a_usable_pair_says_so() -> None:
    _, page = html_of(TRACE.with_floor(1.0))
    assert "no CTE is defined" in page.text


def test_an_evaluation_shows_every_task_beside_chance() -> None:
    model = ts.load("phantom")
    from tracescribe.benchmark.records import CaptionRecord, ClaimRecord

    records = [
        ClaimRecord(
            id=str(i),
            image="x.png",
            claims=["There is opacity.", "There is no opacity."],
            label=0,
            group=str(i),
            attribute="existence",
        )
        for i in range(4)
    ]
    captions = [CaptionRecord(id=str(i), image="x.png", caption="There is opacity.", group=str(i)) for i in range(2)]
    found = ts.benchmark.evaluate(
        model, [*records, *captions], split=None, n_boot=20, image_embeddings={"x.png": np.eye(model.embed_dim)[0]}
    )
    assert isinstance(found, Evaluation)
    _, page = html_of(found)
    assert "claims" in page.text and "chance" in page.text and "50.0" in page.text
    assert repr(found).startswith("Evaluation(") and len(repr(found)) < 600
    assert not {"script", "style"} & set(page.tags)


def test_a_model_says_what_was_verified() -> None:
    model = ts.load("phantom")
    model.name = ATTACK
    html, page = html_of(model)
    assert "8 blocks" in page.text and "causal" in page.text and "largest difference" in page.text
    assert "<script" not in html


def test_a_card_leaves_out_what_has_no_value() -> None:
    html = cards.card("A", "b", [("absent", None), ("empty", ""), ("zero", 0)])
    assert "absent" not in html and "empty" not in html and "zero" in html

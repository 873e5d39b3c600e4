"""The interactive heatmap and profile show the trace's own numbers and tokens, whatever these are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import synthetic_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tracescribe as ts
from tracescribe.tracer import LayerProfile, TraceMap, TraceWarning
from tracescribe.viz import FigureError, heatmap, profile

GOLDEN = Path(__file__).parents[1] / "golden" / "cte_clip_vit_b32_valse.json"


def shown_values(figure) -> np.ndarray:
    """The cells as plotly holds them; None becomes NaN."""
    return np.array([[np.nan if cell is None else cell for cell in row] for row in figure.data[0].z], dtype=float)


def with_tokens(trace: ts.CausalTrace, pair: int, tokens: tuple[str, ...]) -> ts.CausalTrace:
    return replace(trace, tokens=(*trace.tokens[:pair], tokens, *trace.tokens[pair + 1 :]))


def a_map(values: np.ndarray) -> TraceMap:
    rows = tuple(f"row {i}" for i in range(values.shape[1]))
    return TraceMap(values, rows, np.arange(len(values)), np.ones(values.shape[1], dtype=int))


def test_a_pair_shows_its_own_cells() -> None:
    trace = synthetic_trace(6, 5, vary_length=True)
    for pair in range(trace.n_pairs):
        n = len(trace.tokens[pair])
        np.testing.assert_array_equal(shown_values(heatmap(trace, pair=pair)), trace.cte[pair, :, :n].astype(float))


def test_several_pairs_show_the_role_map() -> None:
    trace = synthetic_trace(8, 5)
    cells = trace.map(align="role")
    figure = heatmap(trace)
    np.testing.assert_array_equal(shown_values(figure), cells.values)
    assert all(row in tick for row, tick in zip(cells.rows, figure.layout.xaxis.ticktext, strict=True))
    np.testing.assert_array_equal(shown_values(heatmap(trace, reduce="median")), trace.map(reduce="median").values)


def test_the_golden_map_is_drawn_as_published() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    values = np.array(golden["maps"]["foil_correct"]["cte"]).T
    figure = heatmap(TraceMap(values, tuple(golden["rows"]), np.arange(13), np.full(8, 81), n_pairs=81))
    np.testing.assert_array_equal(shown_values(figure), values)
    sums = next(trace for trace in figure.data if trace.name == "sum over rows")
    assert sums.x[1:][np.argmax(sums.x[1:])] == pytest.approx(1.016, abs=5e-4)  # the published peak, in layer 2
    assert np.argmax(sums.x[1:]) + 1 == 2


@settings(max_examples=12, deadline=None)
@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(2, 6), st.integers(1, 6)), elements=st.floats(-1e6, 1e6) | st.just(np.nan)
    )
)
def test_colours_are_symmetric_about_zero_and_hold_every_value(values: np.ndarray) -> None:
    cells = heatmap(a_map(values)).data[0]
    assert cells.zmin == -cells.zmax and cells.zmid == 0
    assert cells.zmax >= np.nanmax(np.abs(values), initial=0)
    assert all((cell is None) == np.isnan(value) for row, given in zip(cells.z, values, strict=True)
               for cell, value in zip(row, given, strict=True))  # fmt: skip
    assert "NaN" not in heatmap(a_map(values)).to_json()


def test_a_limit_of_ones_own_is_the_colour_range() -> None:
    cells = heatmap(a_map(np.array([[0.2, 5.0], [1.0, 0.0]])), limit=1.0).data[0]
    assert (cells.zmin, cells.zmax) == (-1.0, 1.0)
    with pytest.raises(FigureError, match="limit"):
        heatmap(a_map(np.ones((2, 2))), limit=0)


def test_repeated_tokens_have_their_own_columns() -> None:
    trace = with_tokens(synthetic_trace(2, 4), 0, ("[SOT]", "no", "no", "no", "no", "no", "[EOT]"))
    figure = heatmap(trace, pair=0)
    assert list(figure.data[0].x) == list(range(7)) == list(figure.layout.xaxis.tickvals)
    assert sum("no" in tick for tick in figure.layout.xaxis.ticktext) == 5


def test_tokens_that_look_like_markup_stay_text() -> None:
    odd = ("[SOT]", "<b>", "&amp;", "$x$", "<br>", "</w>", "[EOT]")
    figure = heatmap(with_tokens(synthetic_trace(2, 4), 0, odd), pair=0)
    ticks = figure.layout.xaxis.ticktext
    assert ticks[1] == "&lt;b&gt;" and ticks[2] == "&amp;amp;" and ticks[4] == "&lt;br&gt;"
    assert "&#36;x&#36;" in ticks[3]  # no dollar sign reaches MathJax
    hover = figure.data[0].hovertext[0]
    assert "&lt;b&gt;" in hover[1] and "<br>layer 0" in hover[1]
    assert not any("<b><b>" in text or "$" in text for text in hover)


def test_tokenizer_marks_are_tidied_and_specials_are_short() -> None:
    tokens = ("<|startoftext|>", "there</w>", "Ġis", "▁no", "edema</w>", ".</w>", "<|endoftext|>")
    ticks = heatmap(with_tokens(synthetic_trace(2, 4), 0, tokens), pair=0).layout.xaxis.ticktext
    plain = [tick for i, tick in enumerate(ticks) if i != 3]
    assert plain == ["[SOT]", "there", "is", "edema", ".", "[EOT]"]


def test_the_differing_token_is_marked_and_names_the_foil() -> None:
    figure = heatmap(synthetic_trace(3, 4), pair=1)
    bold = [i for i, tick in enumerate(figure.layout.xaxis.ticktext) if tick.startswith("<b>")]
    assert bold == [3] and "no / severe" in figure.layout.xaxis.ticktext[3]
    assert [mark.x for mark in figure.layout.annotations] == [3]


def test_values_are_written_where_they_fit() -> None:
    assert heatmap(synthetic_trace(3, 8)).data[0].texttemplate is not None
    assert heatmap(a_map(np.zeros((33, 77)))).data[0].texttemplate is None
    assert heatmap(a_map(np.zeros((33, 77))), values=True).data[0].texttemplate is not None
    assert heatmap(synthetic_trace(3, 8), values=False).data[0].text is None
    written = heatmap(a_map(np.array([[-0.001, 0.05, 1.0], [np.nan, -0.25, 0.0]]))).data[0].text
    assert [list(row) for row in written] == [[".00", ".05", "1"], ["", "−.25", "0"]]


def test_the_subtitle_says_what_the_numbers_stand_on() -> None:
    title = heatmap(synthetic_trace(8, 4, share_inverted=0.25)).layout.title.text
    for part in ("8 pairs (4 texts)", "S_corr ≤ S_foil in 25%", "ratio of means", "foil → correct", "residual stream"):
        assert part in title
    assert "correct → foil" in heatmap(synthetic_trace(8, 4, direction="correct->foil")).layout.title.text
    assert heatmap(synthetic_trace(8, 4), title="").layout.title.text is None


def test_the_profile_beside_the_cells_is_per_layer_with_its_interval() -> None:
    trace = synthetic_trace(12, 6)
    curve = trace.per_layer()
    figure = heatmap(trace)
    line = next(t for t in figure.data if t.name == "sum over tokens")
    np.testing.assert_array_equal(line.x, curve.value)
    assert line.yaxis is None and figure.data[0].yaxis is None  # both on the layer axis
    band = next(t for t in figure.data if t.name == "interval")
    np.testing.assert_array_equal(band.x, [*curve.hi, *curve.lo[::-1]])
    assert len(heatmap(trace, profile=False).data) == 1
    other = LayerProfile(np.linspace(0, 1, 7), np.arange(7), "max")
    np.testing.assert_array_equal(heatmap(trace, profile=other).data[1].x, other.value)


def test_a_pair_is_chosen_by_number_or_id() -> None:
    trace = synthetic_trace(5, 4)
    np.testing.assert_array_equal(shown_values(heatmap(trace, pair="pair3")), shown_values(heatmap(trace, pair=3)))
    with pytest.raises(FigureError, match="did you mean 'pair3'"):
        heatmap(trace, pair="pair_3")
    with pytest.raises(FigureError, match="numbered 0 to 4"):
        heatmap(trace, pair=5)
    twins = replace(trace, ids=("a", "a", "b", "c", "d"))
    with pytest.raises(FigureError, match="2 pairs are called 'a'"):
        heatmap(twins, pair="a")


def test_a_pair_below_the_floor_says_so_and_shows_no_numbers() -> None:
    trace = synthetic_trace(8, 4, share_invalid=0.5)
    bad = int(np.flatnonzero(~trace.valid)[0])
    figure = heatmap(trace, pair=bad)
    assert np.isnan(shown_values(figure)).all()
    assert "below the floor" in figure.layout.title.text


def test_a_trace_that_is_always_wrong_warns_and_is_drawn() -> None:
    with pytest.warns(TraceWarning):
        figure = heatmap(synthetic_trace(6, 4, share_inverted=1.0))
    assert "S_corr &lt; S_foil" in figure.layout.title.text


def test_what_cannot_be_drawn_is_refused_by_name() -> None:
    cells = synthetic_trace(4, 3).map()
    for wrong, message in ((np.ones((2, 2)), "ndarray"), ("trace.safetensors", "str")):
        with pytest.raises(FigureError, match=message):
            heatmap(wrong)
        with pytest.raises(FigureError, match=message):
            profile(wrong)
    with pytest.raises(FigureError, match="only a CausalTrace has pairs"):
        heatmap(cells, pair=0)
    with pytest.raises(FigureError, match="align='role' does not apply"):
        heatmap(cells, align="role")
    with pytest.raises(FigureError, match="empty"):
        profile({})


def test_an_excess_is_drawn_as_a_difference() -> None:
    excess = synthetic_trace(8, 5).control(synthetic_trace(8, 5, seed=1))
    figure = heatmap(excess)
    np.testing.assert_array_equal(shown_values(figure), excess.map().values)
    assert figure.data[0].colorbar.title.text == "CTE −<br>control"
    long = replace(excess.map(), quantity="attention to the negator − to its <b>counterpart")
    lines = heatmap(long).data[0].colorbar.title.text.split("<br>")
    assert len(lines) >= 4 and max(len(line.replace("&lt;b&gt;", "<b>")) for line in lines) <= 11  # of the margin


def test_profiles_are_compared_by_name() -> None:
    ours, control = synthetic_trace(8, 5), synthetic_trace(8, 5, seed=1)
    figure = profile({"negation <no>": ours, "control": control.per_layer()})
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert list(lines) == ["negation &lt;no&gt;", "control"]
    np.testing.assert_array_equal(lines["control"].y, control.per_layer().value)
    assert len({(line.line.color, line.line.dash, line.marker.symbol) for line in lines.values()}) == 2
    low, high = figure.layout.yaxis.range
    for curve in (ours.per_layer(), control.per_layer()):
        assert low <= curve.lo.min() and high >= curve.hi.max()


def test_a_trace_draws_itself() -> None:
    trace = synthetic_trace(5, 4)
    assert trace.heatmap(pair=2).to_json() == heatmap(trace, pair=2).to_json()
    assert trace.profile().to_json() == profile(trace).to_json()


def test_notes_say_what_decides_the_meaning_of_the_numbers() -> None:
    agreement = {
        "text_pairs": 4, "pairs": 8, "cells": 90, "rank_correlation": 0.91, "lowest": 0.7, "mean_error": 0.01,
        "max_error": 0.03, "relative_error": 0.2,
    }  # fmt: skip
    about = {"site": "z", "heads": 3, "positions": "differing", "window": 2, "aligned": "suffix"}
    about |= {"method": "attribution", "steps": 5, "agreement": agreement}
    trace = synthetic_trace(12, 4, share_inverted=0.25, **about)
    told = (
        "12 pairs (4 texts)",
        "9 of them used (S_corr &gt; S_foil)",
        "attention heads (z)",
        "head 3",
        "tokens together: differing",
        "windows of 2 layers",
        "captions of unequal length, aligned (suffix)",
        "attribution (first order, 5 steps)",
        "rank correlation 0.91",
    )
    for figure in (heatmap(trace), profile(trace)):
        text = re.sub("</span><br><span[^>]*>", " ", figure.layout.title.text)
        assert all(phrase in text for phrase in told), text
    one = heatmap(trace, pair=1).layout.title.text
    assert all(phrase in one for phrase in told[2:])
    assert "rank correlation 0.91" in profile({"a": trace, "b": trace}).layout.title.text
    assert "all heads together" in heatmap(synthetic_trace(4, 3, site="z")).layout.title.text
    direct = heatmap(synthetic_trace(4, 3, site="z", method="direct", through_mlps=True)).layout.title.text
    assert "direct effect on the readout, later MLPs recomputed" in direct
    assert "not compared with exact maps" in heatmap(synthetic_trace(4, 3, method="attribution")).layout.title.text


def test_a_pair_of_columns_that_are_no_tokens_shows_its_captions() -> None:
    trace = synthetic_trace(2, 4)
    heads = replace(
        trace,
        scores=ts.tracer.Scores(trace.scores.correct, trace.scores.foil, trace.scores.patched[:, :, :2]),
        columns=("head 0", "head 1"),
    )
    title = heatmap(heads, pair=0).layout.title.text
    assert "correct “there is no edema.”" in title and "foil “there is severe edema.”" in title
    kept = replace(heads, captions=("No edema!", "b"), foil_captions=("Edema?", "c"))
    title = heatmap(kept, pair=0).layout.title.text
    assert "correct “No edema!”" in title and "foil “Edema?”" in title

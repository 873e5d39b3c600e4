"""Knock-out as a trace: rows of queries and keys, the cache and files, what the figures say, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import WordTokenizer, in_double, open_clip_model

import tracescribe as ts
from tracescribe.errors import SiteError, TraceError
from tracescribe.patching import Column, KnockOutEngine, Sweep, site_named
from tracescribe.tracer.run.options import TraceOptions

TEXTS = [
    ("there is no large edema", "there is some large edema"),
    ("no small old nodule.", "some small old nodule."),
    ("no mass", "some mass"),
]
MODEL = in_double(ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny"))
IMAGES = np.random.default_rng(3).normal(size=(6, 16)).astype(np.float32)
CUT: dict[str, Any] = {"site": "edges", "replace": "cut", "floor": 0, "progress": False}
ROUNDING = 1e-6  # scores of a trace are float32


def pairs() -> list[ts.Pair]:
    return [
        ts.Pair(correct=a, foil=b, image=image, id=f"p{i}")
        for i, ((a, b), image) in enumerate(zip(TEXTS * 2, IMAGES, strict=True))
    ]


def expected(pair: ts.Pair, column: Column, layer: int) -> float:
    """S of the engine's cut."""
    rows = [MODEL.text.rows([caption]) for caption in (pair.correct, pair.foil)]
    found = KnockOutEngine(MODEL.text).patch(
        *rows, sweep=Sweep(site_named("edges")), columns=[[column]], path="generic"
    )
    image = torch.nn.functional.normalize(torch.from_numpy(np.array(pair.image)).double(), dim=0)
    return float(found.patched[0, layer - 1, 0] @ image)


def test_the_columns_are_keys_and_a_row_of_queries_is_cut_together(tmp_path: Path) -> None:
    trace = ts.trace(MODEL, pairs(), queries="[end]", cache=tmp_path / "cache", **CUT)
    assert trace.columns is None and trace.layers.tolist() == [1, 2, 3] and trace.site == "edges"
    assert trace.provenance["path"] == "resume" and trace.provenance["replace"] == "cut"
    assert trace.provenance["queries"] == "[end]"
    for i in (0, 4):
        end = len(trace.tokens[i]) - 1
        for key in (0, end - 1, end):
            score = expected(pairs()[i], Column((key,), None, (end,)), 2)
            assert trace.scores.patched[i, 1, key] == pytest.approx(score, abs=ROUNDING)
    # other queries are other entries of the cache, and the same ones the same
    again = ts.trace(MODEL, pairs(), queries="[end]", cache=tmp_path / "cache", **CUT)
    by_all = ts.trace(MODEL, pairs(), cache=tmp_path / "cache", **CUT)
    assert np.array_equal(again.scores.patched, trace.scores.patched, equal_nan=True)
    assert np.nanmax(np.abs(by_all.scores.patched - trace.scores.patched)) > 1e-4
    i, length = 4, len(trace.tokens[4])
    score = expected(pairs()[i], Column((1,), None, tuple(range(length))), 1)
    assert by_all.scores.patched[i, 0, 1] == pytest.approx(score, abs=ROUNDING)
    # a file, other images, a figure
    trace.save(tmp_path / "cut.safetensors")
    loaded = ts.load_trace(tmp_path / "cut.safetensors")
    assert np.array_equal(loaded.cte, trace.cte, equal_nan=True) and loaded.provenance == trace.provenance
    moved = loaded.rescore(IMAGES[::-1].copy())
    assert moved.scores.patched[0, 1, 0] != trace.scores.patched[0, 1, 0]
    title = " ".join(str(trace.heatmap(segment="all").layout.title.text).replace("\xa0", " ").split("<br>"))
    assert "attention cut from tokens [end] to the column's" in title and "attention edges" in title


def test_heads_windows_and_sets_of_keys() -> None:
    trace = ts.trace(MODEL, pairs()[:1], queries="[end]", positions="first differing", heads="each", **CUT)
    assert trace.columns == ("head 0", "head 1")
    end, differing = len(trace.tokens[0]) - 1, int(np.flatnonzero(trace.differs[0])[0])
    for head in (0, 1):
        score = expected(pairs()[0], Column((differing,), head, (end,)), 1)
        assert trace.scores.patched[0, 0, head] == pytest.approx(score, abs=ROUNDING)
    window = ts.trace(MODEL, pairs()[:1], queries=-1, window=3, **CUT)
    assert (
        np.abs(window.scores.patched[0, 1] - ts.trace(MODEL, pairs()[:1], queries=-1, **CUT).scores.patched[0, 1]).max()
        > 1e-4
    )


def test_every_row_of_queries_has_a_trace_and_a_layer_is_a_table() -> None:
    found = ts.knock_out(MODEL, pairs(), floor=0, progress=False)
    assert found.queries[0] == "[start]" and found.queries[-1] == "[end]"
    one = ts.trace(MODEL, pairs(), queries="[end]", **CUT)
    np.testing.assert_allclose(found.traces["[end]"].cte, one.cte, atol=1e-5)
    assert len(found.traces["before"]) == 2 and found.traces["before"].ids == ("p0", "p3")  # who has such tokens
    table = found.at(2)
    assert list(table.index) == list(found.queries) and table.loc["[start]", "[end]"] == 0  # later tokens are not seen
    cells = found.map("[end]")
    assert table.loc["[end]", "first differing"] == cells.row("first differing")[1]
    frame = found.to_frame(segment="all")
    assert {"layer", "query", "key", "cte"} <= set(frame.columns)
    assert (frame[(frame["layer"] == 3) & (frame["query"] != "[end]")]["cte"] == 0).all()
    places = ts.knock_out(MODEL, pairs()[:1], align="position", floor=0, progress=False).at(1, segment="all")
    assert places.shape == (7, 7) and (places.to_numpy()[np.triu_indices(7, 1)] == 0).all()
    with pytest.raises(TraceError, match="no queries 'x'"):
        found.map("x")
    with pytest.raises(TraceError, match="no layer 0"):
        found.at(0)


def test_options_that_do_not_belong_together_are_refused() -> None:
    for options, sentence in (
        ({"site": "edges"}, "belong together"),
        ({"replace": "cut"}, "site='resid' with replace='cut'"),
        ({"queries": "[end]"}, "queries= has no meaning with replace='foil'"),
        ({"site": "edges", "replace": "cut", "queries": "each"}, "ts.knock_out"),
        ({"site": "edges", "replace": "cut", "method": "attribution"}, "no meaning with"),
        ({"site": "edges", "replace": "cut", "method": "direct"}, "no meaning with replace='cut'"),
        ({"site": "edges", "replace": "cut", "align": "auto"}, "no meaning with"),
    ):
        with pytest.raises(TraceError, match=sentence):
            TraceOptions(**options)
    with pytest.raises(TraceError, match="unknown positions 'everyone'"):
        ts.trace(MODEL, pairs(), queries="everyone", **CUT)
    with pytest.raises(TraceError, match="no token 40"):
        ts.trace(MODEL, pairs(), queries=40, **CUT)
    trace = ts.trace(MODEL, pairs(), queries="[end]", **CUT)
    with pytest.raises(TraceError, match="replace='cut'"):
        ts.faithfulness(MODEL, trace, pairs(), progress=False)
    with pytest.raises(SiteError, match="cut, not replaced"):
        phantom = ts.load("phantom")
        film = torch.zeros(3, 64, 64)
        ts.trace_images(phantom, [ts.ImagePair(image=film, counterfactual=film + 1, caption="edema")], site="edges")

"""Edges between heads over pairs: a planted head sends nothing on, tables, maps, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from models import WordTokenizer, in_double, open_clip_model
from planted import AFFIRMATIVE, HEADS, LAYERS, NEGATED, planted_model

import tracescribe as ts
from tracescribe.errors import TraceError
from tracescribe.patching import HeadEdgeEngine

TEXTS = [("there is no large edema", "there is some large edema"), ("no mass", "some mass")]
MODEL = in_double(ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny"))
IMAGES = np.random.default_rng(3).normal(size=(6, 16)).astype(np.float32)


def pairs() -> list[ts.Pair]:
    return [ts.Pair(correct=a, foil=b, image=image) for (a, b), image in zip(TEXTS * 3, IMAGES, strict=True)]


def test_a_planted_head_that_writes_to_the_readout_has_no_edges() -> None:
    """All later heads are blind to what it writes, and all others never see the negator."""
    image = np.random.default_rng(0).normal(size=16)
    model, negator = in_double(planted_model()), ts.Pair(correct=NEGATED, foil=AFFIRMATIVE, image=image)
    found = ts.head_edges(model, [negator], floor=0, segment="all", progress=False)
    assert found.effects.shape == (1, LAYERS, HEADS, LAYERS, HEADS)
    # that they are blind holds within float32: in it the planted columns sum to 0, and MLPs and norms see the sum
    assert np.nanmax(np.abs(found.effects)) <= 1e-8
    other = ts.Pair(correct="there is no edema here", foil="there is no mass here", image=image)
    assert np.nanmax(np.abs(ts.head_edges(model, [other], floor=0, segment="all", progress=False).effects)) > 1e-5


def test_effects_are_the_engines_and_tables_and_maps_hold_them() -> None:
    found = ts.head_edges(MODEL, pairs(), floor=0, progress=False)
    rows = [MODEL.text.rows([caption])[0] for caption in TEXTS[0]]
    [(_, one)] = HeadEdgeEngine(MODEL.text).between_heads([rows[0]], [rows[1]], path="generic")
    images = IMAGES / np.linalg.norm(IMAGES.astype(np.float64), axis=1, keepdims=True)
    scores = [
        [float(MODEL.text.encode([text])[0].numpy() @ image) for text in TEXTS[i % 2]] for i, image in enumerate(images)
    ]
    used = [i for i, (correct, foil) in enumerate(scores) if correct > foil]
    assert found.n_pairs == len(used) and found.provenance["path"] == "resume"
    for at, i in enumerate(used):
        if i % 2 == 0:
            expected = ((one.base - one.patched).numpy() @ images[i])[0, 1, 2, 0]
            assert found.effects[at, 0, 1, 2, 0] == pytest.approx(expected, abs=1e-7)  # targets are kept in float32
    cte = found.cte
    assert np.isnan(cte[1, 0, 1]).all() and np.isnan(cte[2]).all()
    table = found.to_frame(n_boot=50)
    assert len(table) == 12 and (np.diff(table["cte"].abs()) <= 0).all()
    assert (table["lo"] <= table["cte"]).all() and (table["cte"] <= table["hi"]).all()
    first = table.iloc[0]
    edge = tuple(int(first[name]) for name in ("layer", "head", "receiver_layer", "receiver_head"))
    assert first["cte"] == cte[edge[0] - 1, edge[1], edge[2] - 1, edge[3]]
    sends, receives = found.map(sender=edge[:2]), found.map(receiver=edge[2:])
    assert sends.values[edge[2] - 1, edge[3]] == receives.values[edge[0] - 1, edge[1]] == first["cte"]
    title = str(ts.viz.heatmap(sends, profile=False).layout.title.text).replace("\xa0", " ")
    assert f"from layer {edge[0]} head {edge[1]}" in title
    queries = ts.head_edges(MODEL, pairs(), inputs="q", floor=0, progress=False)
    assert np.nanmax(np.abs(queries.effects - found.effects)) > 1e-6


def test_heads_that_there_are_not_are_refused() -> None:
    with pytest.raises(TraceError, match="unknown inputs 'z'"):
        ts.head_edges(MODEL, pairs(), inputs="z", progress=False)  # type: ignore[arg-type]
    found = ts.head_edges(MODEL, pairs()[:1], floor=0, segment="all", progress=False)
    for wrong in ({}, {"sender": (1, 0), "receiver": (2, 0)}, {"sender": (0, 0)}, {"receiver": (1, 2)}, {"sender": 3}):
        with pytest.raises(TraceError, match=r"say which head|there is no head"):
            found.map(**wrong)  # type: ignore[arg-type]

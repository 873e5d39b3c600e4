"""Heads: a planted one is found, its direct effect is the whole effect, and negator attention is a softmax by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bounds import assert_same_cte, cte_error
from models import WordTokenizer, open_clip_model
from planted import AFFIRMATIVE, HEADS, LAYERS, NEGATED, planted_model

import tracescribe as ts
from tracescribe.errors import SiteError

IMAGE = np.random.default_rng(0).normal(size=16)


def planted_pairs(n: int = 1) -> list[ts.Pair]:
    images = np.random.default_rng(1).normal(size=(n, 16))
    return [ts.Pair(correct=NEGATED, foil=AFFIRMATIVE, image=image, negation="correct") for image in images]


@pytest.mark.parametrize(("layer", "head"), [(1, 3), (2, 1), (3, 0)])
def test_the_map_of_heads_finds_the_planted_head_and_no_other(layer: int, head: int) -> None:
    model = planted_model(layer, head)
    expected = np.zeros((LAYERS, HEADS))
    expected[layer - 1, head] = 1
    for method in ("exact", "direct"):  # it writes to the end token itself, so that nothing needs to carry it on
        trace = ts.trace(model, planted_pairs(), site="z", heads="each", method=method, floor=0, progress=False)  # type: ignore
        assert_same_cte(expected, trace, np.s_[0])
    # gradients see the same path: all other heads are blind, up to float32's rounding of S
    trace = ts.trace(
        model, planted_pairs(), site="z", heads="each", method="attribution", steps=8, floor=0, progress=False
    )
    assert (np.abs(trace.cte) <= cte_error(trace))[0][expected == 0].all()
    assert trace.cte[0, layer - 1, head] > 0.1  # how much is another matter: S is not linear in z


def test_other_heads_of_the_planted_model_are_not_dead() -> None:
    """Between captions that differ elsewhere they do carry something; the zeros above are about the negator."""
    model = planted_model()
    pair = ts.Pair(correct="there is no edema here", foil="there is no mass here", image=IMAGE)
    trace = ts.trace(model, [pair], site="z", heads="each", floor=0, progress=False)
    assert (np.abs(trace.effect()[0]) > 1e-4).sum() >= LAYERS * HEADS - 2


# -- direct effects --------------------------------------------------------------------------------------------------


def test_direct_effects_are_a_trace_like_any_other(tmp_path: Path) -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    pairs = [
        ts.Pair(correct="there is no edema.", foil="there is some edema.", image=IMAGE),
        ts.Pair(correct="no large mass", foil="a large mass", image=-IMAGE),
    ]
    options = {"site": "z", "heads": "each", "floor": 0, "progress": False}
    trace = ts.trace(model, pairs, method="direct", cache=tmp_path / "cache", **options)  # type: ignore
    assert trace.columns == ("head 0", "head 1") and trace.cte.shape == (2, 3, 2)
    assert trace.provenance["method"] == "direct" and trace.provenance["through_mlps"] is False
    assert trace.per_layer(segment="all").value.shape == (3,)
    rescored = trace.rescore(np.stack([IMAGE, -IMAGE]))
    np.testing.assert_allclose(rescored.scores.patched, trace.scores.patched, atol=1e-6)
    again = ts.trace(model, pairs, method="direct", cache=tmp_path / "cache", **options)  # type: ignore
    assert np.array_equal(again.scores.patched, trace.scores.patched)
    title = again.heatmap(segment="all").layout.title.text.replace("\xa0", " ")
    assert "direct effect on the readout" in title and "method direct" in trace.summary()
    through = ts.trace(model, pairs, method="direct", through_mlps=True, cache=tmp_path / "cache", **options)  # type: ignore
    assert np.abs(through.effect() - trace.effect())[:, :-1].max() > 1e-4  # the MLPs of later blocks answer
    with pytest.raises(ts.tracer.TraceError, match="through_mlps= has no meaning with method='exact'"):
        ts.trace(model, pairs, through_mlps=True, **options)  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="window=2"):
        ts.trace(model, pairs, method="direct", window=2, **options)  # type: ignore[arg-type]


# -- negator-selective attention -------------------------------------------------------------------------------------


def softmax_by_hand(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    """The first block's pattern [head, query, key] from the source's weights, in numpy and float64."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    block = "transformer.resblocks.0"
    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"][: len(ids)]
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    x = x * weights[f"{block}.ln_1.weight"] + weights[f"{block}.ln_1.bias"]
    qkv = x @ weights[f"{block}.attn.in_proj_weight"].T + weights[f"{block}.attn.in_proj_bias"]
    q, k, _ = (part.reshape(len(ids), 2, 16).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1))
    scores = q @ k.transpose(0, 2, 1) / 4
    scores[:, ~np.tri(len(ids), dtype=bool)] = -np.inf
    pattern = np.exp(scores - scores.max(axis=2, keepdims=True))
    return pattern / pattern.sum(axis=2, keepdims=True)


def test_negator_attention_is_the_softmax_by_hand() -> None:
    source = open_clip_model(seed=5)
    model = ts.wrap(source, tokenizer=WordTokenizer())
    texts = ("there is no edema.", "there is some edema.")
    found = ts.negator_attention(model, [ts.Pair(correct=texts[0], foil=texts[1], negation="correct")])
    no, some = (softmax_by_hand(source, row)[:, 4:, 3] for row in model.text.rows(texts))
    np.testing.assert_allclose(found.negated[0, 0], no.max(axis=1), atol=1e-5)  # float32 softmax against float64
    np.testing.assert_allclose(found.affirmative[0, 0], some.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.mean[0], (no - some).max(axis=1), atol=1e-5)
    assert found.negators == (("no", "some"),) and found.lo is None  # one group: no interval
    swapped = ts.negator_attention(model, [ts.Pair(correct=texts[1], foil=texts[0], negation="foil")])
    np.testing.assert_allclose(swapped.selectivity, found.selectivity, atol=1e-6)  # the order in a batch rounds
    assert swapped.negators == found.negators


def test_negator_attention_finds_the_planted_head_and_no_other() -> None:
    layer, head = LAYERS, 1  # later blocks would see a state whose norm it changed
    model = planted_model(layer, head, selective=12.0)
    found = ts.negator_attention(model, planted_pairs())
    others = np.ones((LAYERS, HEADS), dtype=bool)
    others[layer - 1, head] = False
    assert found.mean[layer - 1, head] > 0.3 and np.abs(found.mean[others]).max() < 1e-6
    assert f"layer {layer} head {head}" in repr(found)


def test_negator_attention_is_a_mean_over_pairs_with_an_interval_of_groups() -> None:
    model = ts.wrap(open_clip_model(seed=5), tokenizer=WordTokenizer(), name="tiny")
    words = ("edema", "mass", "small mass", "large nodule", "device")
    pairs = [
        ts.Pair(correct=f"there is no {w}", foil=f"there is some {w}", negation="correct", group=str(i // 2))
        for i, w in enumerate(words)
    ]
    seen: list[tuple[int, int]] = []
    found = ts.negator_attention(model, pairs, ci=0.9, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert all(np.array_equal(*both) for both in zip(found.interval(0.9), (found.lo, found.hi), strict=True))
    one_by_one = [ts.negator_attention(model, [pair]).mean for pair in pairs]
    np.testing.assert_allclose(found.mean, np.mean(one_by_one, axis=0), atol=1e-6)
    assert (found.lo <= found.mean).all() and (found.mean <= found.hi).all() and (found.hi > found.lo).any()
    frame = found.to_frame()
    assert len(frame) == 6 and set(frame["layer"]) == {1, 2, 3}
    assert (frame["negated"] - frame["affirmative"] <= frame["selectivity"] + 1e-6).all()  # maxima need not meet
    cells = found.map()
    assert cells.rows == ("head 0", "head 1") and cells.layers.tolist() == [1, 2, 3]
    figure = ts.viz.heatmap(cells)
    assert "attention" in figure.layout.title.text and "CTE" not in figure.layout.title.text


def test_pairs_without_one_clear_negator_are_refused() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer())

    def attend(correct: str, foil: str, negation: Any = None, **options: Any) -> ts.tracer.NegatorAttention:
        return ts.negator_attention(model, [ts.Pair(correct=correct, foil=foil, negation=negation)], **options)

    with pytest.raises(ts.tracer.TraceError, match="pair '0' does not say which caption is negated"):
        attend("no mass", "a mass")
    with pytest.raises(ts.tracer.TraceError, match="0 of the tokens in which its captions differ are negators"):
        attend("two large", "a mass", negation="correct")
    found = attend("no large mass", "a small mass", negation="correct")
    assert found.negators == (("no", "a"),)
    for wrong, sentence in (({"ci": 2}, "ci must be None or a finite number"), ({"negators": "no"}, "not 'no'")):
        with pytest.raises(ts.tracer.TraceError, match=sentence):
            attend("no mass", "a mass", negation="correct", **wrong)

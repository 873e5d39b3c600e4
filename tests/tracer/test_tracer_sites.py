"""ts.trace at other sites, heads, sets of positions, windows and directions: axes, invariants, files and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bounds import S_ERROR, assert_same_cte
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.errors import SiteError

CAPTIONS = {"correct": "there is no edema.", "foil": "there is some edema."}
IMAGE = np.random.default_rng(0).normal(size=16)


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(seed=3, layers=3), tokenizer=WordTokenizer(), name="tiny")


@pytest.fixture(scope="module")
def pairs() -> list[ts.Pair]:
    other = {"correct": "no large mass", "foil": "a large mass"}
    return [ts.Pair(**CAPTIONS, image=IMAGE), ts.Pair(**other, image=-IMAGE), ts.Pair(**CAPTIONS, image=-IMAGE)]


def traced(model: ts.DualEncoder, pairs: list[ts.Pair], **options: object) -> ts.CausalTrace:
    return ts.trace(model, pairs, floor=0, progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn", "mlp", "z", "q", "k", "v", "pattern"])
def test_a_site_inside_blocks_has_layers_1_to_l(model: ts.DualEncoder, pairs: list[ts.Pair], site: str) -> None:
    trace = traced(model, pairs, site=site)
    assert trace.cte.shape == (3, 3, 7) and trace.layers.tolist() == [1, 2, 3] and trace.n_layers == 3
    assert trace.site == site and trace.columns is None
    assert trace.per_layer(ci=None).layers.tolist() == [1, 2, 3]
    assert trace.to_frame()["layer"].unique().tolist() == [1, 2, 3]
    assert trace.provenance["path"] == ("generic" if site == "pattern" else "resume")
    whole = traced(model, pairs, site=site, path="generic")
    np.testing.assert_allclose(trace.scores.patched, whole.scores.patched, atol=S_ERROR)


def test_residual_sites_are_parts_of_the_residual_map(model: ts.DualEncoder, pairs: list[ts.Pair]) -> None:
    full = traced(model, pairs)
    before, after = traced(model, pairs, site="resid_pre"), traced(model, pairs, site="resid_post")
    assert_same_cte(before.cte, full, np.s_[:, :-1])
    assert_same_cte(after.cte, full, np.s_[:, 1:])


def test_a_set_of_positions_is_one_column(model: ts.DualEncoder, pairs: list[ts.Pair]) -> None:
    everything = traced(model, pairs, positions="all")
    assert everything.cte.shape == (3, 4, 1) and everything.columns == ("all tokens",)
    assert_same_cte(1, everything)  # every token of any layer decides everything
    single = traced(model, pairs)
    end = traced(model, pairs, positions="[end]")
    lengths = [len(tokens) for tokens in single.tokens]
    for i, length in enumerate(lengths):
        assert_same_cte(end.cte[i, :, 0], single, np.s_[i, :, length - 1])
    assert_same_cte(traced(model, pairs, positions=-1).cte, end)
    differing = traced(model, pairs, positions="differing", window=2)
    assert_same_cte(1, differing, np.s_[:, 0, 0])  # layer 0 alone, cut off at the low end
    assert everything.map().rows == ("all tokens",) and everything.map().values.shape == (4, 1)


def test_other_names_of_a_site_are_the_same_site(model: ts.DualEncoder, pairs: list[ts.Pair]) -> None:
    for name, site in (("head", "z"), ("attn_out", "attn"), ("mlp_out", "mlp")):
        assert traced(model, pairs[:1], site=name).site == site


def test_heads_are_columns(model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path) -> None:
    heads = traced(model, pairs, site="z", heads="each")
    assert heads.columns == ("head 0", "head 1") and heads.cte.shape == (3, 3, 2)
    for head in range(2):
        one = traced(model, pairs, site="z", heads=head, positions="all")
        assert_same_cte(one.cte[:, :, 0], heads, np.s_[:, :, head])
        by_token = traced(model, pairs, site="z", heads=head)
        assert by_token.cte.shape == (3, 3, 7) and by_token.columns is None
    heads.save(tmp_path / "heads.safetensors")
    again = ts.load_trace(tmp_path / "heads.safetensors")
    assert again.columns == heads.columns and np.array_equal(again.scores.patched, heads.scores.patched)
    assert set(again.to_frame()["column"]) == {"head 0", "head 1"}
    figure = again.heatmap()
    assert "head" in figure.layout.title.text and list(figure.data[0].x) == [0, 1]
    rescored = again.rescore(np.stack([IMAGE, -IMAGE, -IMAGE]))
    np.testing.assert_allclose(rescored.scores.patched, heads.scores.patched, atol=1e-6)
    again.export(tmp_path / "heads.png")
    assert (tmp_path / "heads.png").stat().st_size > 1000


def test_the_negated_states_go_into_the_affirmative_caption(model: ts.DualEncoder) -> None:
    pairs = [
        ts.Pair(**CAPTIONS, image=IMAGE, negation="correct"),
        ts.Pair(correct="a large mass", foil="no large mass", image=IMAGE, negation="foil"),
    ]
    mixed = traced(model, pairs, direction="negated->affirmative")
    denoised, noised = (traced(model, pairs, direction=d) for d in ("correct->foil", "foil->correct"))
    assert_same_cte(mixed.cte[0], denoised, np.s_[0])
    assert_same_cte(mixed.cte[1], noised, np.s_[1])
    assert mixed.select([1]).cte.shape[0] == 1 and mixed.select([1]).noising.tolist() == [True]
    with pytest.raises(ts.tracer.TraceError, match="pair '0' has no negation="):
        traced(model, [ts.Pair(**CAPTIONS, image=IMAGE)], direction="negated->affirmative")


def test_what_cannot_be_selected_is_refused(model: ts.DualEncoder, pairs: list[ts.Pair]) -> None:
    with pytest.raises(ts.tracer.TraceError, match="'resid' has no heads"):
        traced(model, pairs, heads="each")
    with pytest.raises(ts.tracer.TraceError, match="two axes"):
        traced(model, pairs, site="z", heads="each", positions="each")
    with pytest.raises(ts.tracer.TraceError, match="no token 6: its 5 tokens"):
        traced(model, pairs, positions=6)
    with pytest.raises(ts.tracer.TraceError, match="unknown positions 'ends'"):
        traced(model, pairs, positions="ends")
    with pytest.raises(ts.tracer.TraceError, match=r"has no tokens for 'further differing'"):
        traced(model, pairs, positions="further differing")
    with pytest.raises(SiteError, match="no head 9"):
        traced(model, pairs, site="z", heads=9)
    with pytest.raises(ts.tracer.TraceError, match="window must be a whole number >= 1, not 0"):
        traced(model, pairs, window=0)
    with pytest.raises(ts.tracer.TraceError, match="differ in their site"):
        traced(model, pairs).control(traced(model, pairs, site="resid_post"))

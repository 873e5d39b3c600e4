"""Comparisons of two traces: which pairs are the same, what differs, and on which axis of depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import synthetic_trace
from models import WordTokenizer, open_clip_model
from scipy.stats import false_discovery_control, spearmanr

import tracescribe as ts
from tracescribe.errors import DataFormatError, TraceError
from tracescribe.tracer.results.matching import match_pairs


def named(trace: ts.CausalTrace, **changes: Any) -> ts.CausalTrace:
    """A synthetic trace whose pairs have captions and names of their own."""
    captions = tuple(f"there is no {words[4]}" for words in trace.tokens)
    foils = tuple(f"there is severe {words[4]}" for words in trace.tokens)
    return replace(trace, captions=captions, foil_captions=foils, named=np.ones(len(trace), dtype=bool), **changes)


def changed(trace: ts.CausalTrace, by: np.ndarray) -> ts.CausalTrace:
    """The same pairs with ``by`` [layer] added to the CTE of their last token."""
    patched = trace.scores.patched.copy()
    patched[:, :, -1] -= (trace.denominator[:, None] * by).astype(np.float32)
    return replace(trace, scores=replace(trace.scores, patched=patched))


STEP = np.array([0, 0, 0, 0.5, 0, 0, 0, 0, 0])


def test_a_planted_difference_is_found_where_it_is_and_nowhere_else() -> None:
    before = named(synthetic_trace(n_pairs=60, n_texts=60, share_inverted=0))
    noise = named(synthetic_trace(n_pairs=60, n_texts=60, share_inverted=0, seed=1))  # the same texts, other numbers
    after = replace(changed(noise, STEP), ids=before.ids)
    found = ts.compare(before, after, names=("before", "after"))
    assert found.paired and found.n_pairs == (60, 60)
    assert np.argmax(np.abs(found.profile.difference)) == 3
    assert found.profile.q[3] < 1e-3
    assert found.profile.lo[3] < 0.5 < found.profile.hi[3]
    others = np.delete(found.profile.q, 3)
    assert (others[np.isfinite(others)] > 0.05).all()
    assert "layers: 1 of 7 differ (q < 0.05); largest +0" in found.summary()
    # layers 0 and L sum to 1 in both: fixed, not tested, and no interval is printed for them
    assert np.isnan(found.profile.p[[0, -1]]).all() and np.isnan(found.profile.lo[[0, -1]]).all()


def test_differences_are_those_of_maps_profiles_and_alphas() -> None:
    first = named(synthetic_trace(n_pairs=20, seed=2, share_inverted=0))
    second = replace(named(synthetic_trace(n_pairs=20, seed=3, share_inverted=0)), ids=first.ids)
    found = ts.compare(first, second)
    maps, curves = ([getattr(one, what)() for one in (first, second)] for what in ("map", "per_layer"))
    np.testing.assert_allclose(found.cells.difference, maps[1].values - maps[0].values, atol=1e-12)
    np.testing.assert_allclose(found.profile.difference, curves[1].value - curves[0].value, atol=1e-12)
    alphas = [ts.prescribe(one).alpha for one in (first, second)]
    np.testing.assert_allclose(found.alpha.difference, alphas[1] - alphas[0], atol=1e-12)
    tested = found.cells.tested
    np.testing.assert_allclose(found.cells.q[tested], false_discovery_control(found.cells.p[tested]))
    agreement = spearmanr(found.cells.first[tested], found.cells.second[tested]).statistic
    assert found.cells.rank_agreement == pytest.approx(agreement)
    backwards = ts.compare(second, first)
    np.testing.assert_allclose(backwards.profile.difference, -found.profile.difference, atol=1e-12)


def test_pairing_takes_what_pairs_share_out_of_the_interval() -> None:
    first = named(synthetic_trace(n_pairs=40, n_texts=40, share_inverted=0))
    second = changed(first, STEP)  # each pair is changed alike: the difference has next to no spread
    paired = ts.compare(first, second)
    apart = ts.compare(first, second, pairing="none")
    assert paired.profile.hi[3] - paired.profile.lo[3] < 1e-3
    assert "unpaired, as asked" in apart.matching
    # even then the clusters of one name are drawn together
    renamed = replace(second, ids=tuple(f"other{i}" for i in range(40)), groups=tuple(f"g{i}" for i in range(40)))
    words = tuple((*tokens[:4], f"{tokens[4]}x", *tokens[5:]) for tokens in renamed.tokens)
    strangers = ts.compare(first, replace(renamed, tokens=words, captions=tuple(f"{c}x" for c in first.captions or ())))
    assert not strangers.paired and "no pair is in both" in strangers.matching
    assert strangers.profile.hi[3] - strangers.profile.lo[3] > 20 * (paired.profile.hi[3] - paired.profile.lo[3])


# which pairs are the same ---------------------------------------------------------------------------------------------


def test_default_ids_of_other_pairs_are_no_match() -> None:
    first = named(synthetic_trace(n_pairs=6))
    numbered = replace(first, ids=tuple(map(str, range(6))), groups=tuple(map(str, range(6))))
    unnamed = replace(numbered, named=np.zeros(6, dtype=bool))
    other = replace(unnamed, captions=tuple(f"{c} left" for c in unnamed.captions or ()))
    assert match_pairs(unnamed, other, "auto").places is None
    # nor are those with equal captions, of which nothing says that the image is the same
    assert match_pairs(unnamed, replace(unnamed), "auto").places is None
    with pytest.raises(TraceError, match="no pair in common"):
        ts.compare(unnamed, other, pairing="id")
    # a name and other captions: not the same item either
    renamed = replace(numbered, captions=tuple(f"{c} left" for c in numbered.captions or ()))
    assert match_pairs(numbered, renamed, "auto").places is None


def described(names: str = "") -> tuple[np.ndarray, list[ts.Pair]]:
    images = np.random.default_rng(0).normal(size=(4, 16))
    texts = [(f"there is no {word}", f"there is some {word}") for word in "abcd"]
    return images, [
        ts.Pair(correct=correct, foil=foil, image=image, id=name)
        for (correct, foil), image, name in zip(texts, images, names or [None] * 4, strict=True)
    ]


def test_pairs_without_names_are_the_same_where_captions_and_targets_are() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    images, pairs = described()
    trace = ts.trace(model, pairs, progress=False, floor=0)
    turned = ts.trace(model, pairs[::-1], progress=False, floor=0)
    places = match_pairs(trace, turned, "auto").places
    assert places is not None and places[0].tolist() == [3, 2, 1, 0]
    others = trace.rescore(images[::-1])  # the same captions and numbers, other images
    assert match_pairs(trace, others, "auto").places is None
    bare = [replace(one, target=None, target_embeddings=None) for one in (trace, trace, others)]
    assert match_pairs(bare[0], bare[1], "auto").places is not None  # the hash of pairs and targets is equal
    assert match_pairs(bare[0], bare[2], "auto").places is None


def test_named_pairs_of_one_model_with_other_images_are_not_the_same() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    images, pairs = described("abcd")
    trace = ts.trace(model, pairs, progress=False, floor=0)
    assert match_pairs(trace, trace.rescore(images[::-1]), "auto").places is None
    other = ts.wrap(open_clip_model(seed=1), tokenizer=WordTokenizer(), name="other")
    again = ts.trace(other, pairs, progress=False, floor=0)
    assert "4 pairs are in both" in match_pairs(trace, again, "auto").said


def test_two_wordings_and_two_targets_of_the_same_items_are_paired_by_id() -> None:
    """Their captions or targets differ, so that they are only the same items where that is asked for."""
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    images, pairs = described("abcd")
    trace = ts.trace(model, pairs, progress=False, floor=0)
    wording = [pair.model_copy(update={"correct": f"no {pair.id} here", "foil": f"a {pair.id} here"}) for pair in pairs]
    others = {
        "wording": ts.trace(model, wording[::-1], progress=False, floor=0),
        "target": trace.rescore(images[::-1]).select([3, 2, 1, 0]),
    }
    for other in others.values():
        said = match_pairs(trace, other, "auto")
        assert said.places is None
        assert "4 pairs have equal ids and groups, 4 of them other captions or targets: pairing='id'" in said.said
        found = ts.compare(trace, other, pairing="id", segment="all", n_boot=50)
        assert found.paired and found.n_pairs == (4, 4) and "paired by id, as asked" in found.matching
        apart = ts.compare(trace, other, pairing="none", segment="all", n_boot=50)
        np.testing.assert_allclose(found.profile.difference, apart.profile.difference, atol=1e-12)  # the same sums
        backwards = ts.compare(other, trace, pairing="id", segment="all", n_boot=50)
        np.testing.assert_allclose(backwards.profile.difference, -found.profile.difference, atol=1e-12)
    mixed = [*pairs[:2], *wording[2:]]
    half = ts.compare(trace, ts.trace(model, mixed, progress=False, floor=0), segment="all", n_boot=50)
    assert half.n_pairs == (2, 2)  # as before: those that are the same throughout are half of them
    assert (
        "2 of them other captions"
        in ts.compare(
            trace, ts.trace(model, mixed, progress=False, floor=0), pairing="id", segment="all", n_boot=50
        ).matching
    )


def test_texts_of_either_trace_bind_items_that_are_paired() -> None:
    """Four wordings of the second trace make the items fewer, whichever trace comes first."""
    first = named(synthetic_trace(n_pairs=40, n_texts=40, share_inverted=0))
    other = named(synthetic_trace(n_pairs=40, n_texts=4, share_inverted=0, seed=1), ids=first.ids, groups=first.groups)
    one, two = (ts.compare(*both, pairing="id", n_boot=200) for both in ((first, other), (other, first)))
    assert one.paired and two.paired
    np.testing.assert_allclose(one.profile.lo, -two.profile.hi, atol=1e-12)
    np.testing.assert_allclose(one.profile.hi, -two.profile.lo, atol=1e-12)


def test_few_common_pairs_leave_two_samples_and_it_is_said() -> None:
    trace = named(synthetic_trace(n_pairs=10, n_texts=10))
    first, second = trace.select(range(6)), trace.select(range(4, 10))
    assert "only 2 of 6 pairs are in both" in ts.compare(first, second, segment="all").matching
    forced = ts.compare(first, second, pairing="id", segment="all")
    assert forced.n_pairs == (2, 2)
    assert "4 of the first and 4 of the second are in one trace only" in forced.matching


def test_pairing_by_order_needs_the_same_captions() -> None:
    trace = named(synthetic_trace(n_pairs=4))
    unnamed = replace(trace, named=np.zeros(4, dtype=bool))
    assert ts.compare(unnamed, unnamed, pairing="order").paired
    with pytest.raises(TraceError, match="pair 0 is"):
        ts.compare(unnamed, unnamed.select([1, 0, 2, 3]), pairing="order")
    with pytest.raises(TraceError, match="there are 4 and 3"):
        ts.compare(unnamed, unnamed.select([0, 1, 2]), pairing="order")


# models of other depths -----------------------------------------------------------------------------------------------


def test_other_depths_are_compared_at_equal_relative_depth() -> None:
    shallow = named(synthetic_trace(n_pairs=12, n_layers=4, share_inverted=0))
    deep = named(synthetic_trace(n_pairs=12, n_layers=8, share_inverted=0), ids=shallow.ids)
    found = ts.compare(shallow, deep, names=("four", "eight"))
    np.testing.assert_allclose(found.depth, [0, 0.25, 0.5, 0.75, 1])
    # layer l of 4 lies at layer 2 l of 8
    np.testing.assert_allclose(found.profile.second, deep.per_layer(ci=None).value[::2], atol=1e-12)
    assert found.interpolated == (
        "eight (8 layers) is interpolated linearly at the relative depths of the 4 layers of four"
    )
    assert found.interpolated in found.summary()
    third = named(synthetic_trace(n_pairs=12, n_layers=3, share_inverted=0), ids=shallow.ids)
    curve, expected = deep.per_layer(ci=None).value, ts.compare(deep, third).profile.first
    np.testing.assert_allclose(expected[1], curve[2] + (8 / 3 - 2) * (curve[3] - curve[2]), atol=1e-12)


# files, figures, refusals ---------------------------------------------------------------------------------------------


def test_files_tables_and_figures(tmp_path: Path) -> None:
    first = named(synthetic_trace(n_pairs=20))
    second = changed(first, STEP)
    first.save(tmp_path / "clip.safetensors")
    second.save(tmp_path / "nast.safetensors")
    found = ts.compare(tmp_path / "clip.safetensors", str(tmp_path / "nast.safetensors"))
    assert found.names == ("clip", "nast")
    table = found.to_frame()
    assert table.quantity.value_counts().to_dict() == {"cte": 9 * len(found.rows), "profile": 9, "alpha": 8}
    row = table[(table.quantity == "profile") & (table.layer == 3)].iloc[0]
    assert row.difference == pytest.approx(row.second - row["first"]) and row.lo <= row.difference <= row.hi
    assert found.map().quantity == "CTE, nast less clip"
    assert "CTE, nast less clip" in str(found.heatmap().layout)
    found.export(tmp_path / "d.svg")
    assert (tmp_path / "d.svg").stat().st_size > 1000


def test_one_cluster_gives_no_interval_and_says_so() -> None:
    trace = named(synthetic_trace(n_pairs=6, groups=("one",) * 6))
    found = ts.compare(trace, changed(trace, STEP))
    assert np.isnan(found.profile.lo).all() and not found.cells.tested.any()
    assert "no intervals" in found.summary()
    assert found.per_layer().lo is None and found.map().ci is None


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"direction": "correct->foil"}, {}, "differ in their direction"),
    ({"site": "attn"}, {}, "differ in their site"),
    ({"metric": {"name": "rank"}}, {}, r"differ in their metric \(cosine and rank\)"),
    ({}, {"pairing": "ids"}, "unknown pairing 'ids'"),
    ({}, {"names": "ab"}, "names must be two texts"),
    ({}, {"names": ["a"]}, "names must be two texts"),
    ({}, {"aggregate": "total"}, "unknown aggregate"),
    ({}, {"ci": 2}, "ci must lie between 0 and 1"),
    ({}, {"align": "word"}, "unknown align"),
]


@pytest.mark.parametrize(("provenance", "options", "words"), BAD, ids=[case[2][:20] for case in BAD])
def test_what_cannot_be_compared_is_refused(provenance: Any, options: Any, words: str) -> None:
    trace = named(synthetic_trace())
    other = replace(trace, provenance={"site": "resid", "direction": "foil->correct", **provenance})
    with pytest.raises(TraceError, match=words):
        ts.compare(replace(trace, provenance={"site": "resid", "direction": "foil->correct"}), other, **options)


RANK = {"name": "rank", "against": "caption", "candidates": 4, "per_pair": False, "candidates_sha256": "a"}
CHANCE = {**RANK, "name": "probability", "logit_scale": 100.0}
UNLIKE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"queries": "[end]"}, {"queries": "all"}, r"differ in their queries \('\[end\]' and 'all'\)"),
    ({"method": "direct", "through_mlps": True}, {"method": "direct", "through_mlps": False}, "through_mlps"),
    ({"aligned": "shift"}, {"aligned": "keep"}, "position_policy"),
    ({"positions": None}, {"positions": "[end]"}, r"differ in their positions \('each' and '\[end\]'\)"),
    (
        {"positions": None, "heads": None},
        {"positions": None, "heads": 1},
        r"differ in their heads \('all together' and 1\)",
    ),
    (
        {"metric": RANK},
        {"metric": {**RANK, "candidates": 9}},
        r"differ in what S is among \(4 captions and 9 captions\)",
    ),
    ({"metric": RANK}, {"metric": {**RANK, "candidates": None}}, "4 captions and the pair's foil alone"),
    ({"metric": RANK}, {"metric": {**RANK, "against": "target"}}, "4 captions and 4 targets"),
    ({"metric": RANK}, {"metric": {**RANK, "per_pair": True}}, "4 captions and each pair's captions"),
    (
        {"metric": CHANCE, "weights_sha256": "w"},
        {"metric": {**CHANCE, "logit_scale": 20.0}, "weights_sha256": "w"},
        r"of one model and differ in their logit_scale \(100 and 20\)",
    ),
]


@pytest.mark.parametrize(("first", "second", "words"), UNLIKE, ids=[case[2][:30] for case in UNLIKE])
def test_other_questions_are_not_compared(first: dict[str, Any], second: dict[str, Any], words: str) -> None:
    one, two = (replace(named(synthetic_trace()), provenance={"floor": 0.0, **told}) for told in (first, second))
    with pytest.raises(TraceError, match=words):
        ts.compare(one, two)
    assert ts.compare(one, one, n_boot=20).paired  # alike


def test_the_same_question_of_two_models_or_populations_is_compared() -> None:
    alike: list[list[dict[str, Any]]] = [
        # each model's own logit scale; lists by pair of two populations; the default positions and their name
        [
            {"metric": {**CHANCE, "logit_scale": scale}, "weights_sha256": name}
            for scale, name in ((100.0, "a"), (87.0, "b"))
        ],
        [{"metric": {**RANK, "per_pair": True, "candidates": number}} for number in (10, 30)],
        [{"positions": positions, "heads": "each"} for positions in (None, "all")],
    ]
    for told in alike:
        one, two = (replace(named(synthetic_trace()), provenance={"floor": 0.0, **provenance}) for provenance in told)
        assert ts.compare(one, two, n_boot=20).paired


def test_other_floors_and_pools_are_said() -> None:
    trace = named(synthetic_trace(n_pairs=20, share_inverted=0))
    strict = trace.with_floor(float(np.sort(trace.denominator)[5]))
    said = ts.compare(trace, strict, n_boot=20).summary()
    assert f"the least |S_corr - S_foil| of a pair that enters differs: {trace.floor} and {strict.floor}" in said
    assert "least |S" not in ts.compare(trace, trace, n_boot=20).summary()
    pools = [{"captions": 1, "sha256": "a"}, {"captions": 20, "sha256": "b"}]
    one, two = (replace(trace, provenance={"replace": "mean", "pool": pool, "weights_sha256": "w"}) for pool in pools)
    assert "by those of other captions: the pools differ" in ts.compare(one, two, n_boot=20).summary()
    assert "pools" not in ts.compare(one, one, n_boot=20).summary()


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    trace = named(synthetic_trace())
    with pytest.raises(TraceError, match=r"evaluations are compared by tracescribe.benchmark.compare"):
        ts.compare(trace, 5)  # type: ignore[arg-type]
    with pytest.raises(DataFormatError, match="No such file"):
        ts.compare(trace, tmp_path / "none.safetensors")
    right = trace.select(np.flatnonzero(trace.denominator > 0))
    wrong = replace(right, scores=replace(right.scores, correct=right.scores.foil, foil=right.scores.correct))
    with pytest.warns(ts.tracer.TraceWarning, match="prefers the foil"):
        ts.compare(right, wrong)


# splitting ------------------------------------------------------------------------------------------------------------


def test_a_trace_is_split_by_what_its_pairs_say(tmp_path: Path) -> None:
    fields = {"attributes": ("existence", "severity", "", "existence"), "negated": ("foil", "foil", "correct", "foil")}
    trace = replace(synthetic_trace(n_pairs=4), **fields)
    trace.save(tmp_path / "t.safetensors")
    read = ts.load_trace(tmp_path / "t.safetensors")
    parts = read.by("attribute")
    assert {name: part.ids for name, part in parts.items()} == {
        "existence": ("pair0", "pair3"),
        "severity": ("pair1",),
        "": ("pair2",),
    }
    np.testing.assert_array_equal(parts["existence"].cte, read.select(attribute="existence").cte)
    assert parts["existence"].negated == ("foil", "foil")
    assert list(read.by("group")) == list(dict.fromkeys(read.groups))
    with pytest.raises(TraceError, match="no pair of this trace says its template"):
        read.by("template")
    with pytest.raises(TraceError, match="unknown field 'layer'"):
        read.by("layer")  # type: ignore[arg-type]


def test_a_trace_iterates_over_its_pairs() -> None:
    trace = synthetic_trace(n_pairs=5, with_embeddings=True)
    parts = list(trace)
    assert [part.ids for part in parts] == [(name,) for name in trace.ids]
    assert all(len(part) == 1 and part.embeddings is not None and len(part.embeddings) == 1 for part in parts)

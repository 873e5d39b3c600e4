"""What a causal trace derives from its scores, and the traces it gives rise to."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import synthetic_trace

import tracescribe as ts
from tracescribe.errors import DegenerateTraceError, NonFiniteError
from tracescribe.tracer import Scores, TraceError, TraceWarning


def with_margins(margins, **options):
    """A synthetic trace with given S_corr - S_foil and unchanged effects (numerators)."""
    trace = synthetic_trace(n_pairs=len(margins), share_inverted=0, **options)
    foil = trace.scores.correct - np.asarray(margins, dtype=np.float32)
    return replace(trace, scores=replace(trace.scores, foil=foil))


def test_cte_is_the_formula_and_nan_where_it_has_no_meaning():
    trace = with_margins([0.05, 1e-6, -0.03, 0.0], vary_length=True)
    correct, foil, patched = (getattr(trace.scores, n).astype(np.float64) for n in ("correct", "foil", "patched"))
    with np.errstate(divide="ignore", invalid="ignore"):  # the last pair's denominator is 0
        expected = (correct[:, None, None] - patched) / (correct - foil)[:, None, None]
    assert trace.valid.tolist() == [True, False, True, False]
    assert np.isnan(trace.cte[[1, 3]]).all()
    np.testing.assert_array_equal(trace.cte[[0, 2]], expected[[0, 2]].astype(np.float32))
    assert np.isnan(trace.cte[0, :, len(trace.tokens[0]) :]).all()
    assert trace.cte.dtype == np.float32


def test_noising_and_denoising_of_the_same_scores_add_to_one():
    trace = synthetic_trace()
    other = replace(trace, provenance={**trace.provenance, "direction": "correct->foil"})
    inside = np.broadcast_to(trace.inside[:, None, :], trace.cte.shape)
    np.testing.assert_allclose((trace.cte + other.cte)[inside], 1, atol=1e-6)  # float32 rounding of both


def test_segments_are_quantmeyers_thresholds_on_a_scale_of_100():
    # Margins of 2 ** -k around .01 are exact in float32, so that no rounding decides.
    trace = with_margins([0.0625, 0.015625, 0.0078125, -0.0078125, -0.015625, 0.0])
    assert trace.segment.tolist() == ["correct", "correct", "ambiguous", "ambiguous", "incorrect", "ambiguous"]
    scaled = replace(trace, provenance={**trace.provenance, "logit_scale": 7.0})
    assert scaled.segment.tolist() == trace.segment.tolist()


def test_ties_count_as_inverted():
    assert with_margins([0.05, 0.0, -0.05, 0.05]).share_inverted == 0.5


def test_which_pairs_enter_a_map():
    trace = with_margins([0.05, 0.05, -0.05, 1e-6, 0.005], floor=1e-3)
    names = {None: 3, "all": 4, "correct": 2, "ambiguous": 1, "incorrect": 1}
    for segment, n_pairs in names.items():
        assert trace.map(segment=segment).n_pairs == n_pairs
    assert trace.map().segment == "S_corr > S_foil"
    assert trace.per_layer(segment="incorrect").n_pairs == 1


def test_a_model_that_prefers_every_foil_is_traced_with_a_warning():
    trace = with_margins([-0.05, -0.03])
    with pytest.warns(TraceWarning, match="prefers the foil") as caught:
        assert trace.map().segment == "S_corr < S_foil"
    with pytest.warns(TraceWarning, match="prefers the foil") as also:
        trace.per_layer()
    assert caught[0].filename == also[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace.map(segment="incorrect")


def test_a_trace_without_a_usable_pair_says_so():
    trace = with_margins([1e-6, -1e-6])
    for attempt in (trace.map, trace.per_layer, trace.split_half):
        with pytest.raises(DegenerateTraceError, match="none of the 2 pairs"):
            attempt()
    with pytest.raises(DegenerateTraceError, match="no valid pair is 'incorrect'; there are 1 correct"):
        with_margins([0.05]).map(segment="incorrect")


def test_floor_zero_still_excludes_ties():
    assert with_margins([0.0, 1e-5]).with_floor(0).valid.tolist() == [False, True]
    with pytest.raises(TraceError, match="-1"):
        with_margins([0.1]).with_floor(-1)


def test_options_that_do_not_exist_are_quoted():
    trace = synthetic_trace()
    for options in ({"align": "rows"}, {"reduce": "mode"}, {"segment": "best"}):
        with pytest.raises(TraceError, match=next(iter(options.values()))):
            trace.map(**options)
    for options in ({"aggregate": "median"}, {"ci": 95}, {"n_boot": -1}):
        with pytest.raises(TraceError, match=str(next(iter(options.values())))):
            trace.per_layer(**options)


# -- other traces from this one ----------------------------------------------------------------------------------


def test_select_keeps_what_belongs_to_the_pairs():
    trace = synthetic_trace(n_pairs=8, n_texts=4, with_embeddings=True, vary_length=True)
    part = trace.select([5, 1])
    assert part.ids == ("pair5", "pair1")
    assert part.tokens == (trace.tokens[5], trace.tokens[1])
    np.testing.assert_array_equal(part.cte, trace.cte[[5, 1]])
    assert len(part.embeddings) == len(np.unique(trace.text_pair[[5, 1]]))
    np.testing.assert_array_equal(part.embeddings[part.text_pair], trace.embeddings[trace.text_pair[[5, 1]]])
    mask = np.arange(8) % 2 == 0
    assert trace.select(mask).ids == trace.select(np.flatnonzero(mask)).ids
    assert trace.select(-1).ids == ("pair7",)


@pytest.mark.parametrize("pairs", [[], [True], [8], [-9], [0.5], np.zeros(8, dtype=bool)])
def test_selections_that_make_no_sense_are_refused(pairs):
    with pytest.raises(TraceError):
        synthetic_trace(n_pairs=8).select(pairs)


def test_rescoring_with_the_same_images_changes_nothing():
    trace = synthetic_trace(with_embeddings=True, vary_length=True)
    images = np.array(trace.provenance["image_embeddings"])
    again = trace.rescore(images * 3.0)  # the length of an image embedding does not matter
    for name in ("correct", "foil", "patched"):
        # One rounding to float32 of numbers below 1.
        np.testing.assert_allclose(getattr(again.scores, name), getattr(trace.scores, name), atol=6e-8)
    assert again.ids == trace.ids
    assert again.groups == trace.groups
    assert again.provenance["rescored"]
    assert "rescored" not in trace.provenance


def test_rescoring_equals_scoring_from_scratch():
    trace = synthetic_trace(n_pairs=6, n_texts=3, with_embeddings=True, vary_length=True)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(7, trace.embeddings.shape[-1]))
    text_pair = np.array([2, 0, 0, 1, 2, 2, 0])
    again = trace.rescore(images, text_pair=text_pair)
    for i, text in enumerate(text_pair):
        image = images[i] / np.linalg.norm(images[i])
        np.testing.assert_allclose(again.scores.correct[i], trace.correct_embeddings[text] @ image, atol=1e-7)
        np.testing.assert_allclose(again.scores.foil[i], trace.foil_embeddings[text] @ image, atol=1e-7)
        np.testing.assert_allclose(again.scores.patched[i], trace.embeddings[text] @ image, atol=1e-7)
        assert again.tokens[i] == trace.tokens[list(trace.text_pair).index(text)]
    assert len(set(again.ids)) == 7
    assert again.groups == again.ids


def test_what_embeddings_hold_outside_a_pair_does_not_matter():
    trace = synthetic_trace(with_embeddings=True, vary_length=True)
    images = np.array(trace.provenance["image_embeddings"])
    filled = replace(trace, embeddings=np.nan_to_num(trace.embeddings, nan=7.0))
    assert np.isnan(trace.scores.patched).any()
    np.testing.assert_array_equal(filled.rescore(images).scores.patched, trace.rescore(images).scores.patched)


def test_rescoring_refuses_what_cannot_be_scored():
    trace = synthetic_trace(n_pairs=4, with_embeddings=True, embed_dim=16)
    good = np.ones((4, 16))
    with pytest.raises(TraceError, match="4 pairs"):
        trace.rescore(good[:3])
    with pytest.raises(TraceError, match="8 dimensions"):
        trace.rescore(good[:, :8])
    with pytest.raises(TraceError, match="text_pair 9"):
        trace.rescore(good, text_pair=[0, 1, 2, 9])
    with pytest.raises(NonFiniteError, match="row 2"):
        trace.rescore(np.where(np.arange(4)[:, None] == 2, np.nan, good))
    with pytest.raises(NonFiniteError, match="row 0"):
        trace.rescore(good * 0)
    with pytest.raises(TraceError, match="not kept"):
        synthetic_trace().rescore(good)


# -- shape of the result -----------------------------------------------------------------------------------------


def test_a_result_cannot_be_changed_by_accident_and_leaves_the_callers_arrays_alone():
    mine = np.zeros((1, 2, 3), dtype=np.float32)
    scores = Scores(correct=np.ones(1), foil=np.zeros(1), patched=mine)
    with pytest.raises(ValueError, match="read-only"):
        scores.patched[0, 0, 0] = 1
    mine[0, 0, 0] = 1


def test_parts_that_do_not_fit_are_refused():
    trace = synthetic_trace(n_pairs=4)
    for changes in (
        {"groups": trace.groups[:-1]},
        {"kinds": trace.kinds[:, :-1]},
        {"text_pair": trace.text_pair[:-1]},
        {"tokens": (*trace.tokens[:-1], ("[SOT]",))},
        {"provenance": {"direction": "sideways"}},
    ):
        with pytest.raises(TraceError, match=r"groups|patched|text_pair|pair3|sideways"):
            replace(trace, **changes)
    patched = trace.scores.patched.copy()
    patched[2, 1, 1] = np.nan
    with pytest.raises(NonFiniteError, match="pair2"):
        replace(trace, scores=replace(trace.scores, patched=patched))


def copies_of(value):
    return {
        "copy": copy.copy(value),
        "deepcopy": copy.deepcopy(value),
        "replace": replace(value),
        "pickle": pickle.loads(pickle.dumps(value)),
    }


@pytest.mark.parametrize("way", ["copy", "deepcopy", "replace", "pickle"])
def test_copies_of_a_result_cannot_be_changed_either(way):
    trace = synthetic_trace(with_embeddings=True)
    assert trace.cte.size and trace.inside.size and trace.denominator.size  # kept from now on
    for value in (trace, trace.scores, trace.per_layer(), trace.map()):
        copied = copies_of(value)[way]
        arrays = {name: array for name, array in vars(copied).items() if isinstance(array, np.ndarray)}
        assert arrays
        for name, array in arrays.items():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
            np.testing.assert_array_equal(array, getattr(value, name))
    for derived in (trace.cte, trace.inside, trace.denominator, copies_of(trace)[way].cte):
        with pytest.raises(ValueError, match="read-only"):
            derived[...] = 0


def test_pairs_are_selected_by_what_they_say_of_themselves():
    attributes = ("existence", "severity", "", "severity")
    said = {"attributes": attributes, "negated": ("foil", "foil", "correct", "correct"), "templates": ("a",) * 4}
    trace = replace(synthetic_trace(n_pairs=4), captions=tuple("abcd"), **said)
    assert trace.select(attribute="severity").ids == ("pair1", "pair3")
    assert trace.select(attribute="severity").captions == ("b", "d")
    assert trace.select(attribute=["existence", "severity"], negated="foil").ids == ("pair0", "pair1")
    assert trace.select(ids=["pair3", "pair0"]).ids == ("pair0", "pair3")
    assert trace.select([3, 1], ids="pair3", template="a").attributes == ("severity",)
    with pytest.raises(TraceError, match=r"'size' among its attributes; they are such as .'existence', 'severity'"):
        trace.select(attribute="size")
    with pytest.raises(TraceError, match="none of the 4 pairs"):
        trace.select(attribute="existence", negated="correct")
    with pytest.raises(TraceError, match="no pair of this trace has attributes"):
        synthetic_trace().select(attribute="size")


def test_a_trace_keeps_what_its_pairs_say():
    clear = ts.Text("The lungs are clear.")
    shared = {"image": clear, "negation": "correct"}
    pairs = [
        ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", attribute="severity", **shared),
        ts.Pair(correct="There is no effusion.", foil="There is severe effusion.", id="p", **shared),
    ]
    trace = ts.trace(ts.load("phantom"), pairs, progress=False, floor=0)
    assert trace.captions == ("There is no opacity.", "There is no effusion.")
    assert trace.foil_captions == ("There is severe opacity.", "There is severe effusion.")
    assert (trace.attributes, trace.templates, trace.negated) == (("severity", ""), None, ("correct", "correct"))
    assert trace.named.tolist() == [False, True]
    assert trace.select([1]).named.tolist() == [True]
    again = trace.rescore(np.ones((3, trace.embeddings.shape[-1])), text_pair="each")
    assert again.captions == ("There is no opacity.",) * 3 + ("There is no effusion.",) * 3
    assert not again.named.any()
    assert "'There is no opacity.' / 'There is severe opacity.'" in trace.summary()
    assert set(trace.to_frame()["correct"]) == set(trace.captions)


def test_the_summary_says_what_decides_a_numbers_meaning():
    trace = synthetic_trace(n_pairs=4, heads="each", positions="all", window=3, aligned="shift", method="attribution")
    trace = replace(trace, provenance={**trace.provenance, "heads": 2, "steps": 5})
    summary = trace.summary()
    for words in (
        "3 enter maps (S_corr > S_foil)",
        "heads 2",
        "positions all",
        "windows of 3 layers",
        "aligned (s",
    ):
        assert words in summary
    assert "method attribution, 5 steps" in summary


@pytest.mark.parametrize("reduce", ["ratio_of_means", "mean_of_ratios", "median"])
def test_frames_give_the_numbers_of_figures(reduce):
    trace = synthetic_trace(vary_length=True)
    cells = trace.map(reduce=reduce)
    frame = cells.to_frame()
    assert list(frame.columns) == ["layer", "row", "cte", "effect", "denominator", "n_pairs"]
    np.testing.assert_array_equal(frame["cte"].to_numpy().reshape(cells.values.shape), cells.values)
    assert frame["row"].tolist() == list(cells.rows) * 9
    if reduce == "ratio_of_means":
        np.testing.assert_allclose(frame["effect"] / frame["denominator"], frame["cte"], atol=1e-12)
    profile = trace.per_layer(reduce=reduce)
    table = profile.to_frame()
    assert list(table.columns) == ["layer", "cte", "lo", "hi", "effect", "denominator", "n_pairs"]
    np.testing.assert_array_equal(table["cte"], profile.value)
    used = trace.denominator[trace.valid & (trace.denominator > 0)]
    np.testing.assert_allclose(table["denominator"], used.mean())
    excess = trace.control(synthetic_trace(seed=1))
    np.testing.assert_array_equal(excess.to_frame()["excess"], excess.map().values.ravel())


def test_pairs_that_enter_no_map_come_last_in_a_frame():
    trace = with_margins([1e-6, -0.05, 0.05, 0.04], floor=1e-3)
    frame = trace.to_frame()
    assert frame["pair"].unique().tolist() == [2, 3, 1, 0]
    by_pair = frame.groupby("pair", sort=False)[["valid", "used"]].first()
    assert by_pair["valid"].tolist() == [True, True, True, False]
    assert by_pair["used"].tolist() == [True, True, False, False]
    valid = frame[frame["valid"]]
    np.testing.assert_allclose(valid["effect"] / valid["denominator"], valid["cte"], rtol=1e-6)  # cte is float32


def test_frame_has_one_line_per_cell():
    trace = synthetic_trace(n_pairs=3, vary_length=True)
    frame = trace.to_frame()
    assert len(frame) == sum(map(len, trace.tokens)) * (trace.n_layers + 1)
    line = frame[(frame["id"] == "pair1") & (frame["layer"] == 0) & (frame["token"] == 3)].iloc[0]
    assert (line["text"], line["foil_text"], line["role"], line["kind"]) == (
        "no",
        "severe",
        "first differing",
        "ordinary",
    )
    assert line["cte"] == trace.cte[1, 0, 3]
    total = frame.groupby(["pair", "layer"])["cte"].sum().to_numpy().reshape(3, -1)
    np.testing.assert_allclose(total, np.nansum(trace.cte, axis=2), rtol=1e-5)  # float32 sums


def test_one_line_for_a_person():
    trace = with_margins([0.05, 0.005, -0.05, 1e-6], floor=1e-3)
    assert repr(trace) == "CausalTrace(4 pairs, layers 0..8, 7 tokens, resid)"
    assert len(trace) == 4
    for words in ("4 pairs (4 texts)", "8 layers", "1 invalid", "S_corr <= S_foil in 25%", "1 correct, 2 ambiguous"):
        assert words in trace.summary()


def test_excess_over_itself_is_zero_and_needs_the_same_model():
    trace = synthetic_trace(n_pairs=20)
    excess = trace.control(trace)
    assert not excess.map().values.any()
    profile = excess.per_layer()
    # The same groups are resampled together, so that not even the draws differ.
    assert not profile.value.any()
    assert not profile.replicates.any()
    with pytest.raises(TraceError, match="8 layers and its control 6"):
        trace.control(synthetic_trace(n_layers=6))


def test_excess_is_taken_row_by_row_over_the_rows_that_both_have():
    trace = synthetic_trace(n_subject=3, seed=1)
    bare = synthetic_trace(n_subject=1, seed=2)
    # A control whose sentences begin with the differing token: it has no row "before".
    keep = np.array([0, 3, 4, 5, 6])
    control = replace(
        bare,
        scores=replace(bare.scores, patched=bare.scores.patched[:, :, keep]),
        kinds=bare.kinds[:, keep],
        differs=bare.differs[:, keep],
        tokens=tuple(tuple(t[i] for i in keep) for t in bare.tokens),
        foil_tokens=tuple(tuple(t[i] for i in keep) for t in bare.foil_tokens),
    )
    ours, theirs, excess = trace.map(), control.map(), trace.control(control).map()
    assert excess.rows == ("[start]", "first differing", "first after", "punctuation", "[end]")
    for row in excess.rows:
        np.testing.assert_array_equal(excess.row(row), ours.row(row) - theirs.row(row))


def test_excess_over_other_pairs_widens_the_interval():
    trace, other = synthetic_trace(n_pairs=30, seed=1), synthetic_trace(n_pairs=30, seed=2)
    renamed = replace(other, ids=tuple(f"c{i}" for i in range(30)), groups=tuple(f"c{i}" for i in range(30)))
    excess, alone = trace.control(renamed).per_layer(), trace.per_layer()
    inner = slice(1, -1)  # layers 0 and L are fixed at 1
    np.testing.assert_allclose(excess.value, alone.value - other.per_layer().value, atol=1e-12)
    assert ((excess.hi - excess.lo)[inner] > (alone.hi - alone.lo)[inner]).mean() > 0.8


def numbered(trace):
    """The same trace of pairs without ids."""
    numbers = tuple(str(i) for i in range(trace.n_pairs))
    return replace(trace, ids=numbers, groups=numbers, named=np.zeros(trace.n_pairs, dtype=bool))


@pytest.mark.parametrize("named", [np.zeros(30, dtype=bool), None])
def test_equal_numbers_of_two_traces_are_not_one_patient(named):
    trace, other = (numbered(synthetic_trace(n_pairs=30, n_texts=30, share_inverted=0, seed=seed)) for seed in (1, 2))
    # The control's captions are others, as controls' are.
    other = replace(other, tokens=tuple((*t[:4], f"control{i}", *t[5:]) for i, t in enumerate(other.tokens)))
    other = replace(other, foil_tokens=tuple((*t[:4], f"control{i}", *t[5:]) for i, t in enumerate(other.foil_tokens)))
    trace, other = replace(trace, named=named), replace(other, named=named)
    apart = replace(other, ids=tuple(f"c{i}" for i in range(30)), groups=tuple(f"c{i}" for i in range(30)), named=None)
    ours, expected = trace.control(other).per_layer(), trace.control(apart).per_layer()
    assert ours.replicates.tobytes() == expected.replicates.tobytes()
    # Named by the user, equal names are one patient, and drawn together.
    together = [replace(side, named=np.ones(30, dtype=bool)) for side in (trace, other)]
    assert together[0].control(together[1]).per_layer().replicates.tobytes() != ours.replicates.tobytes()


def test_pairs_without_ids_are_the_same_where_captions_and_scores_are():
    trace = numbered(synthetic_trace(n_pairs=12, n_texts=12, share_inverted=0))
    shuffled = numbered(trace.select(np.arange(12)[::-1]))
    profile = trace.control(shuffled).per_layer()
    np.testing.assert_allclose(profile.replicates, 0, atol=1e-12)


def test_excess_with_few_shared_groups_ignores_draws_that_miss_one_side():
    trace, other = (synthetic_trace(n_pairs=2, share_inverted=0, seed=seed) for seed in (1, 2))
    shared = replace(other, groups=("pair1", "elsewhere"))
    profile = trace.control(shared).per_layer()
    missed = np.isnan(profile.replicates).all(axis=1)
    # 3 groups: both of the trace's are missed with probability 1/27, both of the control's likewise.
    assert missed.mean() == pytest.approx(2 / 27, abs=0.03)
    # Layer L is 1 in both traces: a draw that misses one side would otherwise count as 1 or -1.
    np.testing.assert_allclose(profile.replicates[~missed, -1], 0, atol=1e-6)
    assert np.isfinite(profile.lo).all()


def test_profile_of_a_trace_shape():
    trace = synthetic_trace()
    profile = trace.per_layer()
    assert isinstance(profile, ts.LayerProfile)
    assert profile.layers.tolist() == list(range(9))
    assert profile.replicates.shape == (1000, 9)
    assert (profile.lo <= profile.hi).all()
    for without in (
        trace.per_layer(ci=None),
        trace.per_layer(n_boot=0),
        trace.select([0, 1, 2]).select([1]).per_layer(),
    ):
        assert without.lo is None
        assert without.replicates is None
        assert without.ci is None


# -- trace[...] ----------------------------------------------------------------------------------------------------


def test_indexing_selects_pairs_in_the_order_that_is_asked_for() -> None:
    trace = synthetic_trace(n_pairs=6, with_embeddings=True)
    mask = np.array([True, False, True, False, False, True])
    cases: list[tuple[Any, list[int]]] = [
        *((2, [2]), (-1, [5]), (np.int64(3), [3]), (slice(1, 4), [1, 2, 3]), (slice(None, None, -2), [5, 3, 1])),
        *(([4, 0, 4], [4, 0, 4]), (mask, [0, 2, 5]), (mask.tolist(), [0, 2, 5]), (np.array([5, 1]), [5, 1])),
        *((trace.ids[3], [3]), ([trace.ids[4], trace.ids[1]], [4, 1]), (slice(2, 99), [2, 3, 4, 5])),
    ]
    for key, places in cases:
        found = trace[key]
        assert (
            type(found) is type(trace)
            and found.ids == tuple(trace.ids[at] for at in places)
            and len(found) == len(places)
        )
        np.testing.assert_array_equal(found.scores.patched, trace.scores.patched[places])
        np.testing.assert_array_equal(found.cte, trace.cte[places])
        assert found.embeddings is not None and len(found.embeddings) == len(np.unique(found.text_pair))
    assert [one.ids for one in trace] == [(name,) for name in trace.ids]
    assert len(repr(trace[0])) < 100


NONSENSE: list[Any] = [
    *(6, -7, 2**70, 1.0, None, True, ..., "nobody", object, {"a": 1}, (0, 1)),
    *(slice(3, 3), slice("a", "b"), slice(None, None, 0)),
    *([], ["pair0", "nobody"], [0, "a"], [True, False], [[0], [1, 2]], np.eye(2, dtype=int), np.array([0.5])),
]


@pytest.mark.parametrize("key", NONSENSE, ids=lambda key: repr(key)[:30])
def test_anything_else_is_refused_in_a_sentence(key: Any) -> None:
    with pytest.raises(TraceError) as refusal:
        synthetic_trace(n_pairs=6)[key]
    assert 10 < len(str(refusal.value)) < 300


@pytest.mark.parametrize("given", [[b"\xfb", "1"], [[0], [0, 1]], [None], ["0"], [1.5], [True]])
def test_text_pairs_that_are_no_whole_numbers_are_refused(given):
    trace = synthetic_trace(4, 3, with_embeddings=True, embed_dim=4)
    with pytest.raises(TraceError, match="text_pair must be 'each' or whole numbers"):
        trace.rescore(np.eye(4)[: len(given)], text_pair=given)

"""Layer weights from causal profiles: golden numbers, doubts, controls, bad input."""

from __future__ import annotations

import html
import json
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from builders import PROFILE, profile_with_draws, synthetic_trace
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

import tracescribe as ts
from tracescribe.errors import PrescriptionError

GOLDEN = Path(__file__).parents[1] / "golden" / "cte_clip_vit_b32_valse.json"


@pytest.fixture(scope="module")
def golden_maps() -> dict[str, np.ndarray]:
    """Published maps of CLIP ViT-B/32 as [layer 0..12, token row]."""
    maps = json.loads(GOLDEN.read_text(encoding="utf-8"))["maps"]
    return {name: np.array(content["cte"]).T for name, content in maps.items()}


# -- the published reading ------------------------------------------------------------------------------------------


def test_published_map_gives_the_published_reading(golden_maps):
    plan = ts.prescribe(golden_maps["foil_correct"])
    # alpha of the sums over token rows, computed by hand from the published array (3 decimals)
    expected = [0.715, 1, 0.885, 0.983, 0.308, 0.337, 0.151, 0, 0.073, 0.199, 0.426, 0.933]
    np.testing.assert_allclose(plan.alpha, expected, atol=1e-3)
    assert plan.order[:4] == (2, 4, 12, 3)  # 12 only because CTE(L) = 1 by construction


def test_published_reading_is_fragile(golden_maps):
    peaks = {name: ts.prescribe(values).order[0] for name, values in golden_maps.items()}
    assert peaks == {"foil_correct": 2, "caption_correct": 5, "foil_incorrect": 6}
    others = {how: ts.prescribe(golden_maps["foil_correct"], aggregate=how).order[0] for how in ("max", "std")}
    assert others == {"max": 12, "std": 12}


def test_inner_layers_take_the_forced_last_value_out(golden_maps):
    inner = ts.prescribe(golden_maps["foil_correct"], layers="inner")
    assert inner.alpha[-1] == inner.alpha[-2]
    assert not any("by construction" in line for line in inner.warnings)


# -- properties -----------------------------------------------------------------------------------------------------

finite = st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 6))
profiles = st.lists(finite, min_size=4, max_size=30).filter(lambda v: np.ptp(v[1:]) > 1e-3)


@given(profiles, st.floats(0, 4))
def test_minmax_weights_span_zero_to_one_and_keep_the_order(values, beta):
    plan = ts.prescribe(np.array(values), beta=beta)
    blocks = np.array(values[1:])
    assert plan.alpha.min() == 0
    assert plan.alpha.max() == 1
    assert (np.diff(plan.alpha[np.argsort(blocks, kind="stable")]) >= 0).all()
    np.testing.assert_allclose(plan.multipliers, plan.alpha**beta)


@given(profiles, st.floats(0.1, 10), st.floats(-3, 3))
def test_weights_do_not_depend_on_the_scale_or_offset_of_the_effect(values, factor, offset):
    values = np.array(values)
    one, other = ts.prescribe(values), ts.prescribe(factor * values + offset)
    # cancellation in value - min: offset 3 over a range of 1e-3 leaves 3e-16 * 3 / 1e-4 relative precision
    np.testing.assert_allclose(one.alpha, other.alpha, atol=1e-9)


@given(profiles)
def test_layer_zero_never_matters(values):
    values = np.array(values)
    changed = values.copy()
    changed[0] = 1e3
    np.testing.assert_array_equal(ts.prescribe(values).alpha, ts.prescribe(changed).alpha)


@pytest.mark.parametrize("aggregate", ["sum", "max", "mean", "std"])
def test_a_map_is_its_aggregated_profile(aggregate):
    cells = np.random.default_rng(0).random((6, 9))
    aggregated = getattr(cells, aggregate)(axis=1)
    np.testing.assert_allclose(ts.prescribe(cells, aggregate=aggregate).alpha, ts.prescribe(aggregated).alpha)


def test_other_normalisations():
    values = np.array([9.0, 0.5, -1.0, 2.0])
    np.testing.assert_allclose(ts.prescribe(values, normalize="max").alpha, [0.25, 0, 1])
    np.testing.assert_allclose(ts.prescribe(values, normalize="none").alpha, [0.5, 0, 2])


def test_beta_zero_is_uniform():
    np.testing.assert_array_equal(ts.prescribe(PROFILE, beta=0).multipliers, np.ones(5))


# -- is the ranking real? -------------------------------------------------------------------------------------------


def test_draws_are_normalised_one_by_one():
    # each draw is a multiple of one profile: alpha never varies although CTE does
    draws = np.outer(np.linspace(0.5, 2, 50), PROFILE)
    plan = ts.prescribe(profile_with_draws(draws))
    np.testing.assert_allclose(plan.ci[:, 0], plan.alpha, atol=1e-12)
    np.testing.assert_allclose(plan.ci[:, 1], plan.alpha, atol=1e-12)
    assert (plan.stability.argmax_share, plan.stability.top_overlap) == (1, 1)
    assert plan.stability.spearman == pytest.approx(1)


def test_noise_is_reported_as_an_unstable_peak():
    draws = np.random.default_rng(0).normal(size=(400, 9))
    plan = ts.prescribe(profile_with_draws(draws))
    assert plan.stability.argmax_share < 0.3  # 1/8 expected for 8 exchangeable blocks
    assert abs(plan.stability.spearman) < 0.2
    assert any("unstable" in line for line in plan.warnings)
    assert (plan.ci[:, 1] - plan.ci[:, 0] > 0.5).all()


def test_flat_draws_are_left_out_of_the_count():
    draws = np.vstack([np.tile(PROFILE, (9, 1)), np.ones((1, 6))])
    assert ts.prescribe(profile_with_draws(draws)).stability.n_draws == 9


def in_parts(trace: ts.CausalTrace, *templates: str, negated: bool = False) -> ts.CausalTrace:
    """The trace, its pairs of these templates in turn, and their captions negated in turn."""
    n = range(trace.n_pairs)
    named = replace(trace, templates=tuple(templates[i % len(templates)] for i in n))
    return replace(named, negated=tuple(("correct", "foil")[i % 2] for i in n)) if negated else named


def spearman_of_parts(trace: ts.CausalTrace, field: str) -> list[float]:
    """Of every two parts, over the blocks but the last, which is 1 by construction: by the trace's own selections."""
    values = [part.per_layer(ci=None).value[1:-1] for part in trace.by(field).values()]
    return [spearmanr(one, two).statistic for one, two in combinations(values, 2)]


def test_agreement_is_that_of_the_parts_own_profiles():
    trace = in_parts(synthetic_trace(n_pairs=60, n_layers=7), "there is", "shows", "with", negated=True)
    found = ts.prescribe(trace).agreement
    expected = spearman_of_parts(trace, "template")
    assert (found.templates, found.lowest) == (pytest.approx(np.mean(expected)), pytest.approx(min(expected)))
    assert found.directions == pytest.approx(spearman_of_parts(trace, "negated")[0])
    assert ts.prescribe(trace.per_layer()).agreement is None  # a profile does not know its pairs
    alone = ts.prescribe(synthetic_trace(n_pairs=40, n_layers=6)).agreement
    assert (alone.templates, alone.lowest, alone.directions) == (None, None, None)


def with_profiles(trace: ts.CausalTrace, profile: np.ndarray) -> ts.CausalTrace:
    """The trace with these values per layer at the differing token of each pair (one profile, or one for each)."""
    patched = np.where(np.isnan(trace.scores.patched), np.nan, trace.scores.correct[:, None, None]).astype(np.float32)
    patched[..., 3] = trace.scores.correct[:, None] - trace.denominator[:, None] * profile
    return replace(trace, scores=replace(trace.scores, patched=patched))


def test_halves_of_the_texts_agree_where_all_pairs_are_alike_and_not_on_noise():
    trace = synthetic_trace(n_pairs=48, n_layers=9, n_texts=12, share_inverted=0.0)
    alike = with_profiles(trace, np.array([1.0, 0.9, 1.4, 0.6, 0.8, 0.3, 0.5, 0.2, 0.7, 1.0]))
    assert ts.prescribe(alike).agreement.halves == 1
    noise = with_profiles(trace, np.random.default_rng(0).normal(size=(12, 10))[trace.text_pair])
    plan = ts.prescribe(noise)
    assert abs(plan.agreement.halves) < 0.5  # of 9 blocks; halves of 6 independent profiles
    assert any("Two halves of the texts do not agree" in line for line in plan.warnings)


def test_templates_and_directions_that_disagree_are_a_doubt():
    trace = synthetic_trace(n_pairs=48, n_layers=7, share_inverted=0.0)
    rising = np.linspace(0, 1, 8)
    trace = with_profiles(trace, np.where(np.arange(48)[:, None] % 2, rising, 1 - rising))
    trace = in_parts(trace, "a", "b", negated=True)
    plan = ts.prescribe(trace)
    assert (plan.agreement.templates, plan.agreement.directions) == (-1, -1)
    assert any("Pairs whose correct caption is negated" in line for line in plan.warnings)
    assert any("The templates do not agree" in line for line in plan.warnings)
    one = ts.prescribe(trace.select(negated="correct"))
    assert one.agreement.directions is None
    assert not any("negated and pairs" in line for line in one.warnings)


def test_agreement_beyond_a_control_is_that_of_what_exceeds_it():
    trace = in_parts(synthetic_trace(n_pairs=40, n_layers=7), "a", "b")
    control = synthetic_trace(n_pairs=30, n_layers=7, seed=1)
    beside = control.per_layer(ci=None).value
    parts = [part.per_layer(ci=None).value - beside for part in trace.by("template").values()]
    expected = spearmanr(*(part[1:-1] for part in parts)).statistic
    assert ts.prescribe(trace.control(control)).agreement.templates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (PROFILE, "layer 5 is 1 by construction"),
        (PROFILE, "alpha is 0 at block(s) 4: frozen by minmax normalisation, although CTE there is "),
        (
            PROFILE * (PROFILE != 0.8),
            "alpha is 0 at block(s) 4: CTE there is 0, and it is not trained",
        ),
        (PROFILE, "No bootstrap draws"),
        (1 + PROFILE / 100, "nearly flat"),
    ],
)
def test_doubts_are_on_the_plan_and_nowhere_else(values, sentence, caplog):
    """Its card in a notebook and the command line say them; a log would say them twice."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        plan = ts.prescribe(values)
    assert len([line for line in plan.warnings if sentence in line]) == 1
    assert plan._repr_html_().count(html.escape(sentence)) == 1
    assert caplog.text == "" and warned == []


def test_a_sound_profile_raises_no_doubt_but_the_frozen_layer():
    draws = np.array([1.0, 0.2, 0.9, 0.5, 0.3]) + np.random.default_rng(0).normal(0, 0.01, size=(200, 5))
    (only,) = ts.prescribe(profile_with_draws(draws)).warnings
    assert "frozen" in only


@pytest.mark.parametrize(("n_texts", "said"), [(14, True), (1, True), (20, False), (None, False)])
def test_few_distinct_texts_are_a_doubt_however_many_pairs(n_texts, said):
    """580 pairs of 103 patients may have 14 texts: how the ranking varies with the wording is then not known."""
    plan = ts.prescribe(profile_with_draws(np.tile(PROFILE, (9, 1)), n_pairs=580, n_groups=103, n_texts=n_texts))
    doubts = [line for line in plan.warnings if f"Only {n_texts} distinct pair(s) of captions stand behind" in line]
    assert len(doubts) == said
    assert plan.provenance.get("n_texts") == n_texts


def test_a_trace_tells_how_many_texts_it_has():
    trace = synthetic_trace(n_pairs=40, n_layers=6)
    assert ts.prescribe(trace).provenance["n_texts"] == trace.per_layer().n_texts


def test_few_pairs_are_a_doubt():
    plan = ts.prescribe(profile_with_draws(np.tile(PROFILE, (9, 1)), n_pairs=7))
    assert [line for line in plan.warnings if "Only 7 pair(s)" in line]


# -- every kind of source -------------------------------------------------------------------------------------------


def test_a_trace_and_its_profile_give_one_plan():
    trace = synthetic_trace(n_pairs=40, n_layers=6)
    plan = ts.prescribe(trace, seed=3)
    by_profile = ts.prescribe(trace.per_layer(seed=3))
    np.testing.assert_array_equal(plan.alpha, by_profile.alpha)
    np.testing.assert_array_equal(plan.ci, by_profile.ci)
    assert plan.stability == by_profile.stability
    assert (plan.ci[:, 0] <= plan.alpha + 1e-12).all()
    assert (plan.alpha <= plan.ci[:, 1] + 1e-12).all()
    assert plan.provenance["trace"] == trace.provenance
    assert any("layer 6 is 1 by construction" in line for line in plan.warnings)


def test_a_map_gives_the_plan_of_its_rows():
    trace = synthetic_trace(n_pairs=40, n_layers=6)
    cells = trace.map(align="position")
    np.testing.assert_allclose(ts.prescribe(cells).alpha, ts.prescribe(trace).alpha, atol=1e-6)  # CTE is float32
    np.testing.assert_allclose(ts.prescribe(cells).alpha, ts.prescribe(cells.values).alpha)
    assert ts.prescribe(cells, aggregate="max").alpha.max() == 1


def test_an_excess_is_forced_to_zero_at_the_last_layer():
    trace, control = (synthetic_trace(n_pairs=30, n_layers=6, seed=seed) for seed in (0, 1))
    plan = ts.prescribe(trace.control(control))
    assert plan.n_blocks == 6
    assert any("layer 6 is 0 by construction" in line for line in plan.warnings)
    assert set(plan.provenance) >= {"trace", "control"}


def test_the_level_of_the_interval_is_used():
    trace = synthetic_trace(n_pairs=30, n_layers=6)
    wide, narrow = ts.prescribe(trace, ci=0.99).ci, ts.prescribe(trace, ci=0.5).ci
    assert (np.diff(wide).sum()) > np.diff(narrow).sum()
    without = ts.prescribe(trace, ci=None)
    assert without.ci is None
    assert without.stability is None
    with pytest.raises(PrescriptionError, match=r"ci must lie between 0 and 1.*95"):
        ts.prescribe(trace, ci=95)


# -- controls -------------------------------------------------------------------------------------------------------


def test_controls():
    plan = ts.prescribe(PROFILE, beta=2)
    shuffled = plan.permuted(seed=1)
    assert sorted(shuffled.alpha) == sorted(plan.alpha)
    np.testing.assert_array_equal(shuffled.alpha, plan.permuted(seed=1).alpha)
    np.testing.assert_allclose(plan.inverse().alpha + plan.alpha, 1)
    np.testing.assert_array_equal(plan.uniform().multipliers, 1)
    assert {p.beta for p in (shuffled, plan.inverse(), plan.uniform())} == {2}
    assert [p.provenance["control"] for p in (shuffled, plan.inverse())] == ["permuted(seed=1)", "inverse"]


@pytest.mark.parametrize("n_blocks", [2, 3, 4, 6, 9, 12, 24])
@pytest.mark.parametrize("seed", range(5))
def test_a_permuted_plan_leaves_no_block_in_place(n_blocks, seed):
    plan = ts.prescribe(np.random.default_rng(seed).random(n_blocks + 1))
    shuffled = plan.permuted(seed)
    assert sorted(shuffled.alpha) == sorted(plan.alpha)
    assert not (shuffled.alpha == plan.alpha).any()
    top = min(3, n_blocks // 2)
    assert not set(plan.order[:top]) & set(shuffled.order[:top])


def test_a_permuted_plan_of_equal_weights_moves_what_it_can():
    plan = ts.finetune.Prescription(np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    shuffled = plan.permuted(seed=0)
    assert shuffled.alpha[0] == 0
    assert shuffled.alpha.sum() == 1
    with pytest.raises(PrescriptionError, match="no permutation of it differs"):
        plan.uniform().permuted(seed=0)


def test_controls_of_a_plan_with_a_budget():
    """A budget's scale belongs to the proportions it was made for: ordinary training has multiplier 1, not 3.27."""
    plan = ts.finetune.Prescription(np.array([1.0, 0.1, 0.0, 0.1])).with_budget("mean")
    assert plan.scale > 3
    np.testing.assert_array_equal(plan.uniform().multipliers, 1)
    for control in (plan.permuted(seed=0), plan.inverse()):
        assert control.multipliers.mean() == pytest.approx(1)


def test_mean_budget_keeps_proportions():
    plan = ts.prescribe(PROFILE, beta=1.5)
    spent = plan.with_budget("mean")
    assert spent.multipliers.mean() == pytest.approx(1)
    np.testing.assert_allclose(spent.multipliers / spent.multipliers.max(), plan.multipliers / plan.multipliers.max())
    np.testing.assert_array_equal(spent.with_budget("none").multipliers, plan.multipliers)


# -- bad input ------------------------------------------------------------------------------------------------------


def test_a_plan_that_would_train_nothing():
    with pytest.raises(PrescriptionError, match="every multiplier would be 0"):
        ts.finetune.Prescription(np.zeros(3))
    with pytest.raises(PrescriptionError, match="every multiplier would be 0"):
        ts.finetune.Prescription(np.array([0.5, 0.1]), beta=1e6)


@pytest.mark.parametrize(
    ("ci", "sentence"),
    [
        ([[0.0, 1.0]], "two bounds for each of 2 blocks"),
        ([[0.5, 0.1], [0, 1]], "the lower one first"),
        ([[0.5, np.nan], [0, 1]], "finite bounds"),
    ],
)
def test_intervals_that_are_none(ci, sentence):
    with pytest.raises(PrescriptionError, match=sentence):
        ts.finetune.Prescription(np.array([0.5, 1.0]), ci=np.array(ci))


def test_a_plan_cannot_be_written_to():
    plan = ts.prescribe(profile_with_draws(np.tile(PROFILE, (9, 1))))
    for values in (plan.alpha, plan.ci):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf"), "one", "1", True, None])
def test_bad_beta(beta):
    with pytest.raises(PrescriptionError, match="beta must be"):
        ts.prescribe(PROFILE, beta=beta)


def test_a_beta_that_overflows():
    with pytest.raises(PrescriptionError, match="overflows"):  # alpha above 1 exists without normalisation only
        ts.prescribe([1.0, 2.0, 1.5], beta=1e6, normalize="none")
    assert ts.prescribe([1.0, 2.0, 1.5], beta=1e6).multipliers.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.ones(6), "CTE is 1 at every block"),
        (np.array([0.0, 1, 1, 1]), "undefined"),
        (np.array([1.0, np.nan, 0.5, 1]), r"not finite at layer\(s\) 1"),
        (np.array([1.0, 0.5]), "holds 2 layer"),
        (np.ones((2, 9)), r"\(2, 9\) holds 2 layer"),
        (np.ones((6, 0)), "no token"),
        (np.ones((3, 4, 5)), r"\(3, 4, 5\).*first axis"),
        (np.array(1.0), r"shape \(\)"),
        ("trace.safetensors", "cannot prescribe from str"),
        (object(), "cannot prescribe from object"),
        (np.ma.masked_array([1.0, 2, 3, 1], mask=[0, 1, 0, 0]), "masks 1 of its 4 values"),
        (np.array([1 + 1j, 0.5, 1, 2]), r"ndarray \(complex128\)"),
        (["1", "0.5", "1"], "cannot prescribe from list"),
        ([1.0, "0.5", 1.0], "cannot prescribe from list"),
        (np.array([1.0, "0.5", 1.0], dtype=object), r"ndarray \(object\)"),
        ([True, False, True], r"list \(bool\)"),
    ],
)
def test_sources_that_define_no_weights(source, sentence):
    with pytest.raises(PrescriptionError, match=sentence):
        ts.prescribe(source)


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("aggregate", "sums", "sum, max, mean, std"),
        ("normalize", "zscore", "minmax, max, mean, softmax, rank, floor, none"),
        ("layers", "all", "blocks, inner"),
    ],
)
def test_unknown_options_list_the_choices(option, value, choices):
    with pytest.raises(PrescriptionError, match=f"{value!r}.*{choices}"):
        ts.prescribe(PROFILE, **{option: value})


def test_a_profile_cannot_be_aggregated_again():
    with pytest.raises(PrescriptionError, match="already aggregated by 'sum'"):
        ts.prescribe(profile_with_draws(np.tile(PROFILE, (3, 1))), aggregate="max")


def test_max_needs_a_positive_value():
    with pytest.raises(PrescriptionError, match="not positive at any block"):
        ts.prescribe(np.array([1.0, -1, -2]), normalize="max")
    with pytest.raises(PrescriptionError, match="every weight would be 0"):
        ts.prescribe(np.array([1.0, -1, -2]), normalize="none")


def test_a_trace_inside_the_blocks_gives_weights_too(tmp_path: Path) -> None:
    model = ts.load("phantom")
    pair = ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=ts.Text("clear lungs"))
    trace = ts.trace(model, [pair], site="attn", floor=0, progress=False)
    plan = ts.prescribe(trace)
    values = trace.per_layer(ci=None).value
    np.testing.assert_allclose(plan.alpha, (values - values.min()) / (values.max() - values.min()))
    assert len(plan.alpha) == model.text.n_layers and not any("by construction" in text for text in plan.warnings)
    plan.save(tmp_path / "plan.json")
    np.testing.assert_array_equal(ts.load_plan(tmp_path / "plan.json").alpha, plan.alpha)

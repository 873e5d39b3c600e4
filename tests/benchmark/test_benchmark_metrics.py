"""Metrics: chance for scorers that know nothing, clusters resampled whole, retrieval among false texts only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracescribe.benchmark import metrics
from tracescribe.benchmark.retrieval import in_first, pools_of
from tracescribe.errors import NonFiniteError


@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_constant_scorer_gets_chance_wherever_the_gold_stands(options: int, items: int, seed: int) -> None:
    gold = np.random.default_rng(seed).integers(0, options, items)
    hits = metrics.expected_hits(np.full((items, options), 0.3), gold)
    assert hits == pytest.approx(np.full(items, 1 / options))


@given(st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_hits_do_not_depend_on_the_order_of_options(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 0.5, 1.0], (20, 4))  # ties on purpose
    gold = rng.integers(0, 4, 20)
    order = rng.permutation(4)
    moved = metrics.expected_hits(scores[:, order], np.argsort(order)[gold])
    assert moved == pytest.approx(metrics.expected_hits(scores, gold))


def test_absent_options_never_win_and_broken_scores_are_refused() -> None:
    gold = np.array([0, 0])
    assert metrics.expected_hits(np.array([[0.1, -np.inf], [0.2, 0.1]]), gold).tolist() == [1, 1]
    for broken in (np.nan, np.inf):
        with pytest.raises(NonFiniteError, match="item 1"):
            metrics.expected_hits(np.array([[0.1, 0.2], [0.3, broken]]), gold)
    with pytest.raises(NonFiniteError):
        metrics.expected_hits(np.array([[-np.inf, 0.2], [0.3, 0.1]]), gold)


def test_mcnemar_is_the_exact_binomial_and_symmetric() -> None:
    first, second = np.array([1.0] * 12 + [0] * 3 + [1] * 50), np.array([0.0] * 12 + [1] * 3 + [1] * 50)
    # Two-sided binomial of 3 out of 15: 2 * sum_{k<=3} C(15, k) / 2^15 = 2 * 576 / 32768
    assert metrics.mcnemar(first, second) == pytest.approx(2 * 576 / 32768)
    assert metrics.mcnemar(second, first) == pytest.approx(metrics.mcnemar(first, second))
    assert metrics.mcnemar(first, first) == 1.0


def test_clusters_widen_the_interval() -> None:
    """Fifty copies of twenty patients carry the information of twenty, not of a thousand."""
    values = np.repeat(np.random.default_rng(0).integers(0, 2, 20).astype(float), 50)
    patients = [f"p{i // 50}" for i in range(1000)]
    clustered = metrics.clustered_interval(values, patients)
    independent = metrics.clustered_interval(values, [str(i) for i in range(1000)])
    assert clustered.value == independent.value == pytest.approx(100 * values.mean())
    assert clustered.lo < clustered.value < clustered.hi
    ratio = (clustered.hi - clustered.lo) / (independent.hi - independent.lo)
    assert 0.6 * np.sqrt(50) < ratio < 1.4 * np.sqrt(50)


def test_intervals_are_seeded() -> None:
    values, groups = np.random.default_rng(0).random(50), [str(i // 2) for i in range(50)]
    assert metrics.clustered_interval(values, groups, seed=1) == metrics.clustered_interval(values, groups, seed=1)
    assert metrics.clustered_interval(values, groups, seed=1) != metrics.clustered_interval(values, groups, seed=2)


@pytest.mark.parametrize("shared", [False, True])
def test_intervals_of_several_models_are_those_of_each(shared: bool) -> None:
    """Ties are halves, groups of several items, and options that several groups share or do not."""
    rng = np.random.default_rng(0)
    hits = rng.choice([0.0, 0.5, 1.0], size=(60, 3), p=[0.6, 0.1, 0.3])
    groups = [f"patient {i // 3}" for i in range(60)]
    options = {"texts": [str(i % 7) for i in range(60)] if shared else None, "n_boot": 200, "seed": 3}
    accuracies, differences = metrics.paired_intervals(hits, groups, **options)
    alone = [metrics.clustered_interval(model, groups, **options) for model in hits.T]
    paired = [metrics.paired_difference(model, hits[:, 0], groups, **options) for model in hits.T[1:]]
    for found, expected in zip([*accuracies, *differences], [*alone, *paired], strict=True):
        # the same draws, summed by another matrix product
        assert (found.value, found.lo, found.hi) == pytest.approx((expected.value, expected.lo, expected.hi), abs=1e-9)
    assert min(one.lo for one in differences) < 0 <= min(one.lo for one in accuracies)


def test_a_paired_difference_of_the_same_items_has_no_width() -> None:
    hits = np.array([1.0, 0, 1, 0])
    same = metrics.paired_difference(hits, hits, ["a", "b", "c", "d"])
    assert (same.value, same.lo, same.hi) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "count"),
    [("No effusion.", 1), ("nodule", 0), ("Normal heart, lungs not clear, without edema", 2), ("free of hardware", 1)],
)
def test_negators_are_whole_words(text: str, count: int) -> None:
    assert metrics.negator_count(text) == count


def test_a_text_contradicts_by_value_or_by_an_attribute_of_what_is_absent() -> None:
    image = {"effusion": "present", "effusion.side": "left", "edema": "absent"}
    texts = [
        {"effusion": "present"},
        {"effusion": "present", "effusion.side": "right"},
        {"edema": "present", "edema.severity": "mild"},
        {"edema.severity": "mild"},
        {},
    ]
    assert metrics.inconsistent(texts, [image])[0].tolist() == [False, True, True, True, False]


def test_what_is_not_known_of_an_image_contradicts_nothing() -> None:
    image = {"effusion": "present"}
    texts = [{"effusion.side": "left"}, {"opacity": "absent"}, {"opacity": "present"}, {"effusion": "absent"}]
    assert metrics.inconsistent(texts, [image])[0].tolist() == [False, False, False, True]


def test_contradictions_are_those_of_each_text_and_image_alone() -> None:
    rng = np.random.default_rng(0)
    values = {"effusion": ("present", "absent"), "effusion.side": ("left", "right"), "edema": ("absent", "present")}
    some = [{k: str(rng.choice(v)) for k, v in values.items() if rng.random() < 0.6} for _ in range(40)]
    facts, texts = some[:25], some[25:]
    alone = [[bool(metrics.inconsistent([text], [image])[0, 0]) for text in texts] for image in facts]
    assert metrics.inconsistent(texts, facts).tolist() == alone
    assert metrics.inconsistent(texts, []).shape == (0, 15) and metrics.inconsistent([], facts).shape == (25, 0)


def test_retrieval_scores_only_against_false_texts() -> None:
    n = 6
    similarity = np.zeros((n, n)) + np.eye(n) * 0.5
    similarity[:, 0] = 0.9  # a text that beats everybody's own
    everything_false = ~np.eye(n, dtype=bool)
    hits, sizes = hits_in_pools(similarity, everything_false, n)
    assert hits == [1, 0, 0, 0, 0, 0] and sizes == [n] * n
    true_of_all = everything_false.copy()
    true_of_all[:, 0] = False
    hits, sizes = hits_in_pools(similarity, true_of_all, n)
    assert hits == [1] * n and sizes == [n, *[n - 1] * (n - 1)]
    with pytest.raises(ValueError, match="at least 2"):  # a query of one text is always right
        pools_of(everything_false, 1, 0)


def hits_in_pools(similarity: np.ndarray, wrong: np.ndarray, pool: int) -> tuple[list[float], list[int]]:
    pools = pools_of(wrong, pool, 0)
    hits = [in_first(row[p], np.arange(len(p)) == 0, 1) for row, p in zip(similarity, pools, strict=True)]
    return hits, [len(p) for p in pools]


def test_a_constant_similarity_retrieves_by_chance() -> None:
    hits, _ = hits_in_pools(np.ones((50, 50)), ~np.eye(50, dtype=bool), 10)
    assert hits == pytest.approx(np.full(50, 0.1))


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_partners_come_from_another_group(seed: int) -> None:
    groups = [f"p{i // 3}" for i in range(40)]
    partner = metrics.shuffled_across_groups(groups, seed)
    assert sorted(partner) == list(range(40))
    assert all(groups[i] != groups[j] for i, j in enumerate(partner))
    assert metrics.shuffled_across_groups(["one"] * 3, seed).tolist() == [0, 1, 2]


def test_one_group_has_no_interval() -> None:
    # resampling one group gives that group again, and an interval of width 0 would look like certainty
    alone = metrics.clustered_interval(np.array([1.0, 0.0]), ["a", "a"])
    assert alone.value == 50 and np.isnan(alone.lo) and np.isnan(alone.hi)
    assert str(alone) == "50.0"

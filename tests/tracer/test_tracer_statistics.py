"""Statistics of many pairs: agreement with plain definitions, and intervals that cover what they should."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from builders import synthetic_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from tracescribe.tracer import TraceError
from tracescribe.tracer.results.statistics import (
    aggregate_rows,
    bootstrap,
    cluster_draws,
    cluster_index,
    combine,
    pair_table,
    percentile_interval,
    split_half_correlation,
)


def table_of(values, weights=None, reduce="ratio_of_means"):
    """One layer, one row: effect = value times denominator."""
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    return pair_table((values * weights)[:, None, None], np.ones((len(values), 1)), weights, reduce)


# -- combining pairs ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.sampled_from(["ratio_of_means", "mean_of_ratios", "median"]))
def test_per_layer_agrees_with_the_plain_definition(seed, reduce):
    trace = synthetic_trace(n_pairs=7, seed=seed, vary_length=True, share_inverted=0)
    d = trace.denominator
    for aggregate, plain in (("sum", np.nansum), ("max", np.nanmax), ("mean", np.nanmean), ("std", np.nanstd)):
        own = plain(trace.cte.astype(np.float64), axis=2)
        expected = {
            "ratio_of_means": (own * d[:, None]).sum(axis=0) / d.sum(),
            "mean_of_ratios": own.mean(axis=0),
            "median": np.median(own, axis=0),
        }[reduce]
        # cte is kept as float32; the statistics use the scores in float64.
        np.testing.assert_allclose(trace.per_layer(aggregate, reduce=reduce).value, expected, atol=1e-5)


def test_ratio_of_means_is_the_ratio_of_the_mean_scores():
    trace = synthetic_trace(n_pairs=9, share_inverted=0)
    s = trace.scores
    mean = s.patched.astype(np.float64).mean(axis=0)
    correct, foil = s.correct.astype(np.float64).mean(), s.foil.astype(np.float64).mean()
    np.testing.assert_allclose(trace.map(align="position").values, (correct - mean) / (correct - foil), atol=1e-12)


def test_small_denominators_ruin_the_mean_of_ratios_only():
    trace = synthetic_trace(n_pairs=40, share_inverted=0, floor=1e-9)
    noisy = trace.scores.patched.copy()
    noisy[0, :, 4] += 0.01
    foil = trace.scores.foil.copy()
    foil[0] = trace.scores.correct[0] - 1e-5
    broken = replace(trace, scores=replace(trace.scores, patched=noisy, foil=foil))
    change = {
        reduce: np.abs(broken.map(reduce=reduce).values - trace.map(reduce=reduce).values).max()
        for reduce in ("ratio_of_means", "mean_of_ratios", "median")
    }
    assert change["mean_of_ratios"] > 10
    assert change["ratio_of_means"] < 0.1
    assert change["median"] < 0.1


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda pairs: any(times for _, times in pairs)
    )
)
def test_median_with_multiplicities_is_the_median_of_the_repeated_list(pairs):
    values, times = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    found = combine(table_of(values, reduce="median"), times[None])[0, 0, 0]
    assert found == pytest.approx(np.median(np.repeat(values, times.astype(int))), abs=1e-12)


@pytest.mark.parametrize("reduce", ["ratio_of_means", "mean_of_ratios", "median"])
def test_a_draw_equals_the_map_of_the_pairs_drawn(reduce):
    trace = synthetic_trace(n_pairs=10, share_inverted=0, vary_length=True, groups=tuple("aabbccddee"))
    draws = cluster_draws(5, 3, seed=4)
    rng = np.random.default_rng(0)
    effect, count = rng.normal(size=(10, 3, 4)), rng.integers(0, 3, size=(10, 4)).astype(float)
    effect *= count[:, None, :] > 0
    denominator = trace.denominator
    cluster, n_groups = cluster_index(trace.groups)
    assert n_groups == 5
    found = bootstrap(pair_table(effect, count, denominator, reduce), cluster, draws)
    for draw, times in zip(found, draws[:, cluster].astype(int), strict=True):
        index = np.repeat(np.arange(10), times)
        np.testing.assert_allclose(
            draw, combine(pair_table(effect[index], count[index], denominator[index], reduce))[0], atol=1e-12
        )


def test_a_row_nobody_has_is_nan_and_counts_for_nothing():
    table = pair_table(np.ones((2, 1, 2)), np.array([[1.0, 0.0]] * 2), np.ones(2), "ratio_of_means")
    np.testing.assert_array_equal(combine(table), [[[1.0, np.nan]]])
    for aggregate, value in (("sum", 1.0), ("max", 1.0), ("mean", 1.0), ("std", 0.0)):
        np.testing.assert_array_equal(aggregate_rows(combine(table), aggregate), [[value]])
        assert np.isnan(aggregate_rows(np.full((1, 2), np.nan), aggregate)).all()


# -- bootstrap ---------------------------------------------------------------------------------------------------


def test_draws_are_samples_of_groups_with_replacement():
    draws = cluster_draws(30, 500, seed=0)
    assert (draws.sum(axis=1) == 30).all()
    # A group is left out of a sample of n with probability (1 - 1/n)^n; 500 * 30 draws, so about 0.004 of error.
    assert (draws == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    trace = synthetic_trace(n_pairs=20)
    one, two, other = (trace.per_layer(seed=seed).replicates for seed in (3, 3, 4))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()


@pytest.mark.parametrize("reduce", ["ratio_of_means", "mean_of_ratios", "median"])
@pytest.mark.parametrize("align", [None, "role"])
def test_copies_inside_a_group_change_neither_value_nor_interval(reduce, align):
    trace = synthetic_trace(n_pairs=12, n_texts=12, share_inverted=0, vary_length=True)
    copied = trace.select(np.tile(np.arange(12), 3))
    one, three = (t.per_layer(reduce=reduce, align=align, n_boot=100) for t in (trace, copied))
    assert (three.n_pairs, three.n_groups, three.n_texts) == (36, 12, 12)
    for name in ("value", "lo", "hi"):
        np.testing.assert_allclose(getattr(three, name), getattr(one, name), atol=1e-12)
    # Copies that claim to be other patients do not narrow it either: their captions are the same.
    alone = replace(copied, groups=tuple(map(str, range(36)))).per_layer(reduce=reduce, align=align, n_boot=100)
    assert alone.n_groups == 36
    for name in ("value", "lo", "hi"):
        np.testing.assert_allclose(getattr(alone, name), getattr(one, name), atol=1e-12)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """95 % intervals of a mean over 40 groups of correlated pairs, 200 times, against the known population mean."""
    rng = np.random.default_rng(0)
    n_groups, size, repeats = 40, 3, 200
    cluster = np.repeat(np.arange(n_groups), size)
    covered = naive = 0
    for repeat in range(repeats):
        values = 0.5 + rng.normal(size=n_groups)[cluster] + 0.3 * rng.normal(size=n_groups * size)
        weights = rng.uniform(0.5, 1.5, size=n_groups)[cluster]
        table = table_of(values, weights)
        lo, hi = percentile_interval(bootstrap(table, cluster, cluster_draws(n_groups, 300, repeat)), 0.95)
        covered += lo.item() <= 0.5 <= hi.item()
        pairs = np.arange(n_groups * size)
        lo, hi = percentile_interval(bootstrap(table, pairs, cluster_draws(len(pairs), 300, repeat)), 0.95)
        naive += lo.item() <= 0.5 <= hi.item()
    # Binomial error of 200 repeats is .015; percentile intervals of 40 groups run a little below .95.
    assert 0.89 <= covered / repeats <= 0.98
    # Resampling pairs as if they were independent would claim too much.
    assert naive / repeats < 0.85


@pytest.mark.parametrize("reduce", ["ratio_of_means", "median"])
def test_many_draws_agree_with_scipy(reduce):
    from scipy.stats import bootstrap as scipy_bootstrap

    values = np.random.default_rng(5).normal(size=60)
    table = table_of(values, reduce=reduce)
    ours = bootstrap(table, np.arange(60), cluster_draws(60, 4000, seed=0))
    statistic = np.median if reduce == "median" else np.mean
    theirs = scipy_bootstrap((values,), statistic, n_resamples=4000, rng=1, method="percentile")
    # Two Monte Carlo errors of 1/sqrt(2 * 4000) each, times 3-5.
    assert ours.std() == pytest.approx(theirs.standard_error, rel=0.08)
    lo, hi = percentile_interval(ours, 0.95)
    np.testing.assert_allclose([lo.item(), hi.item()], theirs.confidence_interval, atol=0.2 * theirs.standard_error)


def test_a_thousand_draws_are_quick():
    trace = synthetic_trace(n_pairs=500, n_layers=12, n_texts=50, share_inverted=0)
    trace.per_layer(n_boot=1)
    start = time.perf_counter()
    trace.per_layer(align="role", n_boot=1000)
    assert time.perf_counter() - start < 2  # about .1 s; a loop over draws would take tens of seconds


# -- split halves ------------------------------------------------------------------------------------------------


def test_split_half_tells_a_shared_map_from_noise():
    rng = np.random.default_rng(0)
    shape = (60, 9, 6)
    signal = np.broadcast_to(rng.normal(size=shape[1:]), shape)
    noise = rng.normal(size=shape)
    count, denominator, cluster = np.ones((60, 6)), np.ones(60), np.arange(60)

    def correlation(effect, **options):
        table = pair_table(effect, count, denominator, "ratio_of_means")
        return split_half_correlation(table, cluster, n_splits=20, seed=options.get("seed", 0))

    np.testing.assert_allclose(correlation(signal), 1)
    assert abs(correlation(noise).mean()) < 0.2
    assert correlation(signal + noise).mean() == pytest.approx(1 / (1 + 1 / 30), abs=0.03)  # reliability of 30 pairs
    assert not np.array_equal(correlation(noise), correlation(noise, seed=1))


def test_split_half_keeps_groups_together():
    """Copies of a pair in both halves would make any noise look reliable."""
    trace = synthetic_trace(n_pairs=20, share_inverted=0, seed=3)
    noise = np.random.default_rng(0).normal(size=trace.scores.patched.shape).astype(np.float32)
    noisy = replace(trace, scores=replace(trace.scores, patched=noise))
    copies = noisy.select(np.repeat(np.arange(20), 2))
    apart = replace(copies, groups=tuple(map(str, range(40))))
    assert copies.split_half() < 0.4 < apart.split_half() + 0.2
    assert copies.split_half(seed=1) == copies.split_half(seed=1)
    with pytest.raises(TraceError, match="2 groups"):
        trace.select([0]).split_half()
    with pytest.raises(TraceError, match="2 texts"):
        replace(trace, text_pair=np.zeros(20, dtype=np.int64)).split_half(by="text")
    with pytest.raises(TraceError, match="unknown by 'patient'; choose one of: group, text"):
        trace.split_half(by="patient")
    with pytest.raises(TraceError, match="n_splits"):
        trace.split_half(n_splits=0)


def test_split_half_by_text_does_not_take_what_few_texts_share_for_signal():
    """Four texts with noise of their own, asked of ten patients each."""
    trace = synthetic_trace(n_pairs=4, share_inverted=0, seed=3)
    noise = np.random.default_rng(0).normal(size=trace.scores.patched.shape).astype(np.float32)
    noisy = replace(trace, scores=replace(trace.scores, patched=noise)).select(np.repeat(np.arange(4), 10))
    noisy = replace(noisy, groups=tuple(str(i % 10) for i in range(40)), text_pair=np.repeat(np.arange(4), 10))
    assert noisy.split_half() > 0.99
    assert noisy.split_half(by="text") < 0.5

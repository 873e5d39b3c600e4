"""Intervals cover the truth as often as they say, measured on simulated traces whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tracescribe as ts
from tracescribe.tracer import Scores
from tracescribe.tracer.results.resampling import two_way_replicates

TRUTH = np.array([1.0, 0.85, 0.95, 0.7, 0.5, 0.4, 0.55, 1.0])  # CTE by layer; the ends are fixed, as in a real tower
DESIGNS = {
    # name: clusters, texts (None: one per pair), pairs, spread of the effect by cluster, by text, by pair
    "independent": (None, None, 200, 0.0, 0.0, 0.3),
    "clustered": (40, None, 200, 0.3, 0.0, 0.3),
    "14 texts": (103, 14, 580, 0.1, 0.3, 0.3),
    "14 texts that do not matter": (103, 14, 580, 0.0, 0.0, 0.3),
    "clusters and texts alike": (30, 30, 580, 0.3, 0.3, 0.3),
    "6 texts": (103, 6, 580, 0.1, 0.3, 0.3),
}


def simulated(design: str, rng: np.random.Generator) -> ts.CausalTrace:
    """A trace whose CTE varies around `TRUTH` by cluster, text and pair."""
    n_clusters, n_texts, n, by_cluster, by_text, by_pair = DESIGNS[design]
    cluster = np.arange(n) if n_clusters is None else rng.integers(n_clusters, size=n)
    text = np.arange(n) if n_texts is None else rng.integers(n_texts, size=n)
    free = (np.arange(len(TRUTH)) % (len(TRUTH) - 1) > 0).astype(float)  # neither layer 0 nor layer L
    cte = TRUTH + free * sum(
        spread * rng.normal(size=(n, len(TRUTH)))[index]
        for spread, index in ((by_cluster, cluster), (by_text, text), (by_pair, np.arange(n)))
    )
    margin = rng.uniform(0.02, 0.08, size=n)
    correct = 0.25 + rng.normal(0, 0.02, size=n)
    words = [("[SOT]", f"word{i}") for i in text.tolist()]
    return ts.CausalTrace(
        scores=Scores(
            correct=correct, foil=correct - margin, patched=(correct[:, None] - margin[:, None] * cte)[:, :, None]
        ),
        tokens=tuple(words),
        foil_tokens=tuple((start, f"other {word}") for start, word in words),
        differs=np.tile([False, True], (n, 1)),
        kinds=np.tile(np.array([1, 2], dtype=np.int8), (n, 1)),
        text_pair=text,
        ids=tuple(f"pair{i}" for i in range(n)),
        groups=tuple(f"patient{i}" for i in cluster.tolist()),
        columns=("all",),
    )


def covered(design: str, repeats: int) -> tuple[float, float, float]:
    """Share of the 95 % intervals that hold the truth: of the profile, of alpha, and of the excess over a control."""
    alpha = (TRUTH[1:] - TRUTH[1:].min()) / np.ptp(TRUTH[1:])
    found = []
    for repeat in range(repeats):
        rng = np.random.default_rng([repeat, *map(ord, design)])
        trace = simulated(design, rng)
        profile = trace.per_layer(n_boot=400, seed=repeat)
        assert profile.replicates is not None and profile.lo is not None and profile.hi is not None
        drawn = profile.replicates[:, 1:]
        drawn = (drawn - drawn.min(axis=1, keepdims=True)) / np.ptp(drawn, axis=1, keepdims=True)
        lo, hi = np.quantile(drawn, [0.025, 0.975], axis=0)
        excess = trace.control(simulated(design, rng)).per_layer(n_boot=400, seed=repeat)
        assert excess.lo is not None and excess.hi is not None
        inner = slice(1, -1)
        found.append(
            (
                ((profile.lo <= TRUTH) & (profile.hi >= TRUTH))[inner].mean(),
                ((lo <= alpha + 1e-9) & (alpha - 1e-9 <= hi)).mean(),
                ((excess.lo <= 0) & (excess.hi >= 0))[inner].mean(),
            )
        )
    return tuple(np.mean(found, axis=0).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("design", list(DESIGNS))
def test_intervals_hold_the_truth_in_95_of_100_data_sets(design: str) -> None:
    profile, alpha, excess = covered(design, 200)
    # Nominal within 3 points. 200 data sets × 6 layers that vary independently: the binomial error is .006.
    assert 0.92 <= profile <= 0.98
    assert 0.92 <= excess <= 0.98
    # Min-max fixes the highest draw at 1 and the lowest at 0, so that alpha of these layers is held nearly always.
    assert 0.92 <= alpha <= 1.0


def test_few_texts_widen_the_interval_although_patients_are_many() -> None:
    trace = simulated("14 texts", np.random.default_rng(0))
    by_both = trace.per_layer()
    apart = [(start, f"{word} {i}") for i, (start, word) in enumerate(trace.tokens)]
    by_patient = replace(trace, tokens=tuple(apart), text_pair=np.arange(len(trace))).per_layer()
    assert (by_both.n_groups, by_both.n_texts, by_patient.n_texts) == (103, 14, 580)
    ours, naive = (np.subtract(profile.hi, profile.lo)[1:-1].mean() for profile in (by_both, by_patient))
    # Standard error by text .3 / sqrt(14) = .080; by patient and pair about .02.
    assert ours > 2.5 * naive
    assert by_both.caution is None
    few = simulated("6 texts", np.random.default_rng(0)).per_layer(n_boot=10)
    assert few.caution == "the interval rests on 6 distinct texts only" and few.caution in repr(few)


def test_draws_of_texts_that_do_not_matter_are_hardly_wider() -> None:
    trace = simulated("14 texts that do not matter", np.random.default_rng(0))
    profile = trace.per_layer()
    # Standard error of 580 independent pairs .3 / sqrt(580) = .0125, widened by 1.14 for 14 texts; a product of both
    # resamplings would give sqrt(3) times as much.
    width = np.subtract(profile.hi, profile.lo)[1:-1].mean() / (2 * 1.96)
    assert 0.9 < width / 0.0125 < 1.6


def test_more_clusters_than_are_drawn_one_by_one_have_the_same_spread() -> None:
    rng = np.random.default_rng(0)
    values, n = rng.normal(size=20_000), 20_000

    def mean(labels: list[np.ndarray], draws: np.ndarray) -> np.ndarray:
        times = draws[:, labels[0]]
        return (times @ values / times.sum(axis=1))[:, None]

    drawn = two_way_replicates(
        mean, values.mean(keepdims=True), [np.arange(n)], [np.arange(n)], ci=0.95, n_boot=300, seed=0
    )
    # The relative error of a standard deviation from 300 draws is .04.
    assert drawn is not None and drawn.std() == pytest.approx(1 / np.sqrt(n), rel=0.15)

"""Scores of multiple choice and retrieval as functions of arrays; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import NonFiniteError
from ..tracer.pairs.negation import negator_count
from ..tracer.results.resampling import two_way_replicates
from ..tracer.results.statistics import cluster_index, percentile_interval

__all__ = [
    "Interval",
    "clustered_interval",
    "expected_hits",
    "mcnemar",
    "negator_count",
    "paired_difference",
    "paired_intervals",
]

TIE = 1e-6
"""Scores this close count as equal: float32 cosines of the same vectors differ by about 1e-7."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its percentile bootstrap interval; NaN where one group leaves them unknown."""

    value: float
    lo: float
    hi: float

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.lo:.1f}, {self.hi:.1f}]" if self.lo == self.lo else f"{self.value:.1f}"


def expected_hits(scores: Float[np.ndarray, "item option"], gold: Int[np.ndarray, "item"]) -> Float[np.ndarray, "item"]:
    """1 where the gold option scores highest, 0 where another does, 1/k where k options tie at the top.

    A constant scorer thus gets chance, wherever the gold options stand. Options that an item lacks score -inf.

    Raises:
        NonFiniteError: a score is NaN or +inf, or an item's gold option is -inf.

    >>> expected_hits(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 1]))
    array([1. , 0.5])
    """
    values = np.asarray(scores, dtype=np.float64)
    of_gold = values[np.arange(len(values)), gold]
    broken = np.flatnonzero((np.isnan(values) | np.isposinf(values)).any(axis=1) | ~np.isfinite(of_gold))
    if broken.size:
        raise NonFiniteError(
            f"{broken.size} of {len(values)} items have a score that is NaN or infinite (first: item {broken[0]}); "
            "check the model's weights and images"
        )
    top = values >= values.max(axis=1, keepdims=True) - TIE
    return top[np.arange(len(values)), gold] / top.sum(axis=1)


def mcnemar(first: Float[np.ndarray, "item"], second: Float[np.ndarray, "item"]) -> float:
    """Exact two-sided p of McNemar's test that two scorers are right equally often on the same items.

    Hits of ties (fractions) count as their expected numbers of discordant items, rounded.

    >>> mcnemar(np.array([1, 1, 1, 1, 1, 0.0]), np.array([0, 0, 0, 0, 0, 0.0]))
    0.0625
    """
    from scipy.stats import binomtest

    only_first = round(float(np.sum(first * (1 - second))))
    only_second = round(float(np.sum(second * (1 - first))))
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def clustered_interval(
    values: Float[np.ndarray, "item"],
    groups: Sequence[str],
    *,
    texts: Sequence[str] | None = None,
    ci: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
    scale: float = 100.0,
) -> Interval:
    """Mean of the items, which lie between 0 and 1, times ``scale``, with a percentile interval from resampling.

    Items of one group (a patient, an image) depend on each other; resampling items would make the interval too narrow.
    One group alone says nothing about others: its bounds are NaN. Few groups widen the interval as a t interval's; see
    :mod:`tracescribe.tracer.results.resampling`.

    texts: which items share their text, where few texts are asked of many groups; both are then resampled.

    >>> interval = clustered_interval(np.array([1.0, 0.0, 1.0, 1.0]), ["a", "a", "b", "c"], n_boot=100)
    >>> interval.value
    75.0
    """
    return _interval(values, groups, texts, (0.0, 1.0), ci=ci, n_boot=n_boot, seed=seed, scale=scale)


def paired_difference(
    first: Float[np.ndarray, "item"],
    second: Float[np.ndarray, "item"],
    groups: Sequence[str],
    *,
    texts: Sequence[str] | None = None,
    ci: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
    scale: float = 100.0,
) -> Interval:
    """first minus second on the same items, in percentage points, with the interval of `clustered_interval`."""
    difference = np.asarray(first) - np.asarray(second)
    return _interval(difference, groups, texts, (-1.0, 1.0), ci=ci, n_boot=n_boot, seed=seed, scale=scale)


def paired_intervals(
    models: Float[np.ndarray, "item model"],
    groups: Sequence[str],
    *,
    texts: Sequence[str] | None = None,
    ci: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[list[Interval], list[Interval]]:
    """`clustered_interval` of each model, and `paired_difference` of each but the first from the first.

    The numbers are those of the two functions; all come from one set of draws, which is what takes time.

    >>> accuracies, [difference] = paired_intervals(np.array([[1.0, 0], [1, 1], [0, 0]]), ["a", "b", "c"])
    >>> [round(one.value, 1) for one in accuracies], round(difference.value, 1)
    ([66.7, 33.3], -33.3)
    """
    n_models = models.shape[1]
    columns = np.concatenate([models, models[:, 1:] - models[:, :1]], axis=1)
    least = np.where(np.arange(columns.shape[1]) < n_models, 0.0, -1.0)
    found = _intervals(columns, groups, texts, (least, 1.0), ci=ci, n_boot=n_boot, seed=seed, scale=100.0)
    return found[:n_models], found[n_models:]


def _interval(
    values: Float[np.ndarray, "item"],
    groups: Sequence[str],
    texts: Sequence[str] | None,
    bounds: tuple[float, float],
    **options: Any,
) -> Interval:
    [found] = _intervals(np.asarray(values)[:, None], groups, texts, bounds, **options)
    return found


def _intervals(
    values: Float[np.ndarray, "item column"],
    groups: Sequence[str],
    texts: Sequence[str] | None,
    bounds: tuple[float | Float[np.ndarray, "column"], float],
    *,
    ci: float,
    n_boot: int,
    seed: int,
    scale: float,
) -> list[Interval]:
    """The mean of each column with its interval; the draws are the same for all."""

    def means(
        labels: Sequence[Int[np.ndarray, "item"]], draws: Float[np.ndarray, "boot cluster"]
    ) -> Float[np.ndarray, "boot column"]:
        *totals, count = (
            np.bincount(labels[0], weights=weights, minlength=draws.shape[1])
            for weights in (*values.T, np.ones(len(values)))
        )
        return (draws @ np.stack(totals, axis=1)) / (draws @ count)[:, None]

    value = np.mean(values, axis=0)
    index = cluster_index(groups)[0]
    asked = np.arange(len(index)) if texts is None else cluster_index(texts)[0]
    drawn = two_way_replicates(means, value, [index], [asked], ci=ci, n_boot=n_boot, seed=seed)
    if drawn is None:
        return [Interval(scale * float(one), float("nan"), float("nan")) for one in value]
    low, high = (scale * np.clip(bound, *bounds) for bound in percentile_interval(drawn, ci))
    return [Interval(scale * float(one), float(lo), float(hi)) for one, lo, hi in zip(value, low, high, strict=True)]


def inconsistent(asserted: Sequence[dict[str, str]], true: Sequence[dict[str, str]]) -> Bool[np.ndarray, "image text"]:
    """Whether text j asserts something that is false of image i.

    Both are flat states; a text contradicts an image when a key of both has different values, or when the text gives
    an attribute ("effusion.side") of something that the image's states call absent. What they do not mention is not
    known, and contradicts nothing.

    >>> inconsistent([{"effusion": "absent"}], [{"effusion": "present"}, {"effusion": "absent"}, {}])[:, 0]
    array([ True, False, False])
    """

    @cache
    def false_of(key: str, value: str) -> Bool[np.ndarray, "image"]:
        of = key.partition(".")[0]
        false = (facts[key] != value if key in facts else facts.get(of) == "absent" != value for facts in true)
        return np.fromiter(false, dtype=bool, count=len(true))

    out = np.zeros((len(true), len(asserted)), dtype=bool)
    for j, claim in enumerate(asserted):
        for key, value in claim.items():
            out[:, j] |= false_of(key, value)
    return out


def shuffled_across_groups(groups: Sequence[str], seed: int) -> Int[np.ndarray, "item"]:
    """A partner of another group for every item, drawn at random; one of its own where no other can be found."""
    index, n_groups = cluster_index(groups)
    if n_groups < 2:
        return np.arange(len(index))
    rng = np.random.default_rng(seed)
    out = rng.permutation(len(index))
    for _ in range(100):
        same = np.flatnonzero(index[out] == index)
        if not same.size:
            break
        # Swap each clash with a random place; repeated until nothing clashes.
        for i in same:
            j = int(rng.integers(len(index)))
            out[i], out[j] = out[j], out[i]
    return out

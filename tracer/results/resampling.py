"""Bootstrap draws for pairs that share patients (clusters), captions (texts), both or neither.

Pairs of one patient depend on each other, and so do pairs with the same two captions. Where every text belongs to one
cluster, clusters are resampled; where every cluster belongs to one text, texts are. Otherwise both are, and the spread
of the draws is V_cluster + V_text - V_both: the variance of two-way clustered data (Cameron, Gelbach, Miller 2011,
doi:10.1198/jbes.2010.07136), and never less than either of the two. Resampling clusters × texts as a product (Owen
2007, arXiv 0712.1111) would count what belongs to a single pair three times.

Few clusters or texts: a bootstrap's variance is (n - 1) / n of what it should be, and its quantiles are those of a
normal distribution. Draws are therefore spread out by sqrt(n / (n - 1)) t(n - 1) / z (Hesterberg 2015, "expanded
percentile interval", doi:10.1080/00031305.2015.1089789), with Kish's effective number for n where sizes differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from ...validation import generator
from ..pairs.indexing import distinct
from .statistics import PairTable, bootstrap, cluster_draws, combine, percentile_interval, wants_bootstrap

__all__ = ["FEW", "degrees_of_freedom", "effective_number", "table_interval", "two_way_replicates", "widening"]

FEW = 10  # clusters or texts, below which an interval is little more than a warning
_MOST = 4096  # clusters that are drawn one by one; more are joined at random, which leaves the variance as it is

Labels = Sequence[Int[np.ndarray, "_pair"]]  # by trace; equal numbers are one cluster or text
Estimate = Callable[[Labels, Float[np.ndarray, "boot cluster"]], Float[np.ndarray, "boot *cell"]]


def two_way_replicates(
    estimate: Estimate,
    value: Float[np.ndarray, "*cell"],
    clusters: Labels,
    texts: Labels,
    *,
    ci: float,
    n_boot: int,
    seed: int,
) -> Float[np.ndarray, "boot *cell"] | None:
    """Draws of an estimate from one or several traces; None where a trace has a single cluster.

    estimate: the numbers by draw, from the labels of every trace's pairs and how often each label was drawn.
    clusters, texts: labels of every trace's pairs; a label that occurs in two traces is drawn for both together.
    ci: the level of the interval that the draws are for.
    """
    if min(len(np.unique(labels)) for labels in clusters) < 2:
        return None
    clusters, texts = _numbered(clusters), _numbered(texts)

    def deviations(labels: Labels, stream: int) -> Float[np.ndarray, "boot *cell"]:
        first = seed if stream == 0 else int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
        labels = _joined(labels, first)
        return estimate(labels, _draws(labels, n_boot, first)) - value

    def widened(labels: Labels, stream: int) -> Float[np.ndarray, "boot *cell"]:
        return deviations(labels, stream) * max(widening(effective_number(side), ci) for side in labels)

    levels = _resampled(clusters, texts)
    if len(levels) == 1:
        return value + widened(levels[0], 0)
    by_cluster, by_text = widened(clusters, 0), widened(texts, 1)
    spread_cluster, spread_text, spread_both = (
        np.nanvar(draws, axis=0) for draws in (by_cluster, by_text, deviations(_crossed(clusters, texts), 2))
    )
    wanted = np.maximum(spread_cluster + spread_text - spread_both, np.maximum(spread_cluster, spread_text))
    found = spread_cluster + spread_text
    return value + np.sqrt(np.divide(wanted, found, out=np.ones_like(found), where=found > 0)) * (by_cluster + by_text)


def table_interval(
    table: PairTable,
    clusters: Int[np.ndarray, " pair"],
    texts: Int[np.ndarray, " pair"],
    *,
    ci: float | None,
    n_boot: int,
    seed: int,
) -> tuple[Float[np.ndarray, "layer row"], Float[np.ndarray, "layer row"]] | None:
    """Lower and upper bound of a table's map over resampled clusters and texts.

    None where no interval is asked for (``ci`` None, ``n_boot`` 0), and with a single cluster.

    Raises:
        TraceError: see :func:`wants_bootstrap`.
    """
    if ci is None or not wants_bootstrap(ci, n_boot):
        return None
    draws = two_way_replicates(
        lambda labels, counts: bootstrap(table, labels[0], counts),
        combine(table)[0],
        [clusters],
        [texts],
        ci=ci,
        n_boot=n_boot,
        seed=seed,
    )
    return None if draws is None else percentile_interval(draws, ci)


def degrees_of_freedom(clusters: Labels, texts: Labels) -> float:
    """Of the t interval that :func:`two_way_replicates` widens to: the fewest of what it resamples, less 1.

    >>> degrees_of_freedom([np.arange(30)], [np.arange(30) % 6]), degrees_of_freedom([np.arange(30)], [np.arange(30)])
    (5.0, 29.0)
    """
    clusters, texts = _numbered(clusters), _numbered(texts)
    return min(effective_number(labels) for level in _resampled(clusters, texts) for labels in level) - 1


def _resampled(clusters: Labels, texts: Labels) -> list[Labels]:
    """What of numbered labels is resampled: where one level lies within the other, the wider one alone."""
    n_texts = 1 + max(int(labels.max()) for labels in texts)
    both = _crossed(clusters, texts)
    n_clusters, n_both = (1 + max(int(labels.max()) for labels in level) for level in (clusters, both))
    if min(len(np.unique(labels)) for labels in texts) < 2 or n_both == n_texts:
        return [clusters]
    return [texts] if n_both == n_clusters else [clusters, texts]


def _crossed(clusters: Labels, texts: Labels) -> list[Int[np.ndarray, "_pair"]]:
    n_texts = 1 + max(int(labels.max()) for labels in texts)
    return _numbered([cluster * n_texts + text for cluster, text in zip(clusters, texts, strict=True)])


def effective_number(labels: Int[np.ndarray, "pair"]) -> float:
    """Kish's effective number of clusters, (sum of sizes)^2 / sum of squared sizes; at least 2.

    >>> effective_number(np.array([0, 0, 1, 1])), round(effective_number(np.array([0, 0, 0, 0, 1, 2])), 6)
    (2.0, 2.0)
    """
    sizes = np.unique(labels, return_counts=True)[1].astype(np.float64)
    return max(2.0, float(sizes.sum() ** 2 / (sizes**2).sum()))


def widening(number: float, ci: float) -> float:
    """By how much a percentile interval of this many clusters has to be widened, so that it is a t interval.

    >>> round(widening(14, 0.95), 2), round(widening(1000, 0.95), 2)
    (1.14, 1.0)
    """
    from scipy.special import ndtri, stdtrit  # scipy.stats takes seconds to import

    tail = (1 + ci) / 2
    return float(np.sqrt(number / (number - 1)) * stdtrit(number - 1, tail) / ndtri(tail))


def _numbered(level: Labels) -> list[Int[np.ndarray, "_"]]:
    """The same labels as 0, 1, ... by first appearance over all traces."""
    index = distinct(np.concatenate(level).tolist())[1]
    return np.split(index, np.cumsum([len(labels) for labels in level])[:-1])


def _joined(level: Labels, seed: int) -> Labels:
    """At most `_MOST` clusters: more are put together at random, as sums of independent ones are independent too."""
    number = 1 + max(int(labels.max()) for labels in level)
    if number <= _MOST:
        return level
    new = generator(seed).permutation(number) % _MOST
    return [new[labels] for labels in level]


def _draws(level: Labels, n_boot: int, seed: int) -> Float[np.ndarray, "boot cluster"]:
    """How often each label is drawn; traces that share none are independent samples."""
    numbers = [np.unique(labels) for labels in level]
    if len(set().union(*map(set, numbers))) < sum(map(len, numbers)) or len(level) == 1:
        return cluster_draws(1 + max(int(labels.max()) for labels in numbers), n_boot, seed)
    # Independent streams from one seed: the second sample must not repeat the first one's choices.
    seeds = np.random.SeedSequence(seed).generate_state(len(level))
    parts = [cluster_draws(len(labels), n_boot, int(one)) for labels, one in zip(numbers, seeds, strict=True)]
    return np.concatenate(parts, axis=1)

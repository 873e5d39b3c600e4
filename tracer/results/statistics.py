"""Statistics of per-pair effects: combining pairs, clustered bootstrap, split halves; no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ...errors import TraceError
from ...io.quoting import shown
from ...validation import MAX_DRAWS, check_choice, generator, is_share, is_whole
from ..choices import REDUCTIONS
from ..pairs.indexing import distinct

__all__ = [
    "AGGREGATES",
    "REDUCTIONS",
    "PairTable",
    "aggregate_rows",
    "bootstrap",
    "cluster_draws",
    "cluster_index",
    "combine",
    "minmax",
    "pair_table",
    "percentile_interval",
    "random_halves",
    "rank_correlation",
    "split_half_correlation",
    "wants_bootstrap",
]

AGGREGATES = ("sum", "max", "mean", "std")
_DRAW_CELLS = 4_000_000  # draws × units held at once, 32 MB in float64


@dataclass(frozen=True, eq=False)
class PairTable:
    """What each pair contributes to each (layer, row) cell; :func:`combine` turns it into one map.

    amount: for the two means, the contribution to the numerator; for the median, the pair's own value.
    weight: for the two means, the contribution to the denominator; for the median, 1 where the pair has the row.
    """

    amount: Float[np.ndarray, "pair layer row"]
    weight: Float[np.ndarray, "pair row"]
    reduce: str


def pair_table(
    effect: Float[np.ndarray, "pair layer row"],
    count: Float[np.ndarray, "pair row"],
    denominator: Float[np.ndarray, "pair"],
    reduce: str,
) -> PairTable:
    """Prepare pairs for :func:`combine`.

    effect: numerators of CTE (score differences), summed over the tokens of each row; 0 where the pair has no token.
    count: number of tokens each pair has in each row; a row that is a mean of tokens weighs by it, as in Quantmeyer,
        Mosteiro, Gatt 2024. The median counts every pair once.
    denominator: S_corr - S_foil, not 0.

    ratio_of_means: sum_i effect_i / sum_i count_i denominator_i; small denominators cannot blow it up.
    mean_of_ratios: sum_i (effect_i / denominator_i) / sum_i count_i.
    median: over the pairs that have the row, of effect_i / (count_i denominator_i).
    """
    check_choice("reduce", reduce, REDUCTIONS)
    if reduce == "ratio_of_means":
        return PairTable(effect, count * denominator[:, None], reduce)
    ratio = effect / denominator[:, None, None]
    if reduce == "mean_of_ratios":
        return PairTable(ratio, count, reduce)
    ratios = ratio / np.where(count > 0, count, np.nan)[:, None, :]
    return PairTable(ratios, (count > 0).astype(np.float64), reduce)


def combine(
    table: PairTable, multiplicity: Float[np.ndarray, "draw pair"] | None = None
) -> Float[np.ndarray, "draw layer row"]:
    """The map over all pairs, or one map per draw in which pair i counts ``multiplicity[draw, i]`` times.

    A row that no pair of a draw has is NaN there.

    >>> effect, count = np.array([[[0.1]], [[0.6]]]), np.ones((2, 1))
    >>> table = pair_table(effect, count, denominator=np.array([0.1, 0.9]), reduce="ratio_of_means")
    >>> combine(table).round(6)
    array([[[0.7]]])
    """
    n_pairs, n_layers, n_rows = table.amount.shape
    if multiplicity is None:
        multiplicity = np.ones((1, n_pairs))
    if table.reduce == "median":
        return _weighted_medians(table.amount, table.weight, multiplicity)
    amount = (multiplicity @ table.amount.reshape(n_pairs, -1)).reshape(-1, n_layers, n_rows)
    weight = multiplicity @ table.weight
    with np.errstate(divide="ignore", invalid="ignore"):
        return amount / np.where(weight != 0, weight, np.nan)[:, None, :]


def _weighted_medians(
    values: Float[np.ndarray, "pair layer row"],
    weight: Float[np.ndarray, "pair row"],
    multiplicity: Float[np.ndarray, "draw pair"],
) -> Float[np.ndarray, "draw layer row"]:
    """np.median of the values repeated as often as their weight says; the weights are whole numbers."""
    out = np.full((len(multiplicity), *values.shape[1:]), np.nan)
    for row in range(values.shape[2]):
        has = weight[:, row] > 0
        times = multiplicity[:, has]
        half = times.sum(axis=1, keepdims=True) / 2
        filled = half[:, 0] > 0
        for layer in range(values.shape[1]):
            column = values[has, layer, row]
            order = np.argsort(column, kind="stable")
            below = np.cumsum(times[:, order], axis=1)
            # The two middle elements of the repeated list; the same one when the total is odd.
            lower = np.minimum((below < half).sum(axis=1), len(column) - 1)
            upper = np.minimum((below <= half).sum(axis=1), len(column) - 1)
            middle = (column[order[lower]] + column[order[upper]]) / 2
            out[filled, layer, row] = middle[filled]
    return out


def cluster_index(groups: Sequence[str]) -> tuple[Int[np.ndarray, "pair"], int]:
    """Number of each pair's group, by first appearance, and how many groups there are.

    >>> cluster_index(["b", "a", "b"])
    (array([0, 1, 0]), 2)
    """
    known, index = distinct(groups)
    return index, len(known)


def cluster_draws(n_groups: int, n_boot: int, seed: int) -> Float[np.ndarray, "boot group"]:
    """How often each group occurs in each bootstrap sample of ``n_groups`` groups drawn with replacement.

    Resampling groups, not pairs, keeps pairs that depend on each other (one patient, one image) together; the counts
    of a sample with replacement are multinomial, so that all draws together are one matrix product.
    """
    draws = generator(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_boot)
    return draws.astype(np.float64)


def wants_bootstrap(ci: float | None, n_boot: int) -> bool:
    """Whether an interval is asked for.

    Raises:
        TraceError: ``ci`` is not a share between 0 and 1, or ``n_boot`` is none from 0 to 100,000.
    """
    if ci is not None and not is_share(ci):
        raise TraceError(f"ci must lie between 0 and 1, such as 0.95, not {shown(ci)}")
    if not is_whole(n_boot) or n_boot > MAX_DRAWS:
        raise TraceError(f"n_boot must be a number of draws from 0 to {MAX_DRAWS:,}, not {shown(n_boot)}")
    return ci is not None and n_boot > 0


def bootstrap(
    table: PairTable, cluster: Int[np.ndarray, "pair"], draws: Float[np.ndarray, "boot group"]
) -> Float[np.ndarray, "boot layer row"]:
    """One map per bootstrap draw of groups; ``cluster[i]`` is the group (column of ``draws``) of pair i."""
    if table.reduce == "median":
        units, column = table, cluster
    else:
        # Sums within a group are all that a draw needs, so that a group of many pairs costs no more than a single one.
        n_groups = draws.shape[1]
        amount = np.zeros((n_groups, *table.amount.shape[1:]))
        weight = np.zeros((n_groups, table.weight.shape[1]))
        np.add.at(amount, cluster, table.amount)
        np.add.at(weight, cluster, table.weight)
        units, column = PairTable(amount, weight, table.reduce), np.arange(n_groups)
    step = max(1, _DRAW_CELLS // max(1, len(column)))
    parts = [combine(units, draws[start : start + step][:, column]) for start in range(0, len(draws), step)]
    return np.concatenate(parts)


def percentile_interval(
    replicates: Float[np.ndarray, "boot *cell"], ci: float
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """Lower and upper ``ci`` percentile bound over the draws (Efron's percentile interval).

    With fewer than about 20 groups it is too narrow, as every bootstrap is.

    >>> percentile_interval(np.arange(101.0), 0.5)
    (array(25.), array(75.))
    """
    lo, hi = np.nanquantile(replicates, [(1 - ci) / 2, (1 + ci) / 2], axis=0)
    return np.asarray(lo), np.asarray(hi)


def aggregate_rows(values: Float[np.ndarray, "*draw layer row"], aggregate: str) -> Float[np.ndarray, "*draw layer"]:
    """Sum, max, mean or population standard deviation over the last axis; NaN (no such row or token) is left out.

    NaN where all are NaN: the sum of nothing known is not 0.

    >>> aggregate_rows(np.array([[1.0, 3.0, np.nan]]), "mean")
    array([2.])
    """
    check_choice("aggregate", aggregate, AGGREGATES)
    functions: dict[str, Callable[..., np.ndarray]]
    functions = {"sum": np.nansum, "max": np.nanmax, "mean": np.nanmean, "std": np.nanstd}
    nothing = np.isnan(values).all(axis=-1)
    return np.where(nothing, np.nan, functions[aggregate](np.where(nothing[..., None], 0, values), axis=-1))


def minmax(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    """NAST's alpha of a profile over the blocks: 0 at the lowest, 1 at the highest.

    >>> minmax(np.array([1.0, 3.0, 2.0]))
    array([0. , 1. , 0.5])
    """
    low, high = values.min(axis=-1, keepdims=True), values.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (values - low) / (high - low)


def random_halves(
    cluster: Int[np.ndarray, " pair"], n_splits: int, seed: int
) -> Iterator[Float[np.ndarray, "two pair"]]:
    """Weights of the pairs, 1 in one half of the clusters and 0 in the other, and the reverse, for random splits.

    >>> halves = next(random_halves(np.array([0, 0, 1]), 1, seed=0))
    >>> halves.sum(axis=0).tolist(), halves[:, 0].tolist() == halves[:, 1].tolist()
    ([1.0, 1.0, 1.0], True)
    """
    n_clusters = int(cluster.max()) + 1
    rng = generator(seed)
    for _ in range(n_splits):
        first = np.zeros(n_clusters)
        first[rng.permutation(n_clusters)[: n_clusters // 2]] = 1
        yield np.stack([first, 1 - first])[:, cluster]


def rank_correlation(one: Float[np.ndarray, " n"], two: Float[np.ndarray, " n"]) -> float | None:
    """Spearman's correlation; None of fewer than 3 values, of constant ones, and where some are not finite.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 9.0]))
    1.0
    """
    from scipy.stats import spearmanr

    if len(one) < 3 or not np.isfinite([one, two]).all() or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None
    return float(spearmanr(one, two).statistic)


def split_half_correlation(
    table: PairTable, cluster: Int[np.ndarray, "pair"], n_splits: int, seed: int, of: str = "group"
) -> Float[np.ndarray, "split"]:
    """Pearson correlation over the cells between the maps of two random halves of the groups, for several splits.

    Near 1 the map is a property of the pairs' population; near 0 it is noise of the pairs at hand. Cells that a causal
    tower fixes at 0 or 1 count too and raise it.

    Raises:
        TraceError: fewer than 2 groups, which the message calls what they are ``of``.
    """
    if not cluster.max():
        raise TraceError(f"a split into halves needs pairs of at least 2 {of}s")
    correlations = []
    for halves in random_halves(cluster, n_splits, seed):
        one, two = combine(table, halves).reshape(2, -1)
        both = np.isfinite(one) & np.isfinite(two)
        correlations.append(np.corrcoef(one[both], two[both])[0, 1])
    return np.array(correlations)

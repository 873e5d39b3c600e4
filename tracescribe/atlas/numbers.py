"""What an atlas says of a profile: where it peaks, how narrow it is, and how alike two models are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..tracer import CausalTrace, LayerProfile
from ..tracer.results.compare import interpolation
from ..tracer.results.profiles import pairs_used
from ..tracer.results.sides import Maps, Side, by_layer, estimated, layer_table
from ..tracer.results.statistics import percentile_interval
from .config import AtlasConfig

__all__ = ["Agreement", "Peak", "Share", "agreement", "counted", "peak_of", "top_share"]

TOP = 3
FEWEST = 3  # depths of a rank correlation


@dataclass(frozen=True)
class Peak:
    """The layer of the largest CTE among those that are counted.

    depth: layer over number of blocks. lo, hi: the middle ``ci`` of the depths at which draws of the pairs have their
        peak. share: of draws that have it at this layer. alike: layers whose CTE is not told from that of the peak: the
        interval of the difference holds 0. NaN and none without draws.
    """

    layer: int
    depth: float
    lo: float
    hi: float
    share: float
    alike: tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """Share of the positive CTE that the three largest layers have, with its interval; even: if all had the same."""

    value: float
    lo: float
    hi: float
    even: float


@dataclass(frozen=True)
class Agreement:
    """Two models on the pairs that enter from both.

    rank: Spearman's correlation of their profiles at the depths of the shallower model's counted layers; None for fewer
        than 3. lo, hi: the middle ``ci`` of its draws. peaks: depth of the second's peak less the first's, with the
        same of its draws. NaN without draws.
    """

    n_pairs: int
    n_depths: int
    rank: float | None
    lo: float
    hi: float
    peaks: float
    peaks_lo: float
    peaks_hi: float


def counted(trace: CausalTrace) -> Bool[np.ndarray, "layer"]:
    """The layers that are compared: of the residual stream not its ends.

    Layer 0 is the embedding output and layer L what the readout gets: a state that differs alone there decides all, in
    whatever model.
    """
    inside = np.ones(len(trace.layers), dtype=bool)
    if trace.site == "resid":
        inside[[0, -1]] = False
    return inside


def peak_of(profile: LayerProfile, counts: Bool[np.ndarray, "layer"], n_layers: int, ci: float) -> Peak | None:
    """Where a profile is highest; None where no layer is counted.

    >>> profile = LayerProfile(np.array([1, 0.2, 0.7, 0.6, 1]), np.arange(5), "sum")
    >>> peak = peak_of(profile, np.array([False, True, True, True, False]), 4, 0.95)
    >>> peak.layer, peak.depth
    (2, 0.5)
    """
    if not counts.any():
        return None
    layers, value = profile.layers[counts], profile.value[counts]
    at = int(np.argmax(value))
    lo = hi = share = np.nan
    alike: tuple[int, ...] = ()
    if profile.replicates is not None:
        draws = profile.replicates[:, counts]
        highest = draws.argmax(axis=1)
        lo, hi = _middle(layers[highest] / n_layers, ci)
        share = float((highest == at).mean())
        lower, _ = percentile_interval(draws[:, [at]] - draws, ci)
        alike = tuple(int(layer) for layer, low in zip(layers, lower, strict=True) if low <= 0 and layer != layers[at])
    return Peak(int(layers[at]), float(layers[at] / n_layers), lo, hi, share, alike)


def top_share(profile: LayerProfile, counts: Bool[np.ndarray, "layer"], ci: float) -> Share | None:
    """Share of the three largest layers; None where no counted layer has a positive CTE.

    The interval is of these three layers, also where a draw has others.

    >>> profile = LayerProfile(np.array([1, 0.2, 0.4, 0.3, 0.1, 1]), np.arange(6), "sum")
    >>> share = top_share(profile, np.array([False, True, True, True, True, False]), 0.95)
    >>> round(share.value, 6), share.even
    (0.9, 0.75)
    """
    value = profile.value[counts]
    top = np.argsort(-value, kind="stable")[:TOP]
    found = _share(value[None], top)[0] if len(value) else np.nan
    if not np.isfinite(found):
        return None
    lo = hi = np.nan
    if profile.replicates is not None:
        shares = _share(profile.replicates[:, counts], top)
        if np.isfinite(shares).all():
            lo, hi = map(float, percentile_interval(shares, ci))
    return Share(float(found), lo, hi, min(1.0, TOP / len(value)))


def agreement(first: CausalTrace, second: CausalTrace, config: AtlasConfig) -> Agreement | None:
    """How alike two models' profiles are over the pairs that enter from both; None where there are none."""
    used = [pairs_used(trace, config.segment, warn=False)[0] for trace in (first, second)]
    names = [
        {trace.ids[at]: at for at in entering.tolist()} for trace, entering in zip((first, second), used, strict=True)
    ]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        return None
    sides = []
    for trace, places in zip((first, second), names, strict=True):
        entering = np.array([places[name] for name in common])
        sides.append(Side.of(trace, entering, layer_table(trace, entering, config.aggregate, None, config.reduce)))
    sides[1] = Side(sides[1].table, sides[0].clusters, sides[0].texts)  # the same items, whatever their tokens are

    def profiles(maps: Maps) -> Float[np.ndarray, "draw number"]:
        return np.concatenate([by_layer(cells, config.aggregate, None) for cells in maps], axis=1)

    found = estimated(sides, profiles, ci=config.ci, n_boot=config.n_boot, seed=config.seed)
    rows = found.value[None] if found.draws is None else np.concatenate([found.value[None], found.draws])
    curves = np.split(rows, [len(first.layers)], axis=1)
    ranks, depths = _rank_correlations(curves, (first, second))
    peaks = [
        _peak_depths(curve, trace) if counted(trace).any() else np.full(len(rows), np.nan)
        for curve, trace in zip(curves, (first, second), strict=True)
    ]
    apart = peaks[1] - peaks[0]
    return Agreement(
        n_pairs=len(common),
        n_depths=depths,
        rank=float(ranks[0]) if np.isfinite(ranks[0]) else None,
        **dict(zip(("lo", "hi"), _middle(ranks[1:], config.ci), strict=True)),
        peaks=float(apart[0]),
        **dict(zip(("peaks_lo", "peaks_hi"), _middle(apart[1:], config.ci), strict=True)),
    )


def _share(values: Float[np.ndarray, "draw layer"], top: Int[np.ndarray, "top"]) -> Float[np.ndarray, "draw"]:
    positive = np.clip(values, 0, None)
    total = positive.sum(axis=1)
    return np.divide(positive[:, top].sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def _peak_depths(curve: Float[np.ndarray, "draw layer"], trace: CausalTrace) -> Float[np.ndarray, "draw"]:
    counts = counted(trace)
    return trace.layers[counts][curve[:, counts].argmax(axis=1)] / trace.n_layers


def _rank_correlations(
    curves: Sequence[Float[np.ndarray, "draw layer"]], traces: tuple[CausalTrace, CausalTrace]
) -> tuple[Float[np.ndarray, "draw"], int]:
    """Spearman's correlations at the depths of the shallower model's counted layers, and how many depths there are."""
    from scipy.stats import rankdata

    shallow = min(traces, key=lambda trace: trace.n_layers)
    depths = shallow.layers[counted(shallow)] / shallow.n_layers
    if len(depths) < FEWEST:
        return np.full(len(curves[0]), np.nan), len(depths)
    at_depths = [
        curve @ interpolation(trace.layers / trace.n_layers, depths).T
        for curve, trace in zip(curves, traces, strict=True)
    ]
    one, two = (rankdata(values, axis=1) for values in at_depths)
    one, two = one - one.mean(axis=1, keepdims=True), two - two.mean(axis=1, keepdims=True)
    scale = np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    return np.divide((one * two).sum(axis=1), scale, out=np.full(len(scale), np.nan), where=scale > 0), len(depths)


def _middle(draws: Float[np.ndarray, "draw"], ci: float) -> tuple[float, float]:
    """The values between which ``ci`` of the draws lie; both are values that draws have."""
    if not len(draws) or not np.isfinite(draws).all():
        return float("nan"), float("nan")
    lo, hi = np.quantile(draws, [(1 - ci) / 2, (1 + ci) / 2], method="inverted_cdf")
    return float(lo), float(hi)

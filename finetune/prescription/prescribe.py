"""Turns a causal profile into layer weights (NAST's min-max alpha and beta), with warnings where they are doubtful."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ...errors import PrescriptionError
from ...io.quoting import shown
from .arrays import short
from .plan import Prescription, check_beta
from .sources import Draws, Profile, read_profile
from .stability import Stability, measure_stability

if TYPE_CHECKING:
    from ...tracer import CausalTrace, Excess, LayerProfile, TraceMap

logger = logging.getLogger(__name__)

FEW_TEXTS = 20  # below this, a bootstrap over texts says little about other texts
FEW_PAIRS = 20  # below this, a bootstrap over pairs says little about other pairs
FLAT_RANGE = 0.05  # CTE; a smaller spread over the blocks is stretched to [0, 1] by min-max all the same
FORCED_TOLERANCE = 1e-6  # CTE is stored in float32

ArrayMap = Callable[[np.ndarray], np.ndarray]


def _minmax(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    low, high = values.min(axis=-1, keepdims=True), values.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (values - low) / (high - low)


def _max(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    high = values.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(high > 0, np.clip(values, 0, None) / high, np.nan)


def _none(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    return np.clip(values, 0, None)


NORMALIZERS: dict[str, ArrayMap] = {"minmax": _minmax, "max": _max, "none": _none}


def _blocks(values: np.ndarray) -> np.ndarray:
    return values[..., 1:]


def _inner(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[..., 1:-1], values[..., -2:-1]], axis=-1)


LAYER_CHOICES: dict[str, ArrayMap] = {"blocks": _blocks, "inner": _inner}


def prescribe(
    source: CausalTrace
    | TraceMap
    | LayerProfile
    | Excess
    | Float[np.ndarray, " layer"]
    | Float[np.ndarray, "layer token"],
    *,
    beta: float = 1.0,
    aggregate: str = "sum",
    normalize: str = "minmax",
    layers: str = "blocks",
    ci: float | None = 0.95,
    seed: int = 0,
) -> Prescription:
    """Turn a causal trace into per-layer training weights.

    alpha_l = (CTE_l - min) / (max - min) over the blocks 1..L, and multipliers alpha ** beta. Source: NAST
    (arXiv 2602.12498), min-max normalisation and g~_l = alpha_l ** beta g_l. beta and the token aggregation are not
    published; the sum over tokens reproduces the paper's statement that CTE peaks at layer 2.

    source: a trace, its map or profile, the excess over a control, or an array whose first axis is the layers 0..L
        (layer 0, the embedding output, is never trained by a block and is left out).
    aggregate: how a layer's token cells become one number: "sum", "max", "mean", "std" (a LayerProfile keeps its own).
    normalize: "minmax"; "max" (value / max, negative values 0); "none" (the values themselves, negative values 0).
    layers: "blocks" = 1..L as in the paper; "inner" = the last block takes its neighbour's value, because CTE(L) is 1
        by construction in a tower whose readout uses the last layer only.
    ci: level of the interval of alpha, from the profile's bootstrap draws; each draw is normalised on its own.

    Raises PrescriptionError for values or options that define no weights, DegenerateTraceError for a trace without a
    usable pair.

    >>> plan = prescribe(np.array([1.0, 0.8, 1.0, 0.6]))
    >>> plan.alpha.round(2)
    array([0.5, 1. , 0. ])
    """
    beta = check_beta(beta)
    normalizer = _choose("normalize", normalize, NORMALIZERS)
    choose_layers = _choose("layers", layers, LAYER_CHOICES)
    profile = read_profile(source, aggregate=aggregate, ci=ci, seed=seed)
    if len(profile.values) < 3:
        raise PrescriptionError(
            f"the profile holds {len(profile.values)} layer(s); weights need layer 0 and at least 2 blocks"
        )
    if not np.isfinite(profile.values[1:]).all():  # layer 0 enters no weight, and sites inside blocks have none
        bad = ", ".join(str(layer) for layer in np.flatnonzero(~np.isfinite(profile.values[1:])) + 1)
        raise PrescriptionError(f"CTE is not finite at layer(s) {bad}; trace again or choose other pairs")
    used = choose_layers(profile.values)
    if normalize != "none" and np.ptp(used) == 0:
        raise PrescriptionError(
            f"CTE is {used[0]:.3g} at every block, so that {normalize} normalisation is undefined: the trace prefers "
            "no layer; train uniformly"
        )
    alpha = normalizer(used)
    if not np.isfinite(alpha).all():
        raise PrescriptionError(f"CTE is not positive at any block ({short(used)}): normalize='max' is undefined")
    if not alpha.any():
        raise PrescriptionError(f"CTE is not positive at any block ({short(used)}): every weight would be 0")

    bounds, stability = None, None
    if profile.draws is not None and ci is not None:
        draws = _normalise_draws(profile.draws, choose_layers, normalizer)
        bounds, stability = measure_stability(alpha, draws, level=ci)
    warnings = tuple(_doubts(profile, used, alpha, layers, normalize, stability))
    for line in warnings:
        logger.warning(line)
    provenance = {
        **profile.provenance,
        "profile": [float(value) if np.isfinite(value) else None for value in profile.values],
        "aggregate": profile.aggregate,
        "normalize": normalize,
        "layers": layers,
        "ci": ci,
        "seed": seed,
    }
    return Prescription(alpha, beta, bounds, stability, warnings, provenance)


def _choose(option: str, value: str, choices: Mapping[str, ArrayMap]) -> ArrayMap:
    if not isinstance(value, str) or value not in choices:
        raise PrescriptionError(f"unknown {option} {shown(value)}; choose one of: {', '.join(choices)}")
    return choices[value]


def _normalise_draws(draws: Draws, choose_layers: ArrayMap, normalizer: ArrayMap) -> Float[np.ndarray, "draw block"]:
    alphas = normalizer(choose_layers(draws))
    return alphas[np.isfinite(alphas).all(axis=1)]


def _doubts(
    profile: Profile,
    used: np.ndarray,
    alpha: np.ndarray,
    layers: str,
    normalize: str,
    stability: Stability | None,
) -> list[str]:
    """What a careful reader would object to, one sentence each."""
    from ...tracer.results.tables import what_the_readout_reads

    lines = []
    last = len(alpha)
    read = what_the_readout_reads(profile.provenance.get("trace", {}))
    if read is not None:
        lines.append(f"{read}; weights from it favour early layers whatever the model does there.")
    forced = profile.forced_last
    if layers == "blocks" and forced is not None and abs(profile.values[-1] - forced) <= FORCED_TOLERANCE:
        rank = 1 + int((alpha > alpha[-1]).sum())
        lines.append(
            f"CTE of layer {last} is {forced:g} by construction (the readout uses the last layer only), not by cause; "
            f"it gives block {last} alpha {alpha[-1]:.2f} (rank {rank} of {last}). layers='inner' leaves it out."
        )
    frozen = [int(block) + 1 for block in np.flatnonzero(alpha == 0)]
    if frozen:
        lines.append(
            f"alpha is 0 at block(s) {', '.join(map(str, frozen))}: frozen by {normalize} normalisation, although CTE "
            f"there is {used.min():.3g}."
        )
    spread = float(np.ptp(used))
    if spread < FLAT_RANGE:
        lines.append(
            f"The profile is nearly flat: CTE varies by {spread:.3g} over the blocks, stretched to {short(alpha)}."
        )
    if stability is None:
        lines.append("No bootstrap draws: whether this ranking of the blocks is real is unknown.")
    elif stability.argmax_share < 0.5:
        lines.append(
            f"The peak is unstable: block {int(alpha.argmax()) + 1} is the highest in only "
            f"{stability.argmax_share:.0%} of {stability.n_draws} bootstrap draws."
        )
    if profile.n_texts is not None and profile.n_texts < FEW_TEXTS:
        lines.append(
            f"Only {profile.n_texts} distinct pair(s) of captions stand behind this profile, however many images: how "
            f"it varies with the wording is not known; use {FEW_TEXTS} or more."
        )
    elif profile.n_pairs is not None and profile.n_pairs < FEW_PAIRS:
        lines.append(f"Only {profile.n_pairs} pair(s) stand behind this profile; use {FEW_PAIRS} or more.")
    return lines

"""Turns a causal profile, or a rival's measure, into layer weights, with warnings where they are doubtful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from ...arguments import explains_arguments
from ...errors import PrescriptionError
from ...io.quoting import shown
from .arrays import short
from .normalizers import LAYER_CHOICES, NORMALIZERS, ArrayMap
from .plan import Prescription, check_beta
from .rank_agreement import RankAgreement, measure_rank_agreement
from .selectors import CONTROLS, FIXED, By, check_by, fixed_alpha, measured_profile, number_of_blocks
from .sources import Draws, Profile, read_profile
from .stability import Stability, measure_stability

if TYPE_CHECKING:
    from torch import nn

    from ...patching import DualEncoder
    from ...tracer import CausalTrace, Circuit, Excess, LayerProfile, TraceMap
    from ..apply.block_gradients import BlockGradients
    from ..apply.update_share import UpdateShare

FEW_TEXTS = 20  # below this, a bootstrap over texts says little about other texts
FEW_PAIRS = 20  # below this, a bootstrap over pairs says little about other pairs
FLAT_RANGE = 0.05  # CTE; a smaller spread over the blocks is stretched to [0, 1] by min-max all the same
FORCED_TOLERANCE = 1e-6  # CTE is stored in float32


@explains_arguments
def prescribe(
    source: CausalTrace
    | TraceMap
    | LayerProfile
    | Excess
    | Circuit
    | Float[np.ndarray, " layer"]
    | Float[np.ndarray, "layer token"]
    | BlockGradients
    | UpdateShare
    | Prescription
    | DualEncoder
    | nn.Module
    | int,
    *,
    by: By = "trace",
    beta: float = 1.0,
    aggregate: str = "sum",
    normalize: str | None = None,
    layers: str = "blocks",
    budget: Literal["none", "mean"] = "none",
    ci: float | None = 0.95,
    seed: int = 0,
    k: int | None = None,
    decay: float | None = None,
) -> Prescription:
    """Turn a causal trace, or a rival of it, into per-layer training weights.

    alpha_l = (CTE_l - min) / (max - min) over the blocks 1..L, and multipliers alpha ** beta. Source: NAST
    (arXiv 2602.12498), min-max normalisation and g~_l = alpha_l ** beta g_l. beta and the token aggregation are not
    published; the sum over tokens reproduces the paper's statement that CTE peaks at layer 2.

    source: for ``by="trace"`` a trace, its map or profile, the excess over a control, a circuit, or an array whose
        first axis is the layers 0..L (layer 0, the embedding output, is never trained by a block and is left out). The
        other selectors say below what they take.
    by: what the blocks are chosen by.
        "trace": the causal effect.
        "gradient": ||g|| / ||theta|| (Auto-RGN, arXiv 2210.11466); "fisher": the mean of g squared. Both take
        :func:`tracescribe.finetune.block_gradients`.
        "weight_change": how far a short uniform run moved each block; takes the run's ``update``.
        "front": the first ``k`` blocks; "random": ``k`` blocks drawn with ``seed``, once (LISA, arXiv 2403.17919, draws
        anew every few steps); "decay": ``decay ** (L - l)``, layer-wise rate decay. They take a model, a trace, a plan,
        or the number of blocks.
        "uniform", "permuted" (with ``seed``), "inverse": controls of the plan that the same source gives by its trace.
    aggregate: how a layer's token cells become one number: "sum", "max", "mean", "std" (a LayerProfile keeps its own);
        of a trace also "differing", "pooled", "std_from_differing" (see :meth:`CausalTrace.per_layer`).
    normalize: "minmax" (of a trace, as in the paper); "max": value / max (of the other measures, as in Auto-RGN);
        "mean": value / mean; "softmax": the softmax of the standardised values over its maximum; "rank": 0 for the
        lowest to 1 for the highest; "floor": min-max between 0.1 and 1, which freezes no block; "none": the values.
        Negative values are 0 in "max", "mean" and "none". None: "minmax" for a trace, "max" for other measures.
    layers: "blocks" = 1..L as in the paper; "inner" = the last block takes its neighbour's value, because CTE(L) is 1
        by construction in a tower whose readout uses the last layer only.
    budget: "mean" scales the multipliers to mean 1; see :meth:`Prescription.with_budget`.
    ci: level of the interval of alpha, from the profile's bootstrap draws (of gradients: over batches); each draw is
        normalised on its own.

    The plan's ``stability`` says how far these draws agree on the ranking of the blocks, and ``agreement``, of a trace,
    how far two halves of the texts, the templates, and both directions of negation do.

    Raises PrescriptionError for values or options that define no weights, DegenerateTraceError for a trace without a
    usable pair.

    >>> plan = prescribe(np.array([1.0, 0.8, 1.0, 0.6]))
    >>> plan.alpha.round(2)
    array([0.5, 1. , 0. ])
    >>> prescribe(4, by="front", k=2).alpha
    array([1., 1., 0., 0.])
    """
    beta = check_beta(beta)
    check_by(by, k, decay)
    normalize = normalize if normalize is not None else "minmax" if by in ("trace", *CONTROLS) else "max"
    normalizer = _choose("normalize", normalize, NORMALIZERS)
    choose_layers = _choose("layers", layers, LAYER_CHOICES)
    read: dict[str, Any] = {"aggregate": aggregate, "ci": ci, "seed": seed}
    if by in FIXED or by == "uniform":
        plan = _fixed(source, by, beta, k, decay, seed)
        return plan if budget == "none" else plan.with_budget(budget)
    if by in CONTROLS:
        plan = (
            source
            if isinstance(source, Prescription)
            else prescribe(source, beta=beta, normalize=normalize, layers=layers, budget=budget, **read)
        )
        return plan.permuted(seed) if by == "permuted" else plan.inverse()
    profile = read_profile(source, **read) if by == "trace" else measured_profile(by, source, ci=ci, seed=seed)
    if len(profile.values) < 3:
        raise PrescriptionError(
            f"the profile holds {len(profile.values)} layer(s); weights need layer 0 and at least 2 blocks"
        )
    quantity = profile.quantity
    if not np.isfinite(profile.values[1:]).all():  # layer 0 enters no weight, and sites inside blocks have none
        bad = ", ".join(str(layer) for layer in np.flatnonzero(~np.isfinite(profile.values[1:])) + 1)
        raise PrescriptionError(f"{quantity} is not finite at layer(s) {bad}; trace again or choose other pairs")
    used = choose_layers(profile.values)
    if normalize != "none" and np.ptp(used) == 0:
        raise PrescriptionError(
            f"{quantity} is {used[0]:.3g} at every block, so that {normalize} normalisation is undefined: no layer "
            "stands out; train uniformly"
        )
    alpha = normalizer(used)
    if not np.isfinite(alpha).all():
        raise PrescriptionError(
            f"{quantity} is not positive at any block ({short(used)}): normalize={normalize!r} is undefined"
        )
    if not alpha.any():
        raise PrescriptionError(f"{quantity} is not positive at any block ({short(used)}): every weight would be 0")

    bounds, stability = None, None
    if profile.draws is not None and ci is not None:
        draws = _normalise_draws(profile.draws, choose_layers, normalizer)
        bounds, stability = measure_stability(alpha, draws, level=ci)
    agreement = _agreement(source, profile, seed)
    warnings = tuple(_doubts(profile, used, alpha, layers, normalize, stability))
    warnings += () if agreement is None else tuple(agreement.doubts())
    provenance = {
        **profile.provenance,
        "by": by,
        "profile": [float(value) if np.isfinite(value) else None for value in profile.values],
        "aggregate": profile.aggregate,
        "normalize": normalize,
        "layers": layers,
        "ci": ci,
        "seed": seed,
    }
    plan = Prescription(alpha, beta, bounds, stability, warnings, provenance, agreement=agreement)
    return plan if budget == "none" else plan.with_budget(budget)


def _fixed(source: Any, by: str, beta: float, k: int | None, decay: float | None, seed: int) -> Prescription:
    n_blocks, about = number_of_blocks(source)
    alpha = np.ones(n_blocks) if by == "uniform" else fixed_alpha(by, n_blocks, k, decay, seed)
    options = {name: value for name, value in (("k", k), ("decay", decay)) if value is not None}
    seeded = {"seed": seed} if by == "random" else {}
    return Prescription(alpha, beta, provenance={**about, "by": by, **options, **seeded})


def _agreement(source: Any, profile: Profile, seed: int) -> RankAgreement | None:
    """Between parts of a trace, or of what it shows beyond its control's."""
    from ...tracer import CausalTrace, Excess

    trace, control = (source.trace, source.control) if isinstance(source, Excess) else (source, None)
    if not isinstance(trace, CausalTrace):
        return None
    layers = np.asarray(trace.layers)
    free = layers > 0
    if _last_is_forced(profile):
        free[-1] = False
    beside = None if control is None else control.per_layer(aggregate=profile.aggregate, ci=None).value
    return measure_rank_agreement(trace, beside, aggregate=profile.aggregate, free=free, seed=seed)


def _last_is_forced(profile: Profile) -> bool:
    forced = profile.forced_last
    return forced is not None and abs(profile.values[-1] - forced) <= FORCED_TOLERANCE


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
    last, what = len(alpha), profile.quantity
    read = what_the_readout_reads(profile.provenance.get("trace", {}))
    if read is not None:
        lines.append(f"{read}; weights from it favour early layers whatever the model does there.")
    if layers == "blocks" and _last_is_forced(profile):
        rank = 1 + int((alpha > alpha[-1]).sum())
        lines.append(
            f"CTE of layer {last} is {profile.forced_last:g} by construction (the readout uses the last layer only), "
            f"not by cause; it gives block {last} alpha {alpha[-1]:.2f} (rank {rank} of {last}). layers='inner' leaves "
            "it out."
        )
    frozen = [int(block) + 1 for block in np.flatnonzero(alpha == 0)]
    if frozen:
        least = float(used.min())
        why = f"frozen by {normalize} normalisation, although {what} there is {least:.3g}"
        if least == 0:  # as of a circuit that has no cell there
            why = f"{what} there is 0, and it is not trained"
        lines.append(f"alpha is 0 at block(s) {', '.join(map(str, frozen))}: {why}.")
    spread = float(np.ptp(used))
    if spread < (FLAT_RANGE if what == "CTE" else FLAT_RANGE * used.max()):
        lines.append(
            f"The profile is nearly flat: {what} varies by {spread:.3g} over the blocks, stretched to {short(alpha)}."
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

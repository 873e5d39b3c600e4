"""Turns a causal profile into layer weights: NAST's min-max alpha and beta, with the doubts that go with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from ...errors import PrescriptionError
from .sources import Draws, Profile, read_profile
from .stability import Stability, measure_stability

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import TrainerCallback

    from ...tracer import CausalTrace, Excess, LayerProfile, TraceMap
    from ..apply.scaling import Attachment

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True, eq=False)
class Prescription:
    """Per-layer training weights for the blocks 1..L of a text encoder, and how far to trust them.

    alpha: NAST's alpha_l, one per block (block l is at index l - 1); in [0, 1] for "minmax" and "max".
    beta: the exponent of g~_l = alpha_l ** beta * g_l.
    scale: a common factor of all multipliers (1 as in the paper; see :meth:`with_budget`).
    ci: lower and upper bound of alpha, renormalised within every bootstrap draw; None without draws.
    stability: how often the draws rank the blocks as the point estimate does; None without draws.
    """

    alpha: Float[np.ndarray, " block"]
    beta: float = 1.0
    ci: Float[np.ndarray, "block 2"] | None = None
    stability: Stability | None = None
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0

    def __post_init__(self) -> None:
        alpha = np.array(self.alpha, dtype=np.float64)
        if alpha.ndim != 1 or len(alpha) < 2:
            raise PrescriptionError(f"alpha needs one value per block and at least 2 blocks, not shape {alpha.shape}")
        if not np.isfinite(alpha).all() or (alpha < 0).any():
            raise PrescriptionError(f"alpha must be finite and not negative, not {_short(alpha)}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise PrescriptionError(f"scale must be a positive number, not {self.scale!r}")
        object.__setattr__(self, "beta", check_beta(self.beta))
        with np.errstate(over="ignore"):
            largest = self.scale * alpha.max() ** self.beta
        if not np.isfinite(largest):
            raise PrescriptionError(f"alpha ** beta overflows for alpha {_short(alpha)} and beta {self.beta:g}")
        alpha.flags.writeable = False
        object.__setattr__(self, "alpha", alpha)

    @property
    def multipliers(self) -> Float[np.ndarray, " block"]:
        """What each block's learning rate, update or gradient is multiplied by: ``scale * alpha ** beta``.

        >>> Prescription(np.array([0.5, 1.0, 0.0]), beta=2).multipliers
        array([0.25, 1.  , 0.  ])
        """
        return self.scale * self.alpha**self.beta

    @property
    def n_blocks(self) -> int:
        """L, the number of transformer blocks that the weights are for."""
        return len(self.alpha)

    @property
    def order(self) -> tuple[int, ...]:
        """Blocks (1..L) from the highest alpha to the lowest; ties keep the order of the blocks.

        >>> Prescription(np.array([0.5, 1.0, 0.0])).order
        (2, 1, 3)
        """
        return tuple(int(block) + 1 for block in np.argsort(-self.alpha, kind="stable"))

    # -- controls -----------------------------------------------------------------------------------------------

    def permuted(self, seed: int) -> Prescription:
        """The same weights on the wrong blocks: a seeded shuffle of alpha that differs from alpha.

        >>> sorted(Prescription(np.array([0.5, 1.0, 0.0])).permuted(seed=0).alpha)
        [np.float64(0.0), np.float64(0.5), np.float64(1.0)]
        """
        if np.ptp(self.alpha) == 0:
            raise PrescriptionError("all blocks have the same alpha, so that no permutation of it differs from it")
        generator = np.random.default_rng(seed)
        shuffled = self.alpha
        while np.array_equal(shuffled, self.alpha):
            shuffled = generator.permutation(self.alpha)
        return self._control(shuffled, f"permuted(seed={seed})")

    def inverse(self) -> Prescription:
        """1 - alpha: most where the trace found least (needs alpha within [0, 1])."""
        if self.alpha.max() > 1:
            raise PrescriptionError(f"1 - alpha needs alpha within [0, 1], not {_short(self.alpha)}")
        return self._control(1 - self.alpha, "inverse")

    def uniform(self) -> Prescription:
        """alpha = 1 for every block: ordinary training."""
        return self._control(np.ones(self.n_blocks), "uniform")

    def with_budget(self, budget: Literal["none", "mean"]) -> Prescription:
        """The same proportions with a chosen total.

        ``"mean"`` rescales the multipliers to mean 1, so that a comparison with uniform training spends the same sum
        of learning rates; without it (``"none"``, the paper's alpha ** beta) weighting also lowers the mean learning
        rate, and a difference from uniform may be no more than that.

        >>> Prescription(np.array([0.5, 1.0, 0.0])).with_budget("mean").multipliers
        array([1., 2., 0.])
        """
        if budget not in ("none", "mean"):
            raise PrescriptionError(f"unknown budget {budget!r}; choose one of: none, mean")
        powers = self.alpha**self.beta
        if budget == "mean" and powers.mean() == 0:
            raise PrescriptionError("all multipliers are 0 and cannot be rescaled to mean 1")
        scale = 1.0 if budget == "none" else float(1 / powers.mean())
        return replace(self, scale=scale, provenance={**self.provenance, "budget": budget})

    def _control(self, alpha: np.ndarray, name: str) -> Prescription:
        return replace(
            self, alpha=alpha, ci=None, stability=None, warnings=(), provenance={**self.provenance, "control": name}
        )

    # -- use in training ----------------------------------------------------------------------------------------

    def param_groups(self, module: torch.nn.Module, lr: float, **defaults: Any) -> list[dict[str, Any]]:
        """Per-layer learning rates for any optimiser; see :func:`tracescribe.finetune.apply.scaling.param_groups`."""
        from ..apply.scaling import param_groups

        return param_groups(self, module, lr, **defaults)

    def attach(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        mode: Literal["update", "gradient"] = "update",
    ) -> Attachment:
        """Scale every step of an optimiser you already have; see :func:`tracescribe.finetune.apply.scaling.attach`."""
        from ..apply.scaling import attach

        return attach(self, module, optimizer, mode)

    def lora_config(
        self, module: torch.nn.Module, mode: Literal["scale", "rank", "mask"] | None = None, r: int = 8, **options: Any
    ) -> LoraConfig:
        """A peft LoraConfig for the text tower; see :func:`tracescribe.finetune.apply.lora.lora_config`."""
        from ..apply.lora import lora_config

        return lora_config(module, plan=self, mode=mode, r=r, **options)

    def callback(
        self, mode: Literal["update", "gradient"] = "update", module: torch.nn.Module | None = None
    ) -> TrainerCallback:
        """A transformers.TrainerCallback that attaches this plan when training begins and removes it at the end.

        module: the CLIP inside the Trainer's model, where that is a module of your own.
        """
        from ..apply.trainer_callback import prescription_callback

        return prescription_callback(self, mode, module)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON (format "tracescribe.plan/1"); read it back with :func:`load_plan`."""
        from .io import save_plan

        save_plan(self, path)

    def __repr__(self) -> str:
        power = f", beta={self.beta:g}" + (f", scale={self.scale:g}" if self.scale != 1 else "")
        doubts = f", warnings: {len(self.warnings)}" if self.warnings else ""
        return f"Prescription({self.n_blocks} blocks, peak {self.order[0]}, alpha {_short(self.alpha)}{power}{doubts})"


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
        raise PrescriptionError(f"CTE is not positive at any block ({_short(used)}): normalize='max' is undefined")
    if not alpha.any():
        raise PrescriptionError(f"CTE is not positive at any block ({_short(used)}): every weight would be 0")

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


def check_beta(beta: float) -> float:
    """beta as a float; raises PrescriptionError unless it is a finite number >= 0."""
    try:
        value = float(beta)
    except (TypeError, ValueError):
        raise PrescriptionError(f"beta must be a number >= 0, not {beta!r}") from None
    if not np.isfinite(value) or value < 0:
        raise PrescriptionError(f"beta must be a finite number >= 0, not {beta!r}; beta = 0 trains uniformly")
    return value


def _choose(option: str, value: str, choices: Mapping[str, ArrayMap]) -> ArrayMap:
    if value not in choices:
        raise PrescriptionError(f"unknown {option} {value!r}; choose one of: {', '.join(choices)}")
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
            f"The profile is nearly flat: CTE varies by {spread:.3g} over the blocks, stretched to {_short(alpha)}."
        )
    if stability is None:
        lines.append("No bootstrap draws: whether this ranking of the blocks is real is unknown.")
    elif stability.argmax_share < 0.5:
        lines.append(
            f"The peak is unstable: block {int(alpha.argmax()) + 1} is the highest in only "
            f"{stability.argmax_share:.0%} of {stability.n_draws} bootstrap draws."
        )
    if profile.n_pairs is not None and profile.n_pairs < FEW_PAIRS:
        lines.append(f"Only {profile.n_pairs} pair(s) stand behind this profile; use {FEW_PAIRS} or more.")
    return lines


def _short(values: np.ndarray) -> str:
    return "[" + " ".join(f"{value:.3g}" for value in np.ravel(values)) + "]"

"""The plan: one training weight per text block, with its uncertainty. Data only; ``apply/`` uses it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from ...arguments import explains_arguments
from ...errors import PrescriptionError
from ...io.quoting import shown
from ...tracer.results.read_only import ReadOnlyArrays
from ...validation import is_number, is_positive, is_whole
from .arrays import real_array, short
from .rank_agreement import RankAgreement
from .stability import Stability

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import TrainerCallback

    from ..apply.attachment import Attachment

PERMUTATIONS = 1000  # drawn for the one that leaves fewest blocks their own weight


@explains_arguments
@dataclass(frozen=True, eq=False)
class Prescription(ReadOnlyArrays):
    """Per-layer training weights for the blocks 1..L of a text encoder, and how far to trust them.

    alpha: NAST's alpha_l, one per block (block l is at index l - 1); in [0, 1] for "minmax" and "max".
    beta: the exponent of g~_l = alpha_l ** beta * g_l.
    scale: a common factor of all multipliers (1 as in the paper; see :meth:`with_budget`).
    ci: lower and upper bound of alpha, renormalised within every bootstrap draw; None without draws.
    stability: how often the draws rank the blocks as the point estimate does; None without draws.
    agreement: how far parts of the trace (halves of its texts, templates, directions) rank them alike; None for others.
    """

    alpha: Float[np.ndarray, " block"]
    beta: float = 1.0
    ci: Float[np.ndarray, "block 2"] | None = None
    stability: Stability | None = None
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    agreement: RankAgreement | None = None

    def __post_init__(self) -> None:
        alpha = real_array(self.alpha, "one number per block")
        if alpha.ndim != 1 or len(alpha) < 2:
            raise PrescriptionError(f"alpha needs one value per block and at least 2 blocks, not shape {alpha.shape}")
        if not np.isfinite(alpha).all() or (alpha < 0).any():
            raise PrescriptionError(f"alpha must be finite and not negative, not {short(alpha)}")
        if not is_positive(self.scale):
            raise PrescriptionError(f"scale must be a positive number, not {shown(self.scale)}")
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "beta", check_beta(self.beta))
        with np.errstate(over="ignore", under="ignore"):
            largest = self.scale * alpha.max() ** self.beta
        if not np.isfinite(largest):
            raise PrescriptionError(f"alpha ** beta overflows for alpha {short(alpha)} and beta {self.beta:g}")
        if largest == 0:
            raise PrescriptionError(
                f"every multiplier would be 0 (alpha {short(alpha)}, beta {self.beta:g}): nothing would be trained"
            )
        alpha.flags.writeable = False
        object.__setattr__(self, "alpha", alpha)
        if self.ci is not None:
            bounds = real_array(self.ci, "a lower and an upper bound per block")
            if bounds.shape != (len(alpha), 2):
                raise PrescriptionError(
                    f"ci needs two bounds for each of {len(alpha)} blocks, not shape {bounds.shape}"
                )
            if not (bounds[:, 0] <= bounds[:, 1]).all():
                raise PrescriptionError(f"ci must hold finite bounds, the lower one first, not {short(bounds)}")
            bounds.flags.writeable = False
            object.__setattr__(self, "ci", bounds)

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

    @explains_arguments
    def permuted(self, seed: int) -> Prescription:
        """The same weights on the wrong blocks: a seeded shuffle of alpha for a control.

        None of the highest blocks (three, or half of a smaller tower) is among the highest of the shuffle, and as few
        blocks as possible keep their weight: a plain shuffle often leaves the highest weights where they were.

        >>> Prescription(np.array([0.5, 1.0, 0.0])).permuted(seed=0).order[0] != 2
        True
        """
        if not is_whole(seed):
            raise PrescriptionError(f"seed must be a whole number >= 0, not {shown(seed)}")
        if np.ptp(self.alpha) == 0:
            raise PrescriptionError("all blocks have the same alpha, so that no permutation of it differs from it")
        generator = np.random.default_rng(int(seed))
        top = min(3, self.n_blocks // 2)
        highest = set(self.order[:top])

        def in_place(alpha: np.ndarray) -> tuple[int, int]:
            order = np.argsort(-alpha, kind="stable")[:top] + 1
            return len(highest & set(order.tolist())), int((alpha == self.alpha).sum())

        best = generator.permutation(self.alpha)
        for _ in range(PERMUTATIONS):
            if in_place(best) == (0, 0):
                break
            best = min(best, generator.permutation(self.alpha), key=in_place)
        return self._control(best, f"permuted(seed={seed})", self.scale)

    def inverse(self) -> Prescription:
        """1 - alpha: most where the trace found least (alpha within [0, 1]), with the total of a plan that has one.

        >>> Prescription(np.array([0.5, 1.0, 0.0])).with_budget("mean").inverse().multipliers
        array([1., 0., 2.])
        """
        if self.alpha.max() > 1:
            raise PrescriptionError(f"1 - alpha needs alpha within [0, 1], not {short(self.alpha)}")
        inverse = self._control(1 - self.alpha, "inverse", 1.0)
        if self.scale == 1:
            return inverse
        return replace(inverse, scale=float(self.multipliers.sum() / inverse.multipliers.sum()))

    def uniform(self) -> Prescription:
        """Multiplier 1 for every block: ordinary training."""
        return self._control(np.ones(self.n_blocks), "uniform", 1.0)

    @explains_arguments
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
        scale = 1.0 if budget == "none" else float(1 / (self.alpha**self.beta).mean())
        return replace(self, scale=scale, provenance={**self.provenance, "budget": budget})

    def _control(self, alpha: np.ndarray, name: str, scale: float) -> Prescription:
        provenance = {**self.provenance, "control": name}
        unknown: dict[str, Any] = {"ci": None, "stability": None, "agreement": None, "warnings": ()}
        return replace(self, alpha=alpha, scale=scale, provenance=provenance, **unknown)

    # -- use in training: the code is in apply/, imported when it is called ----------------------------------------

    @explains_arguments
    def param_groups(
        self,
        module: torch.nn.Module,
        lr: float,
        others: float | None = None,
        *,
        no_decay: bool = False,
        lr_scale: bool = False,
        **defaults: Any,
    ) -> list[dict[str, Any]]:
        """Per-layer learning rates for any optimiser; see :func:`tracescribe.finetune.param_groups`."""
        from ..apply.param_groups import param_groups

        return param_groups(self, module, lr, others, no_decay=no_decay, lr_scale=lr_scale, **defaults)

    @explains_arguments
    def attach(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        mode: Literal["update", "gradient"] = "update",
        others: float | None = None,
    ) -> Attachment:
        """Scale every step of an optimiser you already have; see :func:`tracescribe.finetune.attach`."""
        from ..apply.attachment import attach

        return attach(self, module, optimizer, mode, others)

    @explains_arguments
    def lora_config(
        self, module: torch.nn.Module, mode: Literal["scale", "rank", "mask"] | None = None, r: int = 8, **options: Any
    ) -> LoraConfig:
        """A peft LoraConfig for the text tower; see :func:`tracescribe.finetune.lora_config`."""
        from ..apply.lora import lora_config

        return lora_config(module, plan=self, mode=mode, r=r, **options)

    @explains_arguments
    def callback(
        self,
        mode: Literal["update", "gradient"] = "update",
        module: torch.nn.Module | None = None,
        others: float | None = None,
    ) -> TrainerCallback:
        """A transformers.TrainerCallback that attaches this plan when training begins and removes it at the end.

        module: the CLIP inside the Trainer's model, where that is a module of your own. others: as of :meth:`attach`.
        """
        from ..apply.trainer_callback import prescription_callback

        return prescription_callback(self, mode, module, others)

    @explains_arguments
    def save(self, path: str | Path) -> None:
        """Write the plan as JSON (format "tracescribe.plan/1"); read it back with :func:`load_plan`."""
        from .io import save_plan

        save_plan(self, path)

    def __repr__(self) -> str:
        power = f", beta={self.beta:g}" + (f", scale={self.scale:g}" if self.scale != 1 else "")
        doubts = f", warnings: {len(self.warnings)}" if self.warnings else ""
        return f"Prescription({self.n_blocks} blocks, peak {self.order[0]}, alpha {short(self.alpha)}{power}{doubts})"

    def _repr_html_(self) -> str:
        from ...cards import card
        from ...viz.notebook.pictures import bars_svg

        lo, hi = (None, None) if self.ci is None else self.ci.T
        held = self.stability
        facts = [
            ("model", self.provenance.get("model")),
            ("multipliers", ", ".join(f"{value:.2f}" for value in self.multipliers)),
            ("highest", ", ".join(f"block {block}" for block in self.order[:3])),
            (
                "ranking",
                None
                if held is None
                else f"the highest block is the same in {held.argmax_share:.0%} of "
                f"{held.n_draws:,} bootstrap draws; rank correlation {held.spearman:.2f}",
            ),
            ("agreement", None if self.agreement is None else self.agreement.told()),
        ]
        power = f"alpha^{self.beta:g}" + (f" × {self.scale:.3g}" if self.scale != 1 else "")
        bars = bars_svg(self.alpha, list(range(1, self.n_blocks + 1)), "alpha", lo, hi)
        return card("Prescription", f"{self.n_blocks} blocks, {power}", facts, bars, doubts=self.warnings)


def check_beta(beta: float) -> float:
    """beta as a float; raises PrescriptionError unless it is a finite number >= 0."""
    if not is_number(beta, least=0):
        raise PrescriptionError(f"beta must be a finite number >= 0, not {shown(beta)}; beta = 0 trains uniformly")
    return float(beta)

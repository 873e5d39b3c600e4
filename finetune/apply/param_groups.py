"""Per-layer learning rates as parameter groups of any torch optimiser, and a check that a scheduler keeps them."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import nn

from ...arguments import explains_arguments
from ...errors import PrescriptionError, PrescriptionWarning
from .blocks import block_parameters, refuse_scaled_adapters, say_if_of_other_weights, source_of
from .gradient import scaled_by_hooks

if TYPE_CHECKING:
    from ..prescription.plan import Prescription

logger = logging.getLogger(__name__)

RATE_TOLERANCE = 1e-3  # relative; schedulers that compute rates recursively lose 1e-16 per step


@explains_arguments
def param_groups(
    plan: Prescription, module: nn.Module, lr: float, others: float | None = None, **defaults: Any
) -> list[dict[str, Any]]:
    """Optimiser parameter groups with learning rate ``lr * multiplier`` for each text block.

    Every trainable parameter of a text block appears exactly once: one group per block (key ``layer`` 1..L, key
    ``multiplier``). Under a decoupled weight decay the decay is scaled with the learning rate, as the whole update is.
    Schedulers that multiply the initial rates keep the proportions. Those that give one rate to all groups (open_clip's
    own, OneCycleLR without a list, cosine annealing with ``eta_min``) undo them: PrescriptionWarning says so at the
    first step that finds it. In bfloat16 a small step is rounded away; ``attach`` keeps the remainder.

    module: a source module, peft-wrapped or not, a DualEncoder, or either inside DistributedDataParallel or
        ``torch.compile``.
    others: learning rate of the trainable parameters outside the text blocks (embeddings, projections, the image tower,
        the logit scale), as one more group ``layer=None``. None leaves them out, so that nothing moves them.
    defaults: go into every group (weight_decay, ...).

    Source: per-layer learning rates in place of NAST's gradient scaling, which Adam-like optimisers cancel.

    Raises PrescriptionError when no trainable parameter belongs to a text block, the numbers of blocks differ, or these
    parameters are scaled already.

    >>> import numpy as np, open_clip, tracescribe as ts
    >>> text = dict(context_length=8, vocab_size=16, width=16, heads=2, layers=2)
    >>> vision = dict(image_size=16, patch_size=8, width=16, head_width=8, layers=1)
    >>> clip = open_clip.model.CLIP(16, vision_cfg=vision, text_cfg=text)
    >>> groups = ts.prescribe(np.array([1.0, 0.2, 1.0])).param_groups(clip, lr=1e-3)
    >>> [(group["layer"], group["lr"]) for group in groups]
    [(1, 0.0), (2, 0.001)]
    """
    if others is not None and not 0 <= others < float("inf"):
        raise PrescriptionError(f"others must be a learning rate of at least 0 or None, not {others!r}")
    module = source_of(module)
    blocks = block_parameters(plan, module)
    refuse_scaled_adapters(plan, module)
    if scaled_by_hooks(parameter for block in blocks for parameter in block):
        raise PrescriptionError(
            "the gradients of these parameters are scaled already (attach, mode 'gradient'), and every update would be "
            "multiplied twice: take that off first (handle.remove())"
        )
    say_if_of_other_weights(plan, module)
    tagged: set[int] = set()
    groups: list[dict[str, Any]] = []
    for layer, (parameters, multiplier) in enumerate(zip(blocks, plan.multipliers, strict=True), start=1):
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        tagged.update(map(id, trainable))
        if trainable:
            scaled = {"lr": lr * float(multiplier), "layer": layer, "multiplier": float(multiplier)}
            groups.append({**defaults, "params": trainable, **scaled})
    if not groups:
        raise PrescriptionError(
            "no trainable parameter of this module belongs to a text block; attach LoRA first (plan.lora_config) or "
            "set requires_grad"
        )
    rest = [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) not in tagged]
    if rest and others is not None:
        groups.append({**defaults, "params": rest, "lr": others, "layer": None, "multiplier": 1.0})
    elif rest:
        logger.info(
            "%d trainable tensors outside the text blocks are in no group and stay as they are (others=None)", len(rest)
        )
    _check_rates_at_every_step()
    return groups


@cache
def _check_rates_at_every_step() -> None:
    """Once per process: torch calls this before each step of any optimiser; those without our groups pass at once."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    warned: WeakSet[torch.optim.Optimizer] = WeakSet()

    def before_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if "multiplier" in optimizer.param_groups[0] and optimizer not in warned:
            message = rates_off_plan(optimizer.param_groups)
            if message is not None:
                warned.add(optimizer)
                warnings.warn(message, PrescriptionWarning, stacklevel=2)

    register_optimizer_step_pre_hook(before_step)


def rates_off_plan(groups: list[dict[str, Any]]) -> str | None:
    """A sentence when the groups' learning rates are no longer one rate times their multipliers, else None.

    >>> rates_off_plan([{"layer": 1, "multiplier": 0.5, "lr": 0.1}, {"layer": 2, "multiplier": 1.0, "lr": 0.2}])
    >>> rates_off_plan([{"layer": 1, "multiplier": 0.5, "lr": 0.1}, {"layer": 2, "multiplier": 1.0, "lr": 0.1}])[:50]
    "the blocks' learning rates are off the plan: block"
    """
    layers = [group for group in groups if group.get("layer") is not None]
    unscaled = [float(group["lr"]) / group["multiplier"] for group in layers if group["multiplier"]]
    rate = sorted(unscaled)[len(unscaled) // 2] if unscaled else 0.0
    for group in layers:
        expected, found = rate * group["multiplier"], float(group["lr"])
        if abs(found - expected) > RATE_TOLERANCE * max(expected, rate * RATE_TOLERANCE):
            return (
                f"the blocks' learning rates are off the plan: block {group['layer']} has {found:.3g} where multiplier "
                f"{group['multiplier']:.3g} of {rate:.3g} gives {expected:.3g}. A scheduler that sets one rate for all "
                "groups does this: use one that multiplies the initial rates (LambdaLR), or plan.attach instead"
            )
    return None

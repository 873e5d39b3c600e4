"""A check at every step that the groups of a plan still have its rates, and that the optimiser goes by them."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from ...errors import PrescriptionWarning
from ...warn import warn_user

_WHY = {
    False: "A scheduler that sets one rate for all groups does this: use one that multiplies the initial rates "
    "(LambdaLR)",
    True: "No scheduler has multiplied by the groups' lr_scale: use one that does (timm's), or leave lr_scale out",
}
PLANNED: MutableMapping[Any, float] = WeakTensorKeyDictionary()  # multipliers by parameter, of its last plan
TOLERANCE = 1e-3  # relative; schedulers that compute rates recursively lose 1e-16 per step


@cache
def check_rates_at_every_step() -> None:
    """Once per process: torch calls this before each step of any optimiser; those without our groups pass at once."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    warned: WeakSet[torch.optim.Optimizer] = WeakSet()

    def before_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if "multiplier" in optimizer.param_groups[0] and optimizer not in warned:
            groups = optimizer.param_groups
            message = rates_of_another_plan(groups) or rates_off_plan(groups) or rates_without_effect(optimizer)
            if message is not None:
                warned.add(optimizer)
                warn_user(message, PrescriptionWarning)

    register_optimizer_step_pre_hook(torch.compiler.disable(before_step))


def rates_of_another_plan(groups: list[dict[str, Any]]) -> str | None:
    """A sentence when the groups' multipliers are not those that ``param_groups`` gave their parameters, else None."""
    for group in groups:
        planned = PLANNED.get(group["params"][0]) if group["params"] and "multiplier" in group else None
        if planned is not None and planned != group["multiplier"]:
            return (
                f"block {group.get('layer')} has multiplier {group['multiplier']:.3g} where the plan says "
                f"{planned:.3g}: a checkpoint brings the rates of the run that it is of (load_state_dict). Set each "
                "group's lr, initial_lr and multiplier again to train by the new plan"
            )
    return None


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
        if abs(found - expected) > TOLERANCE * max(expected, rate * TOLERANCE):
            return (
                f"the blocks' learning rates are off the plan: block {group['layer']} has {found:.3g} where multiplier "
                f"{group['multiplier']:.3g} of {rate:.3g} gives {expected:.3g}. {_WHY['lr_scale' in group]}, or "
                "plan.attach instead"
            )
    return None


def rates_without_effect(optimizer: torch.optim.Optimizer) -> str | None:
    """A sentence when the steps of this optimiser are not proportional to the rates of its groups, else None."""
    name, instead = type(optimizer).__name__, "use plan.attach instead"
    groups = [group for group in optimizer.param_groups if group.get("layer") is not None]
    if any(group.get("relative_step") for group in groups):
        return (
            f"{name} with relative_step=True does not go by its groups' learning rates, so that all blocks train "
            f"alike: pass relative_step=False, or {instead}"
        )
    if "madgrad" in name.lower():
        return (
            f"the steps of {name} grow with the learning rate to the power 2/3, which is off the plan, and no other "
            "mode is exact with it: use another optimiser (AdamW, SGD)"
        )
    if isinstance(optimizer, torch.optim.Adafactor):
        for group in groups:
            steps = [int(optimizer.state[p]["step"]) for p in group["params"][:1] if p in optimizer.state]
            if steps and group["lr"] > (steps[0] + 1) ** -0.5:
                return (
                    f"{name} bounds its rate by 1 / sqrt(step), which block {group['layer']}'s {group['lr']:.3g} "
                    f"exceeds since step {steps[0] + 1}, so that the blocks' rates become equal: lower lr, or {instead}"
                )
    return None

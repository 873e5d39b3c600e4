"""NAST's formula as published: the gradients of each text block times its multiplier."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import PrescriptionError, PrescriptionWarning
from ...warn import warn_user
from .wrapped_optimizers import WatchedGroups, optimizer_chain, with_step_hooks

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


# Optimisers whose step does not change, or hardly, when a layer's gradient is multiplied by a constant: they divide it
# by its own running size (Adam family, Adagrad, Adafactor, RMSprop, NovoGrad, MADGRAD), use its sign (Lion, Rprop) or
# its direction (Muon, LAMB, LARS, Kron). Matched against the class names in the MRO, which covers 8-bit and paged
# versions; a test tries every optimiser of torch and timm.
_SCALE_INVARIANT = re.compile(
    r"ada|adopt|rmsprop|rprop|laprop|mars|novograd|madgrad|lion|muon|lamb|lars|kron|came|ranger|galore|apollo|prodigy"
    r"|sophia|soap|shampoo|signsgd|signum",
    re.IGNORECASE,
)


class ScaleInvariantOptimizerWarning(PrescriptionWarning):
    """Gradient scaling was asked for under an optimiser that undoes it."""


@dataclass(eq=False)
class ScaledGradients:
    """Hooks that multiply gradients as they are computed: g~_l = alpha_l ** beta * g_l (NAST, arXiv 2602.12498)."""

    handles: list[RemovableHandle] = field(default_factory=list)
    _hooks: list[tuple[nn.Parameter, _Times]] = field(default_factory=list)
    _watched: WatchedGroups | None = None

    def add(self, parameter: nn.Parameter, multiplier: float) -> None:
        """Scale one parameter's gradient from now on."""
        if parameter.requires_grad:
            hook = _Times(multiplier, self)
            self._hooks.append((parameter, hook))
            self.handles.append(parameter.register_hook(hook))

    def watch(self, optimizer: Any) -> None:
        """Where steps have hooks: warn of gradients that were written past theirs (sharding), and of new groups."""
        with suppress(PrescriptionError):
            stepping = with_step_hooks(optimizer)
            self._watched = WatchedGroups(stepping)
            self.handles.append(stepping.register_step_pre_hook(torch.compiler.disable(self._before_step)))

    def _before_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._watched is not None:
            self._watched.check(optimizer)
        past = sum(parameter.grad is not None and not hook.called for parameter, hook in self._hooks)
        self._hooks = []  # asked once
        if past:
            warn_user(
                f"{past} of the plan's parameters have gradients that are not scaled: what wrote them passed the "
                "plan's hooks, as sharding does. Use attach(mode='update') or param_groups",
                PrescriptionWarning,
            )

    def remove(self) -> None:
        """Take every hook off."""
        while self.handles:
            self.handles.pop().remove()


@dataclass(eq=False)
class _Times:
    multiplier: float
    part_of: ScaledGradients
    called: bool = False

    def __call__(self, gradient: Tensor) -> Tensor:
        self.called = True
        return gradient * self.multiplier


def scaled_by_hooks(parameters: Iterable[nn.Parameter]) -> list[ScaledGradients]:
    """What scales the gradients of these parameters already, for instance after a run that was interrupted."""
    found: dict[int, ScaledGradients] = {}
    for parameter in parameters:
        for hook in (getattr(parameter, "_backward_hooks", None) or {}).values():
            if isinstance(hook, _Times):
                found[id(hook.part_of)] = hook.part_of
    return list(found.values())


def warn_if_scale_invariant(optimizer: Any) -> None:
    """Issue ScaleInvariantOptimizerWarning where gradient scaling does next to nothing."""
    for inner in optimizer_chain(optimizer):
        name = next((kind.__name__ for kind in type(inner).__mro__ if _SCALE_INVARIANT.search(kind.__name__)), None)
        if name is not None:
            message = (
                f"{type(inner).__name__} undoes gradient scaling: its step hardly changes when a layer's gradient is "
                "multiplied by a constant. Use attach(mode='update') or param_groups to scale what the layers learn."
            )
            warn_user(message, ScaleInvariantOptimizerWarning)
            return

"""NAST's formula as published: the gradients of each text block times its multiplier."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...errors import PrescriptionWarning
from ...warn import warn_user
from .wrapped_optimizers import optimizer_chain

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

    def add(self, parameter: nn.Parameter, multiplier: float) -> None:
        """Scale one parameter's gradient from now on."""
        if parameter.requires_grad:
            self.handles.append(parameter.register_hook(_Times(multiplier, self)))

    def remove(self) -> None:
        """Take every hook off."""
        while self.handles:
            self.handles.pop().remove()


@dataclass(frozen=True, eq=False)
class _Times:
    multiplier: float
    part_of: ScaledGradients

    def __call__(self, gradient: Tensor) -> Tensor:
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

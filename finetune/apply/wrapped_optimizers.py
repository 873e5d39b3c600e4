"""Optimisers inside other optimisers: accelerate, Lookahead and others keep theirs as an attribute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import PrescriptionError, PrescriptionWarning
from ...warn import warn_user

if TYPE_CHECKING:
    import torch


def optimizer_chain(optimizer: Any) -> Iterator[Any]:
    """An optimiser and those that it wraps, from the outside in."""
    seen: set[int] = set()
    while optimizer is not None and id(optimizer) not in seen:
        seen.add(id(optimizer))
        yield optimizer
        inner = None
        for name in ("optimizer", "base_optimizer", "_base_optimizer", "_optimizer"):
            with suppress(AttributeError):
                inner = getattr(optimizer, name)
            if inner is not None:
                break
        optimizer = inner


class WatchedGroups:
    """Warns once of parameter groups that an optimiser was given after a plan was attached to it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._count = len(optimizer.param_groups)

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """At each step."""
        if len(optimizer.param_groups) > self._count:
            self._count = len(optimizer.param_groups)
            warn_user(
                "a parameter group was added to the optimiser after the plan was attached, and trains at the full "
                "rate: attach the plan again (it replaces the earlier one) if the group has parameters of text blocks",
                PrescriptionWarning,
            )


def with_step_hooks(optimizer: Any) -> torch.optim.Optimizer:
    """The innermost optimiser whose ``step()`` runs torch's step hooks.

    A wrapper may be an Optimizer whose step torch never sees (timm's Lookahead), so that hooks on it would never run.

    Raises PrescriptionError when there is none.
    """
    found = None
    for inner in optimizer_chain(optimizer):
        if hasattr(inner, "_optimizer_step_pre_hooks") and getattr(type(inner).step, "hooked", False):
            found = inner
    if found is None:
        raise PrescriptionError(
            f"{type(optimizer).__name__} has no step hooks; pass the torch optimiser whose step() runs, or use "
            "plan.param_groups"
        )
    return found

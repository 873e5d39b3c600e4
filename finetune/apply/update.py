"""Scaled steps: after each step of an optimiser, p = old + multiplier * (new - old), under any optimiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import PrescriptionError, PrescriptionWarning
from ...warn import warn_user
from .wrapped_optimizers import WatchedGroups

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


OFF_PLAN = 0.05  # of the unscaled step; half precision rounds a single step by several per cent
SAMPLE = 1 << 14  # entries of a large tensor, about, that `realised` is measured on


class ScaledUpdate:
    """Hooks around the steps of one optimiser that scale what it does to each group of parameters.

    It keeps the values of the scaled parameters before the last step, and a sample of the step that the optimiser
    proposed. A parameter in half precision has a second copy, the float32 value that it is the rounding of: without it
    a step of .6 of the last bit would be rounded to the full bit, again and again.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, groups: Sequence[Sequence[nn.Parameter]], multipliers: Sequence[float]
    ) -> None:
        self._parameters = [parameter for group in groups for parameter in group]
        self._group = [number for number, group in enumerate(groups) for _ in group]
        self._multipliers = [float(multipliers[number]) for number in self._group]
        self._expected = np.asarray(multipliers, dtype=np.float64)
        self._old: list[Tensor] = []  # where the multiplier is 1, of the sample only
        self._proposed: list[Tensor] = []  # of the sample
        self._exact: dict[int, Tensor] = {}
        self._warned = self._checked_state = False
        self._watched = WatchedGroups(optimizer)
        eager: Callable[[Any], Any] = torch.compiler.disable  # a compiled step would trace into them, for minutes
        self.handles: list[RemovableHandle] = [
            optimizer.register_step_pre_hook(eager(self._before)),
            optimizer.register_step_post_hook(eager(self._after)),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        while self.handles:
            self.handles.pop().remove()

    def scales_only(self, parameters: Collection[int]) -> bool:
        """Whether all that it scales is among these, by id."""
        return all(id(parameter) in parameters for parameter in self._parameters)

    def state(self) -> dict[str, Tensor]:
        """The unrounded values of parameters in half precision, by number."""
        return {str(i): value.clone() for i, value in self._exact.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave."""
        self._exact = {int(i): value.to(self._parameters[int(i)].device) for i, value in state.items()}

    @torch.no_grad()
    def realised(self) -> Float[np.ndarray, " group"] | None:
        """What came of the last step, as a share of the step that the optimiser proposed; None before the first step.

        The component of the actual change along the proposed one; NaN for a group without a step. Of a tensor of more
        than ``SAMPLE`` entries some are measured, evenly spread. The change is measured up to now, so that what other
        code did to the parameters since counts. PrescriptionWarning is issued once when a group is off the plan.
        """
        if not self._proposed:
            return None
        moved = torch._foreach_sub([_some(value) for value in self._values()], [_some(old) for old in self._old])
        along, size = np.zeros((2, len(self._expected)))
        for number, change, proposed in zip(self._group, moved, self._proposed, strict=True):
            step = proposed.flatten().double()
            along[number] += float(change.flatten().double() @ step)
            size[number] += float(step @ step)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(size > 0, along / size, np.nan)
        self._warn_if_off_plan(ratio)
        return ratio

    @torch.no_grad()
    def _before(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if _is_skipped(optimizer):
            return
        if not self._checked_state:
            self._check_parameters(optimizer)
        self._watched.check(optimizer)
        # few calls over many tensors: LoRA's are small, and one call per tensor would cost more than the arithmetic
        values = self._values()
        kept = [_some(v) if factor == 1 else v for v, factor in zip(values, self._multipliers, strict=True)]
        if [_kind(value) for value in kept] != [_kind(value) for value in self._old]:
            self._old = [torch.empty_like(value) for value in kept]
        torch._foreach_copy_(self._old, kept)

    @torch.no_grad()
    def _after(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if _is_skipped(optimizer):
            return
        new, old, factors = self._values(), self._old, self._multipliers
        self._proposed = list(torch._foreach_sub([_some(v) for v in new], [_some(v) for v in old]))
        self._check_state(optimizer)
        moving = [i for i, factor in enumerate(factors) if factor not in (0, 1)]
        if full := [i for i in moving if new[i].dtype.itemsize >= 4]:
            back = [1 - factors[i] for i in full]
            torch._foreach_lerp_([new[i] for i in full], [old[i] for i in full], back)
        # what is frozen comes back exactly, even where the step was not finite
        set_to = {i: old[i] for i, factor in enumerate(factors) if factor == 0}
        set_to |= {i: self._round(i, new[i]) for i in moving if new[i].dtype.itemsize < 4}
        if set_to:
            torch._foreach_copy_([new[i] for i in set_to], list(set_to.values()))

    def _round(self, i: int, new: Tensor) -> Tensor:
        """The scaled value of a parameter in half precision, before it is rounded; it is kept for the next step."""
        exact = self._exact.get(i)
        if exact is None or not torch.equal(exact.to(self._old[i].dtype), self._old[i]):  # somebody else wrote to it
            exact = self._old[i].float()
        self._exact[i] = exact + self._multipliers[i] * (new.float() - self._old[i].float())
        return self._exact[i]

    def _values(self) -> list[Tensor]:
        """The parameters' own memory; of one that is sharded (FSDP2), the shard that lies here."""
        return [_local(parameter.detach()) for parameter in self._parameters]

    def _warn_if_off_plan(self, ratio: Float[np.ndarray, " group"]) -> None:
        distance = np.nan_to_num(np.abs(ratio - self._expected))
        worst = int(distance.argmax())
        if not self._warned and distance[worst] > OFF_PLAN * max(self._expected[worst], 1):
            self._warned = True
            _warn(
                f"block {worst + 1} took {ratio[worst]:.3g} of the optimiser's step where the plan says "
                f"{self._expected[worst]:.3g}: something else also writes to these parameters, or their precision is "
                "too low for steps of this size"
            )

    def _check_parameters(self, optimizer: torch.optim.Optimizer) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if self._parameters and held.isdisjoint(map(id, self._parameters)):
            raise PrescriptionError(
                f"{type(optimizer).__name__} no longer holds the parameters that the plan scales, which were replaced "
                "since it was attached (DeepSpeed and FSDP do this): attach to the new ones, or use plan.param_groups"
            )

    def _check_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Once: an optimiser that keeps the weights in its state goes on from those, and scaled steps are lost.

        No step starts from ASGD's average "ax".
        """
        if self._checked_state:
            return
        self._checked_state = True
        scaled = [i for i, factor in enumerate(self._multipliers) if factor != 1]
        i = next((i for i in scaled if self._old[i].numel() > 1 and bool(self._old[i].any())), None)
        if i is None:
            return
        old = self._old[i]
        for key, kept in optimizer.state.get(self._parameters[i], {}).items():
            if key != "ax" and isinstance(kept, Tensor) and _local(kept).shape == old.shape:
                distance = (_local(kept).to(old.device).float() - old.float()).norm() / old.float().norm()
                if float(distance) < 0.1:
                    _warn(
                        f"{type(optimizer).__name__} keeps a copy of the weights ({key!r}): if its steps start from "
                        "it, scaled steps are lost. Use plan.param_groups with it"
                    )


def _is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a gradient scaler found an infinity: a fused ``step`` is called all the same, and changes nothing.

    Reading it waits for the device, as the scaler itself does for an optimiser that is not fused.
    """
    return bool(getattr(optimizer, "found_inf", None))


def _some(value: Tensor) -> Tensor:
    """All entries, or of many some that are evenly spread: an odd distance meets every row and column."""
    return value if value.numel() <= SAMPLE else value.flatten()[:: value.numel() // SAMPLE | 1]


def _kind(value: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return value.shape, value.dtype, value.device


def _local(value: Tensor) -> Tensor:
    return value.to_local() if hasattr(value, "to_local") else value


def earlier_updates(optimizer: torch.optim.Optimizer) -> list[ScaledUpdate]:
    """What scales the steps of this optimiser already, for instance after a notebook's cell was run again."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    found = [getattr(getattr(hook, "__wrapped__", None), "__self__", None) for hook in hooks]
    return [owner for owner in found if isinstance(owner, ScaledUpdate)]


def _warn(message: str) -> None:
    warn_user(message, PrescriptionWarning)

"""Hook points: identity modules that name an activation, so that any tool can read or replace it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn


class HookPoint(nn.Module):
    """Returns its input unchanged; nnsight (or a plain forward hook) reads and writes the activation here.

    >>> import torch
    >>> point = HookPoint()
    >>> handle = point.register_forward_hook(lambda module, args, output: output * 2)
    >>> point(torch.tensor([1.0])).item()
    2.0
    """

    def forward(self, x: Tensor) -> Tensor:
        return x


M = TypeVar("M", bound=nn.Module)


def share(module: M, make_hook_point: Callable[[], nn.Module] = HookPoint) -> M:
    """A second module tree over the same parameters, with hook points of its own.

    Tools such as nnsight install themselves in every module they wrap, for good. They are given such a tree, so that
    neither the user's model nor the user's tower ever changes.
    """
    if isinstance(module, HookPoint):
        return make_hook_point()  # type: ignore[return-value]
    twin = copy.copy(module)
    twin.__dict__["_parameters"] = dict(module._parameters)
    twin.__dict__["_buffers"] = dict(module._buffers)
    twin.__dict__["_modules"] = {
        name: None if child is None else share(child, make_hook_point) for name, child in module._modules.items()
    }
    for registry in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        twin.__dict__[registry] = type(module.__dict__[registry])()
    return twin

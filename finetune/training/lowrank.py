"""LoRA inside our text tower: y = W x + b + s B A x, without ever forming W + s B A or a gradient of W's size.

peft's layer for fused attention merges the adapters into the weights at every forward pass, whose backward pass then
computes the whole gradient of W (as many operations as the forward pass) and reduces it to those of A and B. Here the
adapter stays a product of two thin matrices, added in place to the output and to the gradient of the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...errors import PrescriptionError
from ...patching.towers.layers import FusedQKV, Linear
from ..apply.adapters import LowRank


class AdaptedLinear(Linear):
    """A linear layer of the tower with its adapters."""

    adapters: Sequence[LowRank]

    def forward(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        return adapted_linear(x, self.weight, self.bias, self.adapters)


class AdaptedQKV(FusedQKV):
    """The stacked weight of queries, keys and values with its adapters."""

    adapters: Sequence[LowRank]

    def forward(self, x: Float[Tensor, "*rows d"], queries: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        if queries is None:
            q, k, v = adapted_linear(x, self.weight, self.bias, self.adapters).chunk(3, dim=-1)
            return q, k, v
        d = x.shape[-1]
        k, v = self._part(x, slice(d, None)).chunk(2, dim=-1)
        return self._part(x[queries], slice(d)), k, v

    def _part(self, x: Float[Tensor, "*rows d"], out: slice) -> Float[Tensor, "*rows d_part"]:
        adapters = [LowRank(adapter.a, adapter.b[out], adapter.scale) for adapter in self.adapters]
        return adapted_linear(x, self.weight[out], None if self.bias is None else self.bias[out], adapters)


def adapted_linear(
    x: Float[Tensor, "*rows d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None,
    adapters: Sequence[LowRank],
) -> Float[Tensor, "*rows d_out"]:
    """``x (W + sum s B A)ᵀ + bias``, with gradients to x, A and B; W and the bias are frozen.

    >>> x, w, a, b = torch.eye(2), torch.zeros(2, 2), torch.ones(1, 2), torch.tensor([[1.0], [2.0]])
    >>> adapted_linear(x, w, None, [LowRank(a, b, 0.5)])
    tensor([[0.5000, 1.0000],
            [0.5000, 1.0000]])
    """
    if not adapters:
        return F.linear(x, weight, bias)
    if len(adapters) == 1:
        a, b, scale = adapters[0].a, adapters[0].b, adapters[0].scale
    else:  # side by side they are one adapter of the summed rank
        a = torch.cat([adapter.a for adapter in adapters])
        b, scale = torch.cat([adapter.scale * adapter.b for adapter in adapters], dim=1), 1.0
    kind = x.device.type
    if torch.is_autocast_enabled(kind):  # which sees no operation inside a function of our own
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    # a tower in half precision computes in it; the adapters and their gradients stay in their own
    flat: Tensor = _AdaptedLinear.apply(x.flatten(0, -2), weight, bias, a.to(x.dtype), b.to(x.dtype), scale)
    return flat.unflatten(0, x.shape[:-1])


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        thin = x @ a.T  # [rows, r]
        ctx.save_for_backward(x, weight, a, b, thin)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(thin, b.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, thin = ctx.saved_tensors
        need_x, _, _, need_a, need_b, _ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = None
        # the order of the factors matters: BLAS takes four to nine times longer for the same thin products otherwise
        if need_x or need_a:
            grad_thin = F.linear(grad, b.T.contiguous()).mul_(ctx.scale)
            if need_x:
                grad_x = (grad @ weight).addmm_(grad_thin, a)
            if need_a:
                grad_a = grad_thin.T @ x
        if need_b:
            grad_b = (thin.T @ grad).mul_(ctx.scale).T
        return grad_x, None, None, grad_a, grad_b, None


def install(tower: nn.Module, adapters: Mapping[str, Sequence[LowRank]]) -> None:
    """Put adapters into the layers of ``tower`` (in place), by the tower's own parameter names.

    An adapter that is frozen at zero is left out. Raises PrescriptionError for a weight whose layer cannot be adapted.
    """
    for name, found in adapters.items():
        layer = tower.get_submodule(name.rpartition(".")[0])
        kind = {Linear: AdaptedLinear, nn.Linear: AdaptedLinear, FusedQKV: AdaptedQKV}.get(type(layer))
        if kind is None:
            raise PrescriptionError(
                f"{name} belongs to a {type(layer).__name__}, which cannot be adapted; target the linear layers of the "
                "text blocks (tracescribe.patching.lora_targets)"
            )
        active = [adapter for adapter in found if adapter.trained or bool(adapter.b.any())]
        if active:
            layer.__class__ = kind
            layer.adapters = active  # type: ignore[assignment]


def trained_blocks(tower: nn.Module) -> list[bool]:
    """For each block of a tower with adapters, whether training can change it."""
    return [
        any(adapter.trained for layer in block.modules() for adapter in getattr(layer, "adapters", ()))
        for block in tower.blocks  # type: ignore[union-attr]
    ]

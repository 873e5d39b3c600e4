"""Measures the loss's gradient by text block on a few batches: what Auto-RGN and Fisher selection go by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float

from ...arguments import explains_arguments
from ...errors import NonFiniteError, PrescriptionError
from ...io.quoting import shown
from ...tracer.results.read_only import ReadOnlyArrays
from ...validation import is_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...patching import DualEncoder

B = TypeVar("B")


@dataclass(frozen=True, eq=False)
class BlockGradients(ReadOnlyArrays):
    """Gradients of a loss by batch and text block 1..L, over all weights of the block.

    relative: ||g|| / ||theta|| of each batch (Auto-RGN, Lee et al. 2023, "Surgical fine-tuning", arXiv 2210.11466).
    fisher: mean of g squared over the block's weights, of each batch: the diagonal of the empirical Fisher information
        where a batch is one example, and smaller by cancelling within a batch where it is not.
    """

    relative: Float[np.ndarray, "batch block"]
    fisher: Float[np.ndarray, "batch block"]
    provenance: dict[str, Any] = field(default_factory=dict)


@explains_arguments
def block_gradients(
    module: nn.Module | DualEncoder, loss: Callable[[B], Tensor], batches: Iterable[B], *, max_batches: int = 5
) -> BlockGradients:
    """Gradients of ``loss(batch)`` by text block, over the first ``max_batches`` batches; nothing is changed.

    module: a DualEncoder, or a source module, peft-wrapped or not; the gradient is that of the blocks' weights
        themselves, whether they are trained or frozen, not of adapters.
    loss: computes a scalar through ``module`` for one batch.
    max_batches: 5 as in Lee et al. 2023.

    Raises PrescriptionError when there is no batch, the loss does not depend on the text blocks or blocks share
    parameters, NonFiniteError for a loss or gradient that is not finite.
    """
    import torch

    from ...patching import text_blocks
    from .blocks import refuse_shared_parameters, source_of

    if not is_whole(max_batches, least=1):
        raise PrescriptionError(f"max_batches must be a whole number of at least 1, not {shown(max_batches)}")
    modules = text_blocks(source_of(module))
    refuse_shared_parameters(modules)
    blocks = [
        [p for name, p in block.named_parameters() if ".lora_" not in name and p.is_floating_point()]
        for block in modules
    ]
    flat = [parameter for block in blocks for parameter in block]
    wanted = [parameter.requires_grad for parameter in flat]
    norms = np.array([_norm(block) for block in blocks])
    sizes = np.array([sum(parameter.numel() for parameter in block) for block in blocks])
    squares = []
    try:
        for parameter in flat:
            parameter.requires_grad_(True)
        for number, batch in enumerate(batches, start=1):
            with torch.enable_grad():
                value = loss(batch)
                if not isinstance(value, torch.Tensor) or value.ndim != 0 or not value.requires_grad:
                    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
                    without = "" if getattr(value, "requires_grad", False) else " without a gradient"
                    raise PrescriptionError(
                        "the loss must be a scalar tensor that depends on the text blocks' weights; it is a "
                        f"{type(value).__name__}{shape}{without}"
                    )
                found = torch.autograd.grad(value, flat, allow_unused=True)
            if all(gradient is None for gradient in found):
                raise PrescriptionError("the loss does not depend on the text blocks' weights")
            gradients = iter(found)
            squares.append([sum(_square(next(gradients)) for _ in block) for block in blocks])
            if not np.isfinite([value.item(), *squares[-1]]).all():
                raise NonFiniteError(f"the loss of batch {number} is {value.item():g}, or its gradient is not finite")
            if number == max_batches:
                break
    finally:
        for parameter, want in zip(flat, wanted, strict=True):
            parameter.requires_grad_(want)
    if not squares:
        raise PrescriptionError("there is no batch to measure gradients on")
    square = np.asarray(squares, dtype=np.float64)  # [batch, block]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(norms > 0, np.sqrt(square) / norms, 0.0)
    return BlockGradients(relative, square / sizes)


def _square(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.double().square().sum())


def _norm(parameters: list[Any]) -> float:
    return float(sum(float(parameter.detach().double().square().sum()) for parameter in parameters)) ** 0.5

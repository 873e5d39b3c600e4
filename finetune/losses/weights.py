"""Means over the records of a batch, which count by their weights."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def weighted_mean(values: Float[Tensor, " n"], weight: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
    """sum_i w_i x_i / sum_i w_i; the ordinary mean without weights.

    >>> import torch
    >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])).item()
    2.0
    """
    return values.mean() if weight is None else (weight * values).sum() / weight.sum()


def cross_entropy(
    logits: Float[Tensor, "n m"], target: Tensor, weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """torch's, of classes by number or by probabilities, as the mean over rows by their weights."""
    if weight is None:
        return F.cross_entropy(logits, target)
    return weighted_mean(F.cross_entropy(logits, target, reduction="none"), weight)

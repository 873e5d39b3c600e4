"""InfoNCE in one direction, with negatives beside the batch and several right answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .weights import cross_entropy


def info_nce(
    logits: Float[Tensor, "n m"], ids: Int[Tensor, " n"] | None = None, weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """Mean cross entropy of n rows, of which row i is right in column i; columns after the n-th are negatives.

    ids: rows of equal number are right in each other's columns too; of their log-likelihoods the mean is taken
    (Supervised Contrastive Learning, arXiv 2004.11362, L_out). weight: of each row. 0 where there is no row.

    >>> round(info_nce(torch.tensor([[1.0, 0.0, 0.0]])).item(), 4)  # log(1 + 2/e)
    0.5514
    """
    n, m = logits.shape
    if n == 0:  # for instance no hard image in this batch
        return 0 * logits.sum()
    if ids is None:
        return cross_entropy(logits, torch.arange(n, device=logits.device), weight)
    right = (ids[:, None] == ids).to(logits)
    return cross_entropy(logits, F.pad(right / right.sum(dim=1, keepdim=True), (0, m - n)), weight)

"""InfoNCE in one direction, with negatives beside the batch and several right answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .weights import cross_entropy, weighted_mean


def info_nce(
    logits: Float[Tensor, "n m"], ids: Int[Tensor, " n"] | None = None, weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """Mean cross entropy of n rows, of which row i is right in column i; columns after the n-th are negatives.

    ids: rows of equal number are right in each other's columns too. Each right column j is scored against the wrong
    ones alone, -log exp(l_ij) / (exp(l_ij) + sum over wrong k of exp(l_ik)), and the mean over them is taken. (Their
    mean log-likelihood among all columns, L_out of Supervised Contrastive Learning, arXiv 2004.11362, is the ordinary
    loss where rows of equal number are equal.) weight: of each row. 0 where there is no row.

    >>> round(info_nce(torch.tensor([[1.0, 0.0, 0.0]])).item(), 4)  # log(1 + 2/e)
    0.5514
    >>> round(info_nce(torch.tensor([[1.0, 1.0, 0.0]] * 2), torch.tensor([5, 5])).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    n, m = logits.shape
    if n == 0:  # for instance no hard image in this batch
        return 0 * logits.sum()
    if ids is None:
        return cross_entropy(logits, torch.arange(n, device=logits.device), weight)
    right = F.pad(ids[:, None] == ids, (0, m - n))
    lowest = torch.finfo(logits.dtype).min  # not -inf, whose gradient is NaN where nothing is wrong
    wrong = logits.masked_fill(right, lowest).logsumexp(dim=1, keepdim=True)
    surprise = torch.where(right, torch.logaddexp(logits, wrong) - logits, 0)
    return weighted_mean(surprise.sum(dim=1) / right.sum(dim=1), weight)


def symmetric_info_nce(
    logits: Float[Tensor, "n m"], ids: Int[Tensor, " n"] | None = None, weight: Float[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """The mean of :func:`info_nce` over rows, and over the first n columns, which have no negatives beside the batch.

    >>> round(symmetric_info_nce(torch.tensor([[1.0, 0.0, 0.0]])).item(), 4)  # log(1 + 2/e) / 2
    0.2757
    """
    n = len(logits)
    return (info_nce(logits, ids, weight) + info_nce(logits[:, :n].T, ids, weight)) / 2

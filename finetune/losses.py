"""The losses of NAST: tensors in, a scalar out; no model and no trainer is needed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..contrastive import clip_loss as clip_loss  # which benchmark's pretraining uses too


def claim_loss(
    images: Float[Tensor, "set embed"],
    claims: Float[Tensor, "set claim embed"],
    label: Int[Tensor, " set"],
    scale: float | Tensor,
    present: Bool[Tensor, "set claim"] | None = None,
) -> Float[Tensor, ""]:
    """L_claim = -(1/M) sum_i log softmax_j(l_ij)[c_i] over M contrast sets of one correct claim and hard negatives.

    images, claims: L2-normalised embeddings; label: c_i, the position of the correct claim in set i; scale:
    exp(logit_scale); present: which places of a set hold a claim, for sets of different sizes.
    Source: NAST (arXiv 2602.12498), where it is printed without the minus sign; it is a cross entropy.

    >>> image, claims = torch.eye(2)[:1], torch.eye(2)[None]
    >>> round(claim_loss(image, claims, torch.tensor([0]), scale=1.0).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    logits = scale * torch.einsum("se,sce->sc", images, claims)
    if present is not None:
        logits = logits.masked_fill(~present, float("-inf"))
    return F.cross_entropy(logits, label)


def multi_positive_clip_loss(
    images: Float[Tensor, "n embed"],
    texts: Float[Tensor, "n embed"],
    scale: float | Tensor,
    same: Bool[Tensor, "n n"],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in which caption j is right for image i wherever ``same[i, j]``: repeats are no negatives.

    Of a row with k right answers the mean of their k log-likelihoods is taken (Supervised Contrastive Learning, arXiv
    2004.11362, L_out; UniCL, arXiv 2204.03610). Where ``same`` is the identity this is :func:`clip_loss`.

    >>> same = torch.ones(2, 2, dtype=torch.bool)  # one caption twice
    >>> round(multi_positive_clip_loss(torch.eye(2), torch.ones(2, 2) / 2**0.5, 1.0, same).item(), 4)  # log 2
    0.6931
    """
    logits = scale * images @ texts.T  # [image, text]
    right = same.to(logits)
    target, back = right / right.sum(dim=1, keepdim=True), right.T / right.sum(dim=0)[:, None]
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, back)) / 2


def nast_loss(clip: Float[Tensor, ""], claim: Float[Tensor, ""], lambda_: float = 0.5) -> Float[Tensor, ""]:
    """L_total = lambda L_CLIP + (1 - lambda) L_claim (NAST, arXiv 2602.12498; lambda is not published).

    >>> nast_loss(torch.tensor(2.0), torch.tensor(4.0), lambda_=0.25).item()
    3.5
    """
    return lambda_ * clip + (1 - lambda_) * claim

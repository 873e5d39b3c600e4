"""CLIP's contrastive loss, also where captions repeat."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ...contrastive import clip_loss as clip_loss  # which benchmark's pretraining uses too
from .batch import LossBatch
from .info_nce import info_nce


def batch_clip_loss(batch: LossBatch, scale: float | Tensor) -> Float[Tensor, ""]:
    """L_CLIP of images and captions: :func:`clip_loss`, or :func:`multi_positive_clip_loss` where there are ids.

    >>> import torch
    >>> batch_clip_loss(LossBatch(images=torch.eye(2), captions=torch.eye(2)), 100.0).item()
    0.0
    """
    if batch.weight is not None:
        logits = scale * batch.images @ batch.captions.T
        by_image, by_text = (info_nce(part, batch.caption_ids, batch.weight) for part in (logits, logits.T))
        return (by_image + by_text) / 2
    if batch.caption_ids is None:
        return clip_loss(batch.images, batch.captions, scale)
    same = batch.caption_ids[:, None] == batch.caption_ids
    return multi_positive_clip_loss(batch.images, batch.captions, scale, same)


def multi_positive_clip_loss(
    images: Float[Tensor, "n embed"],
    texts: Float[Tensor, "n embed"],
    scale: float | Tensor,
    same: Bool[Tensor, "n n"],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in which caption j is right for image i wherever ``same[i, j]``: repeats are no negatives.

    Of a row with k right answers the mean of their k log-likelihoods is taken (Supervised Contrastive Learning, arXiv
    2004.11362, L_out; UniCL, arXiv 2204.03610). Where ``same`` is the identity this is :func:`clip_loss`.

    >>> import torch
    >>> same = torch.ones(2, 2, dtype=torch.bool)  # one caption twice
    >>> round(multi_positive_clip_loss(torch.eye(2), torch.ones(2, 2) / 2**0.5, 1.0, same).item(), 4)  # log 2
    0.6931
    """
    logits = scale * images @ texts.T  # [image, text]
    right = same.to(logits)
    target, back = right / right.sum(dim=1, keepdim=True), right.T / right.sum(dim=0)[:, None]
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, back)) / 2

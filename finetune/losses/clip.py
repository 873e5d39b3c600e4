"""CLIP's contrastive loss, also where captions repeat."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from ...contrastive import clip_loss as clip_loss  # which benchmark's pretraining uses too
from .batch import LossBatch
from .info_nce import symmetric_info_nce


def batch_clip_loss(batch: LossBatch, scale: float | Tensor) -> Float[Tensor, ""]:
    """L_CLIP of images and captions: :func:`clip_loss`, or :func:`multi_positive_clip_loss` where there are ids.

    >>> import torch
    >>> batch_clip_loss(LossBatch(images=torch.eye(2), captions=torch.eye(2)), 100.0).item()
    0.0
    """
    if batch.weight is None and batch.caption_ids is None:
        return clip_loss(batch.images, batch.captions, scale)
    return symmetric_info_nce(scale * batch.images @ batch.captions.T, batch.caption_ids, batch.weight)


def multi_positive_clip_loss(
    images: Float[Tensor, "n embed"],
    texts: Float[Tensor, "n embed"],
    scale: float | Tensor,
    ids: Int[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in which captions of equal number are right for each other's images, and no negatives.

    See :func:`info_nce`. Where all numbers differ this is :func:`clip_loss`.

    >>> import torch
    >>> ids = torch.zeros(2, dtype=torch.long)  # one caption twice: nothing is wrong
    >>> multi_positive_clip_loss(torch.eye(2), torch.ones(2, 2) / 2**0.5, 1.0, ids).item()
    0.0
    """
    return symmetric_info_nce(scale * images @ texts.T, ids)

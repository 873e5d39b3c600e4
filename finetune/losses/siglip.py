"""SigLIP: a sigmoid for every image and caption, in place of a softmax over the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .batch import LossBatch
from .weights import weighted_mean


def siglip_loss(batch: LossBatch, scale: float | Tensor, bias: float = -10.0) -> Float[Tensor, ""]:
    """-1/n sum_ij log sigmoid(z_ij (s I_i T_j + b)); z is 1 where caption j is right for image i, else -1.

    bias: b, which SigLIP learns, from -10; scale and bias stay fixed here, so that a model that was trained with
    another loss needs a bias near the scores of its true pairs.
    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv 2303.15343, equation 1).

    >>> import torch
    >>> batch = LossBatch(images=torch.eye(2), captions=torch.eye(2))
    >>> round(siglip_loss(batch, scale=2.0, bias=-1.0).item(), 4)  # log(1 + 1/e) for each of two scores of an image
    0.6265
    """
    logits = scale * batch.images @ batch.captions.T + bias
    if batch.caption_ids is None:
        right = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    else:
        right = batch.caption_ids[:, None] == batch.caption_ids
    scores = -F.logsigmoid(torch.where(right, logits, -logits))  # [image, text]
    if batch.weight is None:
        return scores.sum() / len(logits)
    # half of a score is the image's, half the caption's
    return (weighted_mean(scores.sum(dim=1), batch.weight) + weighted_mean(scores.sum(dim=0), batch.weight)) / 2

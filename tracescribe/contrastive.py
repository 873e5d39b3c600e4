"""The contrastive loss of CLIP, for pretraining and fine-tuning alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def clip_loss(
    images: Float[Tensor, "n embed"], texts: Float[Tensor, "n embed"], scale: float | Tensor
) -> Float[Tensor, ""]:
    """L_CLIP: symmetric InfoNCE over a batch in which image i and text i belong together.

    images, texts: L2-normalised embeddings; scale: exp(logit_scale), which multiplies the cosines.
    Source: CLIP (arXiv 2103.00020, figure 3); NAST (arXiv 2602.12498) applies it to captions with explicit negation.

    >>> clip_loss(torch.eye(2), torch.eye(2), scale=100.0).item()
    0.0
    """
    logits = scale * images @ texts.T  # [image, text]
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

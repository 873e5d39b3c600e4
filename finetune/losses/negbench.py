"""NegBench: CLIP's loss and multiple choice."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .batch import LossBatch
from .nast import clip_and_claim, nast_loss


def negbench_loss(batch: LossBatch, scale: float | Tensor, a: float = 0.99) -> Float[Tensor, ""]:
    """a L_CLIP + (1 - a) L_MCQ; L_MCQ is the cross entropy of an image over its options, of which one is true.

    Source: Alhamoud et al., "Vision-Language Models Do Not Understand Negation" (arXiv 2501.09425, section 5), with
    four options and a = 0.99. The options are the contrast sets of the batch, of any size: the formula is that of NAST
    with lambda = a.

    >>> import torch
    >>> images = torch.eye(2)
    >>> sets = {"claim_images": images[:1], "claims": images[None], "label": torch.tensor([1])}
    >>> batch = LossBatch(images=images, captions=images, **sets)
    >>> round(negbench_loss(batch, scale=1.0, a=0.5).item(), 4)  # (log(1 + 1/e) + log(1 + e)) / 2
    0.8133
    """
    return nast_loss(*clip_and_claim(batch, scale, "negbench"), a)

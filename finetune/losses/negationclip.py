"""NegationCLIP: CLIP's loss on captions that include a negation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .batch import LossBatch
from .clip import batch_clip_loss


def negationclip_loss(batch: LossBatch, scale: float | Tensor) -> Float[Tensor, ""]:
    """L_CLIP of the captions of a batch that include a negation (``negated``); the others are left out.

    Source: Park et al., "Know No Better" (arXiv 2501.10913, section 4), whose method is the data: every caption is
    rewritten to one with a negation. 0 for a batch that has none.

    >>> import torch
    >>> batch = LossBatch(images=torch.eye(3), captions=torch.eye(3), negated=torch.tensor([True, False, True]))
    >>> round(negationclip_loss(batch, scale=1.0).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    rows = batch.need("negated", "negationclip")
    if not rows.any():
        return 0 * batch.captions.sum()
    return batch_clip_loss(batch.pairs(rows), scale)

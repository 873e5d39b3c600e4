"""CoN-CLIP: negated captions, and distractor images of which they are true."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .batch import LossBatch
from .info_nce import info_nce


def conclip_loss(batch: LossBatch, scale: float | Tensor) -> Float[Tensor, ""]:
    """1/3 [CE(s I [T; T-]^T) + CE(s T [I; I']^T) + CE(s I' [T-; T]^T)].

    T-: negated captions, false of I (``hard_captions``); I': distractor images, to which T- belong (``hard_images``).
    Source: Singh et al., "Learn No to Say Yes Better" (arXiv 2403.20312, section 4; the released loss_functions.py).
    There each image has one distractor; here there may be any number of them. T- has no term of its own from text to
    image, as there.

    >>> image, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> batch = LossBatch(images=image, captions=image, hard_images=other, hard_captions=other)
    >>> round(conclip_loss(batch, scale=1.0).item(), 4)  # each of the three is log(1 + 1/e)
    0.3133
    """
    distractors, negated = (batch.need(name, "conclip") for name in ("hard_images", "hard_captions"))
    texts, images = torch.cat([batch.captions, negated]), torch.cat([batch.images, distractors])
    terms = (
        info_nce(scale * batch.images @ texts.T, batch.caption_ids, batch.weight),
        info_nce(scale * batch.captions @ images.T, batch.caption_ids, batch.weight),
        info_nce(
            scale * distractors @ torch.cat([negated, batch.captions]).T, batch.hard_caption_ids, batch.hard_weight
        ),
    )
    return (terms[0] + terms[1] + terms[2]) / 3

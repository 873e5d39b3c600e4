"""NegCLIP: hard negative captions and hard images in CLIP's loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .batch import LossBatch, flat_negatives
from .info_nce import symmetric_info_nce


def negclip_loss(batch: LossBatch, scale: float | Tensor) -> Float[Tensor, ""]:
    """1/2 [CE(s I T_all^T) + CE(s T I^T)], T_all = [T; T-]: hard negative captions are negatives of every image.

    Source: Yuksekgonul et al., "When and why vision-language models behave like bags-of-words" (arXiv 2210.01936,
    section 4). With hard images the images are [I; I_hard] and the captions [T; T_hard; T-; T_hard-], 2N and 4N of
    them in the paper, where each image has one negative caption. Here it may have any number, and all enter; an image
    without one is an image of CLIP's loss.

    >>> image, caption = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> batch = LossBatch(images=image, captions=caption, negatives=torch.tensor([[[0.0, 1.0]]]))
    >>> round(negclip_loss(batch, scale=1.0).item(), 4)  # log(1 + 1/e) / 2: only the image has a wrong answer
    0.1566
    """
    images, captions = [batch.images], [batch.captions]
    ids = [] if batch.caption_ids is None else [batch.caption_ids]
    weights = [] if batch.weight is None else [batch.weight]
    negatives = flat_negatives(batch.need("negatives", "negclip"), batch.negative_present)
    if batch.hard_images is not None:
        images.append(batch.hard_images)
        captions.append(batch.need("hard_captions", "negclip"))
        if batch.caption_ids is not None:
            ids.append(batch.need("hard_caption_ids", "negclip"))
        if batch.weight is not None:
            weights.append(batch.need("hard_weight", "negclip"))
        negatives += flat_negatives(batch.hard_negatives, batch.hard_negative_present)
    numbers, weight = (torch.cat(parts) if parts else None for parts in (ids, weights))
    logits = scale * torch.cat(images) @ torch.cat([*captions, *negatives]).T
    return symmetric_info_nce(logits, numbers, weight)

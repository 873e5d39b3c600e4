"""Omni-NegCLIP: negations of what is there, and of what is not."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .batch import LossBatch, flat_negatives
from .clip import batch_clip_loss
from .degla import own_negatives_loss
from .info_nce import info_nce
from .weights import weighted_mean

MARGIN = 0.9


def omninegclip_loss(batch: LossBatch, scale: float | Tensor) -> Float[Tensor, ""]:
    """L_presence + L_absence.

    L_presence = 1/3 [CE(s I [T; T-]^T) + CE(s T I^T) + CE(s [I T, I T-])], of the images that have hard negatives: T-
    denies what is there. L_absence = L_CLIP(captions) + L_CLIP(originals) + mean relu(cos(original, caption) + 0.9), of
    the images whose caption is known with and without its negations: both are true, and differ in meaning.
    Source: Xu, "Omni-NegCLIP" (arXiv 2603.29258, section 3), where only the first blocks of the text tower are trained
    (a plan by="front", or lora_mode "mask"). Where an image has several negatives all enter, also in the third term.

    >>> import torch
    >>> image, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> batch = LossBatch(images=image, captions=image, negatives=other[None], originals=other)
    >>> round(omninegclip_loss(batch, scale=1.0).item(), 4)  # 2/3 log(1 + 1/e), and 0.9 of two captions at 90 degrees
    1.1088
    """
    negatives, originals = (batch.need(name, "omninegclip") for name in ("negatives", "originals"))
    return _presence(batch, negatives, scale) + _absence(batch, originals, scale)


def _presence(batch: LossBatch, negatives: Tensor, scale: float | Tensor) -> Float[Tensor, ""]:
    present = batch.negative_present
    rows = slice(None) if present is None else present.any(dim=1)
    some = batch.pairs(rows)
    logits = scale * some.images @ torch.cat([some.captions, *flat_negatives(negatives, present)]).T
    by_image = info_nce(logits, some.caption_ids, some.weight)
    by_text = info_nce(logits[:, : len(logits)].T, some.caption_ids, some.weight)
    by_pair = own_negatives_loss(scale * batch.images, batch.captions, negatives, present, batch.weight)
    return (by_image + by_text + by_pair) / 3


def _absence(batch: LossBatch, originals: Tensor, scale: float | Tensor) -> Float[Tensor, ""]:
    there = batch.original_present
    if there is not None and not there.any():
        return 0 * originals.sum()
    rows = slice(None) if there is None else there
    some = batch.pairs(rows)
    both = [batch_clip_loss(replace(some, captions=texts), scale) for texts in (some.captions, originals[rows])]
    cosine = (some.captions * originals[rows]).sum(dim=1)
    return both[0] + both[1] + weighted_mean(F.relu(cosine + MARGIN), some.weight)

"""DeGLA: hard negatives contrasted per image and per caption, held near a slowly moving teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .batch import LossBatch, flat_negatives
from .info_nce import symmetric_info_nce
from .weights import cross_entropy, weighted_mean

TEXT_SCALE = 10.0  # of TGC, fixed in the released code


def degla_loss(
    batch: LossBatch, scale: float | Tensor, igc: float = 0.1, tgc: float = 0.1, distill: float = 0.005
) -> Float[Tensor, ""]:
    """1/2 [CE(s I T_all^T) + CE(s T I^T)] + igc L_IGC + tgc L_TGC + distill L_distill, T_all = [T; T-].

    L_IGC: cross entropy of each image over its caption and its hard negatives. L_TGC: of each caption over the
    teacher's embedding of it and its hard negatives, at scale 10. L_distill: the sum of squared differences of all
    texts from the teacher's; images are frozen here and have none. The teacher is an exponential moving average of
    what is trained.
    Source: Hu et al., "Decoupled Global-Local Alignment" (arXiv 2504.16801, section 3; the released loss.py, with four
    negatives for each caption). The released mask of L_TGC takes negatives of other captions where there are several;
    the paper's are those of the caption, as here. A caption without a negative has no part in L_IGC and L_TGC.

    >>> import torch
    >>> image, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]]])
    >>> batch = LossBatch(
    ...     images=image, captions=image, negatives=other, teacher_captions=image, teacher_negatives=other
    ... )
    >>> round(degla_loss(batch, scale=1.0, igc=1.0, tgc=0.0).item(), 4)  # 3/2 log(1 + 1/e)
    0.4699
    """
    negatives, teacher, of_negatives = (
        batch.need(name, "degla") for name in ("negatives", "teacher_captions", "teacher_negatives")
    )
    present = batch.negative_present
    flat = torch.cat(flat_negatives(negatives, present))
    logits = scale * batch.images @ torch.cat([batch.captions, flat]).T
    n, ids, weight = len(logits), batch.caption_ids, batch.weight
    contrast = symmetric_info_nce(logits, ids, weight)
    moved = (batch.captions - teacher).square()
    if weight is None:
        distance = moved.sum() + (flat - torch.cat(flat_negatives(of_negatives, present))).square().sum()
    else:
        further = (negatives - of_negatives).square().sum(dim=2)
        further = further if present is None else further.masked_fill(~present, 0)
        distance = n * weighted_mean(moved.sum(dim=1) + further.sum(dim=1), weight)
    by_image = own_negatives_loss(scale * batch.images, batch.captions, negatives, present, weight)
    by_text = own_negatives_loss(TEXT_SCALE * batch.captions, teacher, negatives, present, weight)
    return contrast + igc * by_image + tgc * by_text + distill * distance


def own_negatives_loss(
    anchors: Float[Tensor, "n embed"],
    right: Float[Tensor, "n embed"],
    negatives: Float[Tensor, "n k embed"],
    present: Bool[Tensor, "n k"] | None = None,
    weight: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross entropy of each anchor over its right answer and its hard negatives; 0 where none has a negative.

    weight: of each anchor in the mean.

    >>> import torch
    >>> one = torch.tensor([[1.0, 0.0]])
    >>> round(own_negatives_loss(one, one, torch.tensor([[[0.0, 1.0]]])).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    logits = torch.einsum("ne,nce->nc", anchors, torch.cat([right[:, None], negatives], dim=1))
    if present is not None:
        rows = present.any(dim=1)
        logits = logits.masked_fill(F.pad(~present, (1, 0)), float("-inf"))[rows]
        weight = None if weight is None else weight[rows]
    if not logits.numel():
        return 0 * right.sum()
    return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device), weight)

"""TNG-CLIP: three captions of each image, and labels of noise in the other direction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .batch import LossBatch
from .info_nce import info_nce
from .weights import cross_entropy


def tngclip_loss(batch: LossBatch, scale: float | Tensor, temperature: float = 0.07) -> Float[Tensor, ""]:
    """1/2 [CE(I T_3^T / tau, random label) + CE(T_3 I^T / tau)], T_3: three captions of each image, all true of it.

    The three are a caption without negation (``originals``), one with what is there and what is not (``captions``), and
    one of what is not there (``negations``); images that lack one are left out. tau is fixed: ``scale`` is not read.
    Source: Cai et al., "TNG-CLIP" (arXiv 2505.18434, section 3; the released TNGCLIP.py). There, as here, the labels
    from image to text are noise, drawn without replacement from all 3 n captions of the batch (``noise``, a permutation
    of 0..3n - 1); an image's own captions are not preferred.

    >>> import torch
    >>> image = torch.tensor([[1.0, 0.0]])
    >>> batch = LossBatch(
    ...     images=image, captions=image, originals=image, negations=torch.tensor([[0.0, 1.0]]), noise=torch.arange(3)
    ... )  # the label of the only image is its negation-free caption; captions have no other image
    >>> round(tngclip_loss(batch, 1.0, temperature=1.0).item(), 4)  # log(2 + 1/e) / 2
    0.431
    """
    originals, negations, noise = (batch.need(name, "tngclip") for name in ("originals", "negations", "noise"))
    there = torch.ones(len(batch.images), dtype=torch.bool, device=batch.images.device)
    for present in (batch.original_present, batch.negation_present):
        there = there if present is None else there & present
    images, n = batch.images[there], int(there.sum())
    if n == 0:
        return 0 * batch.captions.sum()
    texts = [part[there] for part in (originals, batch.captions, negations)]
    logits = torch.cat(texts) @ images.T / temperature  # [text, image]
    ids, weight = (None if part is None else part[there] for part in (batch.caption_ids, batch.weight))
    by_text = [info_nce(part, same, weight) for part, same in zip(logits.split(n), (ids, ids, None), strict=True)]
    by_image = cross_entropy(logits.T, noise[noise < 3 * n][:n], weight)
    return (by_image + (by_text[0] + by_text[1] + by_text[2]) / 3) / 2

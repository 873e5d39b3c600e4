"""The losses of NAST: claims ranked beside CLIP's loss on captions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .batch import LossBatch
from .clip import batch_clip_loss
from .weights import cross_entropy


def claim_loss(
    images: Float[Tensor, "set embed"],
    claims: Float[Tensor, "set claim embed"],
    label: Int[Tensor, " set"],
    scale: float | Tensor,
    present: Bool[Tensor, "set claim"] | None = None,
    weight: Float[Tensor, " set"] | None = None,
) -> Float[Tensor, ""]:
    """L_claim = -(1/M) sum_i log softmax_j(l_ij)[c_i] over M contrast sets of one correct claim and hard negatives.

    images, claims: L2-normalised embeddings; label: c_i, the position of the correct claim in set i; scale:
    exp(logit_scale); present: which places of a set hold a claim, for sets of different sizes; weight: of each set in
    the mean.
    Source: NAST (arXiv 2602.12498), where it is printed without the minus sign; it is a cross entropy.

    >>> image, claims = torch.eye(2)[:1], torch.eye(2)[None]
    >>> round(claim_loss(image, claims, torch.tensor([0]), scale=1.0).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    logits = scale * torch.einsum("se,sce->sc", images, claims)
    if present is not None:
        logits = logits.masked_fill(~present, float("-inf"))
    return cross_entropy(logits, label, weight)


def nast_loss(clip: Float[Tensor, ""], claim: Float[Tensor, ""], lambda_: float = 0.5) -> Float[Tensor, ""]:
    """L_total = lambda L_CLIP + (1 - lambda) L_claim (NAST, arXiv 2602.12498; lambda is not published).

    >>> nast_loss(torch.tensor(2.0), torch.tensor(4.0), lambda_=0.25).item()
    3.5
    """
    return lambda_ * clip + (1 - lambda_) * claim


def batch_claim_loss(batch: LossBatch, scale: float | Tensor, loss: str) -> Float[Tensor, ""]:
    """L_claim of a batch's contrast sets, for the loss of that name. Raises DataFormatError where it has none."""
    claims, images, label = (batch.need(name, loss) for name in ("claims", "claim_images", "label"))
    return claim_loss(images, claims, label, scale, batch.present, batch.claim_weight)


def clip_and_claim(batch: LossBatch, scale: float | Tensor, loss: str) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """L_CLIP and L_claim of a batch, which some losses are a mean of."""
    return batch_clip_loss(batch, scale), batch_claim_loss(batch, scale, loss)


def batch_nast_loss(batch: LossBatch, scale: float | Tensor, lambda_: float = 0.5) -> Float[Tensor, ""]:
    """:func:`nast_loss` of a batch.

    >>> images = torch.eye(2)
    >>> sets = {"claim_images": images[:1], "claims": images[None], "label": torch.tensor([0])}
    >>> batch = LossBatch(images=images, captions=images, **sets)
    >>> round(batch_nast_loss(batch, scale=1.0).item(), 4)  # both parts are log(1 + 1/e)
    0.3133
    """
    return nast_loss(*clip_and_claim(batch, scale, "nast"), lambda_)

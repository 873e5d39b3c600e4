"""The texts of a batch embedded, as the loss needs them; each distinct text is run once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import DataFormatError
from ..losses.batch import LossBatch
from .accelerating import Embed
from .config import TrainConfig
from .data import Batch, ContrastSets, TrainingData

PAIRED = frozenset({"negatives", "hard_images"})


def embedded(embed: Embed, batch: Batch, needs: Collection[str], repeats: str = "negatives") -> LossBatch:
    """What a loss with such ``needs`` (losses/options.py) is computed from.

    For a loss that needs hard negatives or hard images every contrast set is an image-caption pair beside those of the
    captions file: its true claim, with the false ones as hard negatives. repeats: see TrainConfig.
    """
    paired = not PAIRED.isdisjoint(needs)
    sets = [part for part in (batch.sets if paired or "claims" in needs else None, batch.hard) if part is not None]
    numbers = [batch.caption, *(part.claims.flatten() for part in sets)]
    wanted, place = torch.unique(torch.cat(numbers), return_inverse=True)
    captions, *claims = embed(wanted)[place].split([len(part) for part in numbers])
    ids = batch.caption if repeats == "positives" else None
    if paired:
        texts = [found.unflatten(0, part.claims.shape) for found, part in zip(claims, sets, strict=True)]
        return _paired(batch, captions, ids, [_Pairs.of(*each) for each in zip(sets, texts, strict=True)])
    if not sets:
        return LossBatch(images=batch.caption_image, captions=captions, caption_ids=ids)
    return LossBatch(
        images=batch.caption_image,
        captions=captions,
        caption_ids=ids,
        claim_images=batch.claim_image,
        claims=claims[0].unflatten(0, batch.claims.shape),
        label=batch.label,
        present=batch.present,
    )


def check_data(config: TrainConfig, data: TrainingData) -> None:
    """Raises DataFormatError when the data lack what the loss needs."""
    if "hard_images" in config.loss.needs and not data.counterparts.share:
        raise DataFormatError(
            f"the loss {config.loss.name!r} needs hard images, and no false claim of a contrast set is the true claim "
            "of another: train on sets whose claims are true of other images, or with another loss"
        )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Contrast sets as images with the true claim as caption and the false ones as hard negatives."""

    images: Float[Tensor, "set embed"]
    captions: Float[Tensor, "set embed"]
    ids: Int[Tensor, " set"]
    negatives: Float[Tensor, "set k embed"]
    present: Bool[Tensor, "set k"]

    @classmethod
    def of(cls, sets: ContrastSets, texts: Float[Tensor, "set claim embed"]) -> _Pairs:
        rows, label = torch.arange(len(sets.label), device=sets.label.device), sets.label
        others = torch.arange(texts.shape[1] - 1, device=label.device).expand(len(rows), -1)
        others = others + (others >= label[:, None])  # the places of a set without that of the true claim
        each = rows[:, None], others
        return cls(sets.image, texts[rows, label], sets.claims[rows, label], texts[each], sets.present[each])


def _paired(
    batch: Batch, captions: Float[Tensor, "n embed"], ids: Int[Tensor, " n"] | None, pairs: list[_Pairs]
) -> LossBatch:
    sets, hard = pairs[0], pairs[1] if len(pairs) > 1 else None
    none = sets.negatives.new_zeros(len(captions), *sets.negatives.shape[1:])  # of the captions
    return LossBatch(
        images=torch.cat([batch.caption_image, sets.images]),
        captions=torch.cat([captions, sets.captions]),
        caption_ids=None if ids is None else torch.cat([ids, sets.ids]),
        negatives=torch.cat([none, sets.negatives]),
        negative_present=torch.cat([sets.present.new_zeros(len(captions), sets.present.shape[1]), sets.present]),
        hard_images=None if hard is None else hard.images,
        hard_captions=None if hard is None else hard.captions,
        hard_caption_ids=None if ids is None or hard is None else hard.ids,
        hard_negatives=None if hard is None else hard.negatives,
        hard_negative_present=None if hard is None else hard.present,
    )

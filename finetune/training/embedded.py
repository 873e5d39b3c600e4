"""The texts of a batch embedded, as the loss needs them; each distinct text is run once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import DataFormatError
from ..losses.batch import LossBatch
from .accelerating import Embed
from .config import TrainConfig
from .data import Batch, ContrastSets, TrainingData

PAIRED = frozenset({"negatives", "hard_images"})


def embedded(
    embed: Embed,
    batch: Batch,
    needs: Collection[str],
    repeats: str = "negatives",
    teacher: Embed | None = None,
) -> LossBatch:
    """What a loss with such ``needs`` (losses/options.py) is computed from.

    For a loss that needs hard negatives or hard images every contrast set is an image-caption pair beside those of the
    captions file: its true claim, with the false ones as hard negatives. repeats: see TrainConfig. teacher: embeds
    texts as a teacher does, without gradients.
    """
    paired = not PAIRED.isdisjoint(needs)
    sets = [part for part in (batch.sets if paired or "claims" in needs else None, batch.hard) if part is not None]
    both = {"original": batch.original, "negation": batch.negation}
    more = {name: part for name, part in both.items() if part is not None}
    # of a caption without such a text its own number stands for it, so that no other is run
    more_texts = [torch.where(part < 0, batch.caption, part) for part in more.values()]
    numbers = [batch.caption, *(part.claims.flatten() for part in sets), *more_texts]
    wanted, place = torch.unique(torch.cat(numbers), return_inverse=True)
    taught = None if teacher is None else teacher(wanted)  # before the pass that keeps what gradients need
    sizes = [len(part) for part in numbers]
    captions, *others = embed(wanted)[place].split(sizes)
    texts = [found.unflatten(0, part.claims.shape) for found, part in zip(others, sets, strict=False)]
    fields: dict[str, Any] = {"noise": batch.noise, "negated": batch.negated}
    for (name, part), found in zip(more.items(), others[len(sets) :], strict=True):
        fields |= {f"{name}s": found, f"{name}_present": part >= 0}
    ids = batch.caption if repeats == "positives" else None
    if paired:
        pairs = [_Pairs.of(*each) for each in zip(sets, texts, strict=True)]
        found = _paired(batch, captions, ids, pairs, fields)
        if taught is None:
            return found
        own, of_sets = taught[place].split(sizes)[:2]
        mine = _Pairs.of(batch.sets, of_sets.unflatten(0, batch.claims.shape))
        return replace(
            found,
            teacher_captions=torch.cat([own, mine.captions]),
            teacher_negatives=_below_none(mine.negatives, len(own)),
        )
    if sets:
        of_sets = {"claim_images": batch.claim_image, "label": batch.label, "present": batch.present}
        fields |= {"claims": texts[0], **of_sets}
    return LossBatch(images=batch.caption_image, captions=captions, caption_ids=ids, **fields)


def check_data(config: TrainConfig, data: TrainingData) -> None:
    """Raises DataFormatError when the data lack what the loss needs."""
    loss, needs = f"the loss {config.loss.name!r}", config.loss.needs
    for name, (values, what) in {
        "negated": (data.negated, "captions that include a negation (records whose 'affirmative' is another text)"),
        "originals": (data.original, "captions without their negations (field 'affirmative')"),
        "negations": (data.negation, "true claims about the captions' images whose 'polarity' is 'negated'"),
    }.items():
        if name not in needs:
            continue
        if values is None:
            raise DataFormatError(f"{loss} needs {what}, which were not read: training_data(..., needs=[{name!r}])")
        if not bool((values if values.dtype == torch.bool else values >= 0).any()):
            raise DataFormatError(f"{loss} needs {what}, and the data have none")
    if "hard_images" in needs and not data.counterparts.share:
        raise DataFormatError(
            f"{loss} needs hard images, and no false claim of a contrast set is the true claim of another: train on "
            "sets whose claims are true of other images, or with another loss"
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
    batch: Batch,
    captions: Float[Tensor, "n embed"],
    ids: Int[Tensor, " n"] | None,
    pairs: list[_Pairs],
    fields: Mapping[str, Any],
) -> LossBatch:
    """The captions and, below them, the contrast sets; what is known of captions only is not there for the sets."""
    sets, hard = pairs[0], pairs[1] if len(pairs) > 1 else None
    return LossBatch(
        images=torch.cat([batch.caption_image, sets.images]),
        captions=torch.cat([captions, sets.captions]),
        caption_ids=None if ids is None else torch.cat([ids, sets.ids]),
        negatives=_below_none(sets.negatives, len(captions)),
        negative_present=_below_none(sets.present, len(captions)),
        hard_images=None if hard is None else hard.images,
        hard_captions=None if hard is None else hard.captions,
        hard_caption_ids=None if ids is None or hard is None else hard.ids,
        hard_negatives=None if hard is None else hard.negatives,
        hard_negative_present=None if hard is None else hard.present,
        **{name: None if part is None else _above_none(part, len(sets.ids)) for name, part in fields.items()},
    )


def _below_none(part: Tensor, rows: int) -> Tensor:
    """Below ``rows`` rows of zeros, which stand for nothing."""
    return torch.cat([part.new_zeros(rows, *part.shape[1:]), part])


def _above_none(part: Tensor, rows: int) -> Tensor:
    return torch.cat([part, part.new_zeros(rows, *part.shape[1:])])

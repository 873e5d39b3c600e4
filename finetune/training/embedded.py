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
    captions file: its true claim, with the false ones as hard negatives; those of a caption are its ``neg_captions``,
    where the file has some. repeats: see TrainConfig. teacher: embeds
    texts as a teacher does, without gradients.
    """
    paired = not PAIRED.isdisjoint(needs)
    sets = [part for part in (batch.sets if paired or "claims" in needs else None, batch.hard) if part is not None]
    texts_of = {"original": batch.original, "negation": batch.negation, "false": batch.false if paired else None}
    more = {name: part for name, part in texts_of.items() if part is not None}
    # of a caption without such a text its own number stands for it, so that no other is run
    filled = [torch.where(part < 0, batch.caption.view(-1, *[1] * (part.ndim - 1)), part) for part in more.values()]
    numbers = [batch.caption, *(part.claims for part in sets), *filled]
    wanted, place = torch.unique(torch.cat([part.flatten() for part in numbers]), return_inverse=True)

    def parts_of(rows: Float[Tensor, "text embed"]) -> list[Tensor]:
        found = rows[place].split([part.numel() for part in numbers])
        return [texts.unflatten(0, part.shape) for texts, part in zip(found, numbers, strict=True)]

    taught = None if teacher is None else parts_of(teacher(wanted))  # before the pass that keeps what gradients need
    captions, *others = parts_of(embed(wanted))
    fields: dict[str, Any] = {"noise": batch.noise, "negated": batch.negated}
    besides = dict(zip(more, others[len(sets) :], strict=True))
    for name in besides.keys() - {"false"}:
        fields |= {f"{name}s": besides[name], f"{name}_present": more[name] >= 0}
    ids = batch.caption if repeats == "positives" else None
    if paired:
        pairs = [_Pairs.of(part, texts) for part, texts in zip(sets, others, strict=False)]
        found = _paired(batch, captions, ids, pairs, besides.get("false"), fields)
        if taught is None:
            return found
        theirs = _Pairs.of(batch.sets, taught[1])
        return replace(
            found,
            teacher_captions=torch.cat([taught[0], theirs.captions]),
            teacher_negatives=_above(taught[-1] if "false" in more else None, theirs.negatives, len(captions)),
        )
    if sets:
        of_sets = {"claim_images": batch.claim_image, "label": batch.label, "present": batch.present}
        fields |= {"claims": others[0], "claim_weight": batch.claim_weight, **of_sets}
    return LossBatch(
        images=batch.caption_image, captions=captions, caption_ids=ids, weight=batch.caption_weight, **fields
    )


def check_data(config: TrainConfig, data: TrainingData, embed_dim: int) -> None:
    """Raises DataFormatError when the data lack what the loss needs, or are of a model of another width."""
    width = data.images.shape[1]
    if width != embed_dim:
        raise DataFormatError(
            f"the data hold image embeddings of width {width}, but the model's are {embed_dim} wide: prepare them by "
            "training_data with this very model"
        )
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
    weight: Float[Tensor, " set"] | None

    @classmethod
    def of(cls, sets: ContrastSets, texts: Float[Tensor, "set claim embed"]) -> _Pairs:
        rows, label = torch.arange(len(sets.label), device=sets.label.device), sets.label
        others = torch.arange(texts.shape[1] - 1, device=label.device).expand(len(rows), -1)
        others = others + (others >= label[:, None])  # the places of a set without that of the true claim
        each = rows[:, None], others
        return cls(
            sets.image, texts[rows, label], sets.claims[rows, label], texts[each], sets.present[each], sets.weight
        )


def _paired(
    batch: Batch,
    captions: Float[Tensor, "n embed"],
    ids: Int[Tensor, " n"] | None,
    pairs: list[_Pairs],
    false: Float[Tensor, "n k embed"] | None,
    fields: Mapping[str, Any],
) -> LossBatch:
    """The captions and, below them, the contrast sets; what is known of captions only is not there for the sets."""
    sets, hard, n = pairs[0], pairs[1] if len(pairs) > 1 else None, len(captions)
    weight = batch.caption_weight
    return LossBatch(
        images=torch.cat([batch.caption_image, sets.images]),
        captions=torch.cat([captions, sets.captions]),
        caption_ids=None if ids is None else torch.cat([ids, sets.ids]),
        negatives=_above(false, sets.negatives, n),
        negative_present=_above(None if batch.false is None else batch.false >= 0, sets.present, n),
        weight=None if weight is None or sets.weight is None else torch.cat([weight, sets.weight]),
        hard_weight=None if hard is None else hard.weight,
        hard_images=None if hard is None else hard.images,
        hard_captions=None if hard is None else hard.captions,
        hard_caption_ids=None if ids is None or hard is None else hard.ids,
        hard_negatives=None if hard is None else hard.negatives,
        hard_negative_present=None if hard is None else hard.present,
        **{
            name: None if part is None else torch.cat([part, part.new_zeros(len(sets.ids), *part.shape[1:])])
            for name, part in fields.items()
        },
    )


def _above(of_captions: Tensor | None, of_sets: Tensor, rows: int) -> Tensor:
    """What ``rows`` captions have above what the sets have; zeros fill places that only the others have."""
    if of_captions is None:
        of_captions = of_sets.new_zeros(rows, *of_sets.shape[1:])
    widest = max(of_captions.shape[1], of_sets.shape[1])
    both = []
    for part in (of_captions, of_sets):
        fill = part.new_zeros(len(part), widest - part.shape[1], *part.shape[2:])
        both.append(torch.cat([part, fill], dim=1) if fill.numel() else part)
    return torch.cat(both)

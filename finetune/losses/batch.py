"""What losses are computed from: the embeddings of one batch, in one schema for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import DataFormatError

MEANING = {
    "negatives": "hard negative captions",
    "hard_images": "hard images with their captions",
    "claims": "contrast sets",
    "negated": "which captions include a negation",
    "originals": "captions without their negations",
    "negations": "captions of what is not there",
    "hard_weight": "weights of the hard images",
    "teacher_captions": "a teacher's embeddings of the captions",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class LossBatch:
    """Embeddings of a batch, all L2-normalised. A loss reads the fields that it needs; the others may be None.

    images, captions: n images and their captions. caption_ids: equal numbers for captions of equal text, which are
        right for each other's image; None: each caption is right for its own image only.
    negatives: up to k hard negative captions of each image, false of it; negative_present: which of the places hold
        one (None: all).
    hard_images, hard_captions: h images that are like those of the batch, and what is true of them; hard_caption_ids:
        as caption_ids. hard_negatives, hard_negative_present: hard negative captions of the hard images.
    claim_images, claims, label, present: contrast sets, each with one claim that is true of its image, at ``label``;
        present: which places of a set hold a claim (None: all).
    negated: which captions include a negation.
    originals: the captions without their negations (true too); negations: statements of what the images do not show;
        original_present, negation_present: of which images there is one (None: of all).
    weight, hard_weight, claim_weight: how much each image with its caption, hard image with its caption and contrast
        set counts: a loss is made of means over them, each sum_i w_i x_i / sum_i w_i. As another one's wrong answer
        every one counts alike. None: all count alike.
    noise: a permutation of 0..3n - 1, for labels drawn at random.
    teacher_captions, teacher_negatives: captions and negatives as a teacher embeds them, without gradients.
    """

    images: Float[Tensor, "n embed"]
    captions: Float[Tensor, "n embed"]
    caption_ids: Int[Tensor, " n"] | None = None
    negatives: Float[Tensor, "n k embed"] | None = None
    negative_present: Bool[Tensor, "n k"] | None = None
    hard_images: Float[Tensor, "h embed"] | None = None
    hard_captions: Float[Tensor, "h embed"] | None = None
    hard_caption_ids: Int[Tensor, " h"] | None = None
    hard_negatives: Float[Tensor, "h kh embed"] | None = None
    hard_negative_present: Bool[Tensor, "h kh"] | None = None
    claim_images: Float[Tensor, "set embed"] | None = None
    claims: Float[Tensor, "set claim embed"] | None = None
    label: Int[Tensor, " set"] | None = None
    present: Bool[Tensor, "set claim"] | None = None
    negated: Bool[Tensor, " n"] | None = None
    originals: Float[Tensor, "n embed"] | None = None
    original_present: Bool[Tensor, " n"] | None = None
    negations: Float[Tensor, "n embed"] | None = None
    negation_present: Bool[Tensor, " n"] | None = None
    weight: Float[Tensor, " n"] | None = None
    hard_weight: Float[Tensor, " h"] | None = None
    claim_weight: Float[Tensor, " set"] | None = None
    noise: Int[Tensor, " three_n"] | None = None
    teacher_captions: Float[Tensor, "n embed"] | None = None
    teacher_negatives: Float[Tensor, "n k embed"] | None = None

    def pairs(self, rows: Bool[Tensor, " n"] | slice) -> LossBatch:
        """Some of the images with their captions, and nothing else of the batch."""
        ids, weight = (None if part is None else part[rows] for part in (self.caption_ids, self.weight))
        return LossBatch(images=self.images[rows], captions=self.captions[rows], caption_ids=ids, weight=weight)

    def need(self, name: str, loss: str) -> Tensor:
        """A field that ``loss`` needs. Raises DataFormatError, naming both, where it is None."""
        value = getattr(self, name)
        if value is None:
            what = f"{MEANING[name]} ({name})" if name in MEANING else name
            raise DataFormatError(f"the loss {loss!r} needs {what}, which the batch does not have")
        assert isinstance(value, Tensor)
        return value


def flat_negatives(
    negatives: Float[Tensor, "n k embed"] | None, present: Bool[Tensor, "n k"] | None
) -> list[Float[Tensor, "m embed"]]:
    """The hard negatives that are there, one after another; [] where there are none."""
    if negatives is None:
        return []
    return [negatives.flatten(0, 1) if present is None else negatives[present]]

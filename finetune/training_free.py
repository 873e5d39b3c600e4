"""SpaceVLM: negation as an edit of text embeddings, without any training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..arguments import explains_arguments
from ..errors import DataFormatError, NonFiniteError, OptionError
from ..io.quoting import shown

if TYPE_CHECKING:
    from ..patching import DualEncoder

THRESHOLD = 0.92
SAME = 1e-6  # radians between two texts below which their difference is rounding

Split = Callable[[str], tuple[str, str] | None]
"""A caption to what it affirms and what it negates, or None where it negates nothing."""


@explains_arguments
def spacevlm(
    affirmed: Float[Tensor, "n embed"], negated: Float[Tensor, "n embed"], threshold: float = THRESHOLD
) -> Float[Tensor, "n embed"]:
    """The embedding of "A but not N": the middle of what is close to A and far from N.

    With a = arccos(threshold) and theta the angle between A and N: where theta < 2a, the direction at the angle
    a + theta/2 from N on the great circle from N through A; else A. Where A and N are one text there is no such
    direction, and A is returned.

    affirmed, negated: embeddings of A and N, of any length. threshold: the cosine within which images match a text, in
    (0, 1). Returns unit embeddings.

    Source: Kazemi Ranjbar, Alhamoud, Ghassemi, "SpaceVLM" (arXiv 2511.12331, section 3), with the threshold 0.92.

    Raises OptionError for another threshold, DataFormatError for embeddings of other shapes or without a direction,
    NonFiniteError for NaN or infinity.

    >>> north, east = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    >>> spacevlm(north, east)  # 90 degrees apart, more than twice arccos .92 = 23 degrees
    tensor([[0., 1.]])
    >>> spacevlm(north, east, threshold=0.5)  # 60 + 45 = 105 degrees from east
    tensor([[-0.2588,  0.9659]])
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise OptionError(f"threshold is {threshold!r}, which is no cosine between 0 and 1")
    if affirmed.shape != negated.shape or affirmed.ndim != 2:
        raise DataFormatError(
            f"affirmed is {tuple(affirmed.shape)} and negated {tuple(negated.shape)}: expected [n, embed] twice"
        )
    a, n = (F.normalize(part.double(), dim=-1) for part in (affirmed, negated))
    for name, part in (("affirmed", a), ("negated", n)):
        if not part.isfinite().all():
            raise NonFiniteError(f"{name} holds NaN or infinity")
        if len(part) and not part.any(dim=-1).all():
            raise DataFormatError(f"{name} holds an embedding of zeros, which has no direction")
    cosine = (a * n).sum(dim=-1, keepdim=True)
    beside = a - cosine * n  # the part of A that N does not have; its length is the sine
    sine = beside.norm(dim=-1, keepdim=True)
    theta, cap = torch.atan2(sine, cosine), math.acos(threshold)
    delta = cap + theta / 2
    moved = delta.cos() * n + delta.sin() * beside / sine.clamp(min=SAME)
    edited = torch.where((theta < 2 * cap) & (theta > SAME), moved, a)
    return edited.to(torch.promote_types(affirmed.dtype, torch.float32))


@explains_arguments
def split_negations(caption: str, nothing: str = "an image") -> tuple[str, str] | None:
    """What a caption affirms and what it negates, if its phrases (between commas) open with "no" or "there is no".

    So do "without" and "there are no". Captions of other wording ("no change in ...", "not seen") need a function of
    their own; the paper has a language model do it. nothing: what is affirmed by a caption that only negates.

    >>> split_negations("Mild cardiomegaly, no pleural effusion, no pneumothorax.")
    ('Mild cardiomegaly.', 'pleural effusion, pneumothorax.')
    >>> split_negations("There is no edema.", nothing="A chest film.")
    ('A chest film.', 'edema.')
    >>> split_negations("Mild cardiomegaly.")
    """
    end = "." if caption.rstrip().endswith(".") else ""
    phrases = [phrase.strip() for phrase in caption.strip().removesuffix(".").split(",")]
    opening = re.compile(r"(?:there (?:is|are) )?(?:no|without) (?P<what>.+)", re.IGNORECASE | re.DOTALL)
    found = [(phrase, opening.fullmatch(phrase)) for phrase in phrases if phrase]
    negated = [match["what"] for _, match in found if match]
    affirmed = [phrase for phrase, match in found if not match]
    if not negated:
        return None
    return (", ".join(affirmed) + end if affirmed else nothing), ", ".join(negated) + end


@dataclass(frozen=True)
class SpaceVLM:
    """A model whose text embeddings are edited by :func:`spacevlm`; evaluation takes it in the place of the model.

    split: parts a caption; captions for which it returns None keep their embedding. threshold: see :func:`spacevlm`.

    >>> import tracescribe as ts
    >>> model = ts.load("phantom")
    >>> edited = SpaceVLM(model, lambda caption: split_negations(caption, nothing="Chest film."))
    >>> change = edited.encode_texts(["Cardiomegaly.", "No cardiomegaly."]) - model.encode_texts(
    ...     ["Cardiomegaly.", "No cardiomegaly."]
    ... )
    >>> (change.norm(dim=-1) > 0.1).tolist()
    [False, True]
    """

    model: DualEncoder
    split: Split = split_negations
    threshold: float = THRESHOLD

    def encode_images(self, images: Any, batch_size: int = 64) -> Float[Tensor, "n embed"]:
        """The model's own."""
        return self.model.encode_images(images, batch_size)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "n embed"]:
        """Unit embeddings, edited where a caption negates something; each distinct text is run once.

        Raises DataFormatError when ``split`` returns anything but two texts or None, and what the model raises.
        """
        given = list(texts)
        parts = [_checked(text, self.split(text)) for text in given]
        wanted = list(dict.fromkeys([*given, *(text for part in parts if part is not None for text in part)]))
        place = {text: row for row, text in enumerate(wanted)}
        known = self.model.encode_texts(wanted, batch_size)
        rows = [row for row, part in enumerate(parts) if part is not None]
        affirmed, negated = ([place[part[side]] for part in parts if part is not None] for side in (0, 1))
        out = known[[place[text] for text in given]]
        out[rows] = spacevlm(known[affirmed], known[negated], self.threshold).to(out)
        return out


def _checked(text: str, part: Any) -> tuple[str, str] | None:
    if part is not None and (
        not isinstance(part, tuple) or len(part) != 2 or not all(isinstance(x, str) and x.strip() for x in part)
    ):
        raise DataFormatError(
            f"split gives {shown(part)} for {shown(text)}: expected two texts that are not empty, or None"
        )
    return part

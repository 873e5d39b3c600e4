"""Image pairs: an image, its counterfactual, and the caption that tells them apart."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, field_validator

from ...checked import Checked
from .names import Name, whole_characters

__all__ = ["ImagePair"]


class ImagePair(Checked):
    """An image and a counterfactual that differs from it in one fact, with the caption that is true of the image.

    image, counterfactual: a path, a PIL image, or pixels [3, h, w] as the model's preprocessing makes them.
    caption: a text, or a precomputed text embedding (a 1-d array or tensor, or a list of numbers).
    id: name of the pair in results. group: cluster for the bootstrap, e.g. the patient; by default the pair itself.
    attribute: the fact that was changed.

    >>> ImagePair(image="with.png", counterfactual="without.png", caption="There is a left pacemaker.").caption
    'There is a left pacemaker.'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    image: Any
    counterfactual: Any
    caption: Any
    id: Name | None = None
    group: Name | None = None
    attribute: Name | None = None

    @field_validator("caption")
    @classmethod
    def _not_blank(cls, caption: Any) -> Any:
        if caption is None or (isinstance(caption, str) and not caption.strip()):
            raise ValueError("the caption is empty")
        return whole_characters(caption) if isinstance(caption, str) else caption

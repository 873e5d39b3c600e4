"""Scores during training, and which of them decide what the result is and when training stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataFormatError

if TYPE_CHECKING:
    from ...benchmark import Evaluation
    from ...patching import DualEncoder
    from .config import TrainConfig

# What an evaluation is remembered by, in percent; preservation is a cosine.
SCORES = ("claims", "negated", "affirmative", "gap", "r1", "preservation")
BALANCED = ("claims", "negated", "affirmative", "r1")


@dataclass(eq=False)
class Validation:
    """Evaluates a model on the split "val" of a source; images are embedded once.

    Raises DataFormatError when there is nothing to evaluate, or ``select`` asks for a score that the source lacks.
    """

    source: Path
    select: str
    images: dict[str, Any]
    before: Evaluation

    @classmethod
    def of(cls, config: TrainConfig, model: DualEncoder) -> Validation:
        from ...benchmark import embed_images, evaluate

        source = config.validation
        if source is None and config.captions is not None:
            source = config.captions.parent
        if source is None:
            raise DataFormatError("evaluate_every needs something to evaluate: set validation to a folder or file")
        images = embed_images(model, source, split="val")
        before = evaluate(model, source, split="val", image_embeddings=images, n_boot=2)
        made = cls(source, config.select, images, before)
        made.value(summary(before))
        return made

    def scores(self, model: DualEncoder) -> dict[str, float]:
        """Scores of the model as it is now."""
        from ...benchmark import evaluate

        found = evaluate(model, self.source, split="val", image_embeddings=self.images, before=self.before, n_boot=2)
        return summary(found)

    def value(self, scores: Mapping[str, float]) -> float:
        """What the best evaluation has most of."""
        names = BALANCED if self.select in ("balanced", "last") else (self.select,)
        known = [scores[name] for name in names if name in scores]
        if not known:
            raise DataFormatError(f"{self.source}: its split 'val' gives no score for {' or '.join(names)}")
        return float(np.mean(known))

    def best(self, scores: Sequence[Mapping[str, float]]) -> int:
        """The number of the best evaluation; the first of equals."""
        return int(np.argmax([self.value(found) for found in scores]))


def summary(evaluation: Evaluation) -> dict[str, float]:
    """The scores that are remembered; those that the source does not give are left out.

    Shared by training and by studies.
    """
    found = {
        "claims": evaluation.claim_accuracy,
        "negated": evaluation.negated_accuracy,
        "affirmative": evaluation.affirmative_accuracy,
        "gap": None if evaluation.gap is None else evaluation.gap.value,
        "r1": evaluation.retrieval_r1,
        "preservation": evaluation.preservation,
    }
    return {name: float(value) for name, value in found.items() if value is not None}

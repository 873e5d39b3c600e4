"""Scores during training, and which of them decide what the result is and when training stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import nn

from ...errors import DataFormatError
from ..apply.adapters import merged_copy
from .adapted import rewrap
from .image_cache import ImageCache

if TYPE_CHECKING:
    from ...benchmark import Evaluation
    from ...patching import DualEncoder
    from .config import TrainConfig

BALANCED = ("claims", "negated", "affirmative", "r1")


@dataclass(eq=False)
class Validation:
    """Evaluates a model on the split "val" of a source; images are embedded once.

    Raises DataFormatError when there is nothing to evaluate, or ``select`` asks for a score that the source lacks.
    """

    source: Path
    folder: Path | None  # of the images
    select: str
    images: dict[str, Any]
    before: Evaluation
    drift: Drift | None = None

    @classmethod
    def of(cls, config: TrainConfig, model: DualEncoder) -> Validation:
        from ...benchmark import embed_images, evaluate

        source = config.validation
        if source is None and config.captions is not None:
            source = (config.captions if isinstance(config.captions, Path) else next(iter(config.captions))).parent
        if source is None:
            raise DataFormatError("evaluate_every needs something to evaluate: set validation to a folder or file")
        if config.image_cache is None:
            images = embed_images(model, source, split="val", images=config.images)
        else:
            images = _cached(model, source, config)
        before = evaluate(model, source, split="val", images=config.images, image_embeddings=images, n_boot=2)
        drift = None if config.retrace is None else Drift(config, model)
        made = cls(source, config.images, config.select, images, before, drift)
        made.value(summary(before))
        return made

    def scores(self, model: DualEncoder) -> dict[str, float]:
        """Scores of the model as it is now."""
        from ...benchmark import evaluate

        known: dict[str, Any] = {"images": self.folder, "image_embeddings": self.images, "before": self.before}
        return summary(evaluate(model, self.source, split="val", n_boot=2, **known))

    @property
    def untrained(self) -> dict[str, float]:
        """Scores of the model before training."""
        return summary(self.before)

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


class Drift:
    """How far the CTE profile (sum over tokens) of a few pairs is from that of the untrained model.

    Raises DataFormatError for pairs that cannot be read, and what :func:`tracescribe.trace` raises.
    """

    def __init__(self, config: TrainConfig, model: DualEncoder) -> None:
        from ...tracer import read_pairs

        assert config.retrace is not None
        pairs = read_pairs(config.retrace, images=config.images, outside_images=config.outside_images)
        step = max(1, len(pairs) // config.retrace_pairs)
        self.every = config.retrace_every
        self._pairs, self._model = pairs[::step][: config.retrace_pairs], model
        self._before = self._profile(model)

    def __call__(self, source: nn.Module) -> dict[str, float]:
        """Of a source module with adapters.

        cte_drift: mean absolute difference of the layers' CTE. cte_rank: Spearman's correlation over blocks 1..L.
        """
        from scipy.stats import spearmanr

        now = self._profile(rewrap(self._model, merged_copy(source)))
        found = {"cte_drift": float(np.abs(now - self._before).mean())}
        rank = float(spearmanr(self._before[1:], now[1:]).statistic)
        return found | ({"cte_rank": rank} if np.isfinite(rank) else {})

    def _profile(self, model: DualEncoder) -> Float[np.ndarray, " layer"]:
        from ...tracer import trace

        found = trace(model, self._pairs, keep_embeddings=False, progress=False)
        return np.asarray(found.per_layer(ci=None).value, dtype=np.float64)


def _cached(model: DualEncoder, source: Path, config: TrainConfig) -> dict[str, Any]:
    """Embeddings by path, as `embed_images` gives them, through the cache."""
    from ...benchmark.sources import has_image, images_of, load_records

    assert config.image_cache is not None
    found = load_records(source, split="val", images=config.images)
    paths = list(dict.fromkeys(str(image) for record in found if has_image(record) for image in images_of(record)))
    rows, index = ImageCache(config.image_cache, model).embed(paths)
    return dict(zip(paths, rows[index], strict=True))


def summary(evaluation: Evaluation) -> dict[str, float]:
    """The scores that are remembered, in percent (preservation: a cosine); what the source does not give is left out.

    Shared by training and by studies.
    """
    five = evaluation.tasks.get("image_to_text_r5_affirmative")
    found = {
        "claims": evaluation.claim_accuracy,
        "negated": evaluation.negated_accuracy,
        "affirmative": evaluation.affirmative_accuracy,
        "gap": None if evaluation.gap is None else evaluation.gap.value,
        "r1": evaluation.retrieval_r1,
        "r5": None if five is None else five.accuracy.value,
        "preservation": evaluation.preservation,
    }
    return {name: float(value) for name, value in found.items() if value is not None}

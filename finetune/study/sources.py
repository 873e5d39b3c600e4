"""What the arms' plans are made from, measured once: traces, gradients, the change of a short run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ...patching.torch_state import neutral_state
from ...patching.towers.tower import normalise
from ..apply.block_gradients import BlockGradients, block_gradients
from ..apply.update_share import UpdateShare
from ..prescription.plan import Prescription
from ..prescription.prescribe import prescribe
from ..training.config import TrainConfig
from ..training.loop import train
from ..training.progress import training_loss
from .config import Arm, StudyConfig
from .records import training_pairs

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from ...tracer import CausalTrace
    from ..training.data import TrainingData

GRADIENT_BATCHES = 20
SHORT = 5  # a run of a fifth of the steps tells where uniform training changes the weights


@dataclass(frozen=True, eq=False)
class Sources:
    """Everything that plans of a study are made from; each is measured when an arm first asks for it."""

    config: StudyConfig
    model: DualEncoder
    data: TrainingData
    images: set[Any]  # that are trained on
    _traces: dict[tuple[str, ...], CausalTrace] = field(default_factory=dict, repr=False)

    @cached_property
    def gradients(self) -> BlockGradients:
        texts = self.data

        def embed(wanted: torch.Tensor) -> torch.Tensor:
            longest = int(texts.lengths[wanted].max())
            return normalise(self.model.text(texts.tokens[wanted][:, :longest]))

        def loss(batch: Any) -> torch.Tensor:
            return training_loss(self._train, embed, batch, float(self.model.logit_scale))[0]

        batches = texts.batches(
            self._train.batch_size,
            GRADIENT_BATCHES,
            self.config.seed,
            needs=self._train.loss.needs | self._train.loss.reads,
        )
        with neutral_state(grad=True):
            return block_gradients(self.model, loss, batches, max_batches=GRADIENT_BATCHES)

    @cached_property
    def update(self) -> UpdateShare:
        steps = max(1, self._train.steps // SHORT)
        rate = sorted(self.config.rates)[len(self.config.rates) // 2]
        short = self._train.model_copy(update={"steps": steps, "lr": rate, "seed": self.config.seed})
        return train(short, self.model, data=self.data, progress=False).update

    @property
    def _train(self) -> TrainConfig:
        return TrainConfig(**self.config.train)

    def _trace(self, site: str, *attributes: str) -> CausalTrace:
        from ...tracer import trace

        if (site, *attributes) not in self._traces:
            pairs = training_pairs(self.config, self.images, attributes)
            found = trace(self.model, pairs, site=site, keep_embeddings=False, progress=False)
            self._traces[site, *attributes] = found
        return self._traces[site, *attributes]

    def plan(self, arm: Arm, seed: int) -> Prescription | None:
        """The arm's plan; of "random" and "permuted" another one for each seed. None for uniform training."""
        if arm.weighting == "uniform" and arm.lora_mode is None:
            return None
        source: Any
        if arm.by in ("gradient", "fisher"):
            source = self.gradients
        elif arm.by == "weight_change":
            source = self.update
        elif arm.by in ("front", "decay", "random"):
            source = self.model
        else:
            source = self._trace(arm.site, self.config.attribute)
            if arm.source == "excess":
                source = source.control(self._trace(arm.site, *self.config.control))
        return prescribe(
            source,
            by=arm.by,
            beta=arm.beta,
            aggregate=arm.aggregate,
            normalize=arm.normalize,
            layers=arm.layers,
            budget=arm.budget,
            seed=seed,
            k=arm.k,
            decay=arm.decay,
        )

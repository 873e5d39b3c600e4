"""A training run in progress: the copy that is trained, its optimiser and schedule, and their complete state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import NonFiniteError, PrescriptionError
from ...patching.towers.tower import normalise
from ..apply.attachment import Attachment
from ..apply.blocks import block_parameters
from ..apply.lora import attach_lora, lora_config
from ..losses.nast import clip_and_claim, nast_loss
from ..losses.options import DeGla, Nast, NegBench
from ..losses.registry import LOSSES
from ..prescription.plan import Prescription
from .accelerating import Embed, shared_by_processes, sum_gradients
from .adapted import AdaptedText
from .config import TrainConfig
from .data import Batch, TrainingData
from .embedded import embedded
from .teacher import Teacher

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel

    from ...patching import DualEncoder


class Progress:
    """The model, optimiser and schedule of a run, which step by step become the result.

    source: the copy of the source module, with its peft adapters. done: optimiser steps taken. intact: this is a state
    between steps, and not one in which a step is half taken.
    accelerator: for half precision and several processes; None computes as the model is.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: DualEncoder,
        plan: Prescription | None,
        data: TrainingData,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config, self.done, self.intact, self.accelerator = config, 0, True, accelerator
        self.encoder = AdaptedText(model, lambda source: _lora(source, config, plan), config.seed)
        self.source = self.encoder.source
        self._texts = self.encoder.packed(data.tokens, data.lengths)
        self.optimizer, self.attached = _optimizer(config, self.source, plan)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda done: rate_factor(config, done))
        self._stepper: Any = self.optimizer
        self._embed: Embed = self._embeddings
        if accelerator is not None:
            self._stepper = accelerator.prepare_optimizer(self.optimizer, device_placement=False)
            self._embed = shared_by_processes(self._embeddings, accelerator)
        self._teacher = Teacher(self.adapters(), config.loss.ema) if isinstance(config.loss, DeGla) else None
        self._scale = float(model.logit_scale)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, batches: Sequence[Batch]) -> tuple[float, float, float]:
        """One optimiser step on the mean loss of the batches; returns L, L_CLIP and L_claim before the step.

        Of a loss that is no mean of the two they are NaN.

        Raises NonFiniteError naming the step when the loss is not finite; nothing was changed then.
        """
        self.optimizer.zero_grad(set_to_none=True)
        values = np.zeros(3)
        for batch in batches:
            with nullcontext() if self.accelerator is None else self.accelerator.autocast():
                teacher = None if self._teacher is None else self._teacher.embed(self._embed)
                loss, *parts = training_loss(self.config, self._embed, batch, self._scale, teacher)
            found = (loss.item(), *(math.nan if part is None else part.item() for part in parts))
            if not math.isfinite(found[0]):
                told = f" (L_CLIP {found[1]}, L_claim {found[2]})" if parts[0] is not None else ""
                raise NonFiniteError(
                    f"the loss is {found[0]} at step {self.done + 1}{told}; lower lr (now {self.config.lr:g}) or check "
                    "the embeddings"
                )
            loss = loss / len(batches) if len(batches) > 1 else loss
            loss.backward() if self.accelerator is None else self.accelerator.backward(loss)
            values += found
        clip_gradients = torch.nn.utils.clip_grad_norm_
        if self.accelerator is not None:
            sum_gradients(self.accelerator, self._trained)
            clip_gradients = self.accelerator.clip_grad_norm_  # of scaled gradients (fp16) it takes the scale out
        if self.config.clip_norm is not None:
            clip_gradients(self._trained, self.config.clip_norm)
        self.intact = False
        self._stepper.step()
        self.schedule.step()
        if self._teacher is not None:
            self._teacher.follow()
        self.done += 1
        loss_, clip_, claim_ = (values / len(batches)).tolist()
        return loss_, clip_, claim_

    def _embeddings(self, wanted: Int[Tensor, " n"]) -> Float[Tensor, "n embed"]:
        found = self._texts(wanted)
        return normalise(found if found.dtype.itemsize >= 4 else found.float())

    def adapters(self) -> dict[str, Tensor]:
        """The adapters' weights by name, as they are now (not copies)."""
        return {name: p.detach() for name, p in self.source.named_parameters() if ".lora_" in name}

    @torch.no_grad()
    def set_adapters(self, weights: Mapping[str, Tensor]) -> None:
        """Give the adapters other weights, of the same names."""
        for name, weight in self.adapters().items():
            weight.copy_(weights[name])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next steps depend on besides the configuration and the data: tensors, and JSON values.

        torch's random state is no part of it: a step draws no random numbers, and batches are drawn by their number.
        """
        saved = self.optimizer.state_dict()
        tensors = {f"adapter/{name}": weight for name, weight in self.adapters().items()}
        for index, state in saved["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items() if torch.is_tensor(value)}
        if isinstance(self.attached, Attachment):
            tensors |= {f"plan/{name}": value for name, value in self.attached.state().items()}
        if self._teacher is not None:
            tensors |= {f"teacher/{name}": value for name, value in self._teacher.weights.items()}
        tensors |= {f"texts/{name}": value for name, value in self._texts.state().items()}
        numbers = {
            str(index): {name: value for name, value in state.items() if not torch.is_tensor(value)}
            for index, state in saved["state"].items()
        }
        scaler = None if self.accelerator is None else self.accelerator.scaler
        return tensors, {
            "done": self.done,
            "optimizer": numbers,
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state that :meth:`state` gave, of a run with the same configuration and data."""
        self.set_adapters(_below(tensors, "adapter/"))
        states: dict[int, dict[str, Any]] = {int(index): dict(found) for index, found in facts["optimizer"].items()}
        for name, value in _below(tensors, "optimizer/").items():
            index, _, key = name.partition("/")
            states.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.done = self.schedule.last_epoch = int(facts["done"])
        self.schedule._step_count = self.done + 1  # torch's warnings go by it
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_factor(self.config, self.done)
        if isinstance(self.attached, Attachment):
            self.attached.load_state(_below(tensors, "plan/"))
        if self._teacher is not None:
            self._teacher.load(_below(tensors, "teacher/"))
        self._texts.load_state(_below(tensors, "texts/"))
        if self.accelerator is not None and self.accelerator.scaler is not None and facts.get("scaler"):
            self.accelerator.scaler.load_state_dict(facts["scaler"])


def rate_factor(config: TrainConfig, done: int) -> float:
    """What the learning rate is multiplied by after ``done`` steps: linear warm-up, then the schedule.

    >>> config = TrainConfig(schedule="linear", warmup=1, steps=5)
    >>> [rate_factor(config, done) for done in range(5)]
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if done < config.warmup:
        return (done + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return 1.0
    share = min(1.0, (done - config.warmup) / max(1, config.steps - config.warmup))
    return 1 - share if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))


Part = Float[Tensor, ""] | None


def training_loss(
    config: TrainConfig, embed: Embed, batch: Batch, scale: float, teacher: Embed | None = None
) -> tuple[Float[Tensor, ""], Part, Part]:
    """The loss of one batch, and L_CLIP and L_claim where it is a mean of them; each distinct text is run once.

    teacher: embeds texts for a loss that has one (:class:`.teacher.Teacher`); the model itself stands for it otherwise.
    """
    options = config.loss
    if "teacher" in options.needs and teacher is None:
        teacher = torch.no_grad()(embed)
    texts = embedded(embed, batch, options.needs, config.repeats, teacher)
    if isinstance(options, Nast | NegBench):
        clip, claim = clip_and_claim(texts, scale, options.name)
        return nast_loss(clip, claim, config.lambda_ if isinstance(options, Nast) else options.a), clip, claim
    return LOSSES[options.name](texts, scale, **options.arguments()), None, None


def needed(plan: Prescription | None) -> Prescription:
    """The plan of weighted training."""
    if plan is None:  # the configuration was changed after validation
        raise PrescriptionError("weighted training needs a plan (tracescribe.prescribe, or a plan file)")
    return plan


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _lora(source: nn.Module, config: TrainConfig, plan: Prescription | None) -> PeftModel:
    """The source with its adapters; those that the plan holds still are frozen, so that they cost nothing."""
    settings = lora_config(source, plan, config.lora_mode, r=config.rank, lora_alpha=config.lora_alpha)
    adapted = attach_lora(source, settings)
    if config.weighting in ("lr", "update"):
        weights = needed(plan)
        for parameters, multiplier in zip(block_parameters(weights, adapted), weights.multipliers, strict=True):
            # a rate of 0, or a step scaled by 0, is no step, weight decay included
            if multiplier == 0 and weights.multipliers.any():
                for parameter in parameters:
                    parameter.requires_grad_(False)
    return adapted


def _optimizer(
    config: TrainConfig, module: nn.Module, plan: Prescription | None
) -> tuple[torch.optim.Optimizer, AbstractContextManager[Any]]:
    parameters: Any = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.weighting == "lr":
        parameters = needed(plan).param_groups(module, config.lr)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.SGD
    # one call for all tensors: LoRA's are many and small
    optimizer = kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    if config.weighting in ("update", "gradient"):
        return optimizer, needed(plan).attach(module, optimizer, mode=config.weighting)
    return optimizer, nullcontext()

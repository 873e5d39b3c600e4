"""Fine-tunes the text tower by LoRA on L_CLIP and L_claim, with uniform or causally weighted layers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import DataFormatError, NonFiniteError, PrescriptionError
from ...patching.torch_state import neutral_state
from ..apply.adapters import merged_copy
from ..apply.blocks import block_parameters, say_if_of_other_weights
from ..apply.lora import attach_lora, lora_config
from ..apply.update_share import update_share
from ..losses import claim_loss, clip_loss, nast_loss
from ..prescription.plan import Prescription
from .adapted import AdaptedText, rewrap
from .config import TrainConfig
from .data import Batch, TrainingData, training_data
from .result import History, Step, TrainResult

if TYPE_CHECKING:
    from peft import PeftModel

    from ...patching import DualEncoder

logger = logging.getLogger(__name__)


@neutral_state(grad=True)
def train(
    config: TrainConfig,
    model: DualEncoder | None = None,
    *,
    data: TrainingData | None = None,
    callbacks: Sequence[Callable[[Step], None]] = (),
) -> TrainResult:
    """Fine-tune a copy of the model's text tower; the model that is passed in stays untouched.

    L = lambda L_CLIP + (1 - lambda) L_claim, LoRA on the text tower, AdamW with a fixed learning rate, vision tower and
    projections frozen (NAST, arXiv 2602.12498). Only the text tower runs in the loop: images are embedded once, before.
    Runs with equal data, batch size, steps and seed see the same batches and start from the same adapters.

    model: the model to start from (``config.model`` is loaded otherwise).
    data: prepared by :func:`tracescribe.finetune.training.data.training_data`, to share cached embeddings between runs
        (``config.captions`` and ``config.claims`` are read otherwise).
    callbacks: called after each step.

    Raises NonFiniteError naming the step when the loss is not finite, PrescriptionError when the plan does not fit the
    tower, DataFormatError for missing or malformed data.
    """
    from ...patching import load

    started = time.perf_counter()
    plan = _plan(config)
    if model is None:
        model = load(config.model)
    if plan is not None:
        say_if_of_other_weights(plan, model)
    if data is None:
        if config.captions is None or config.claims is None:
            raise DataFormatError(
                "training needs captions and claims: set both paths in the configuration, or pass data="
            )
        data = training_data(
            model, config.captions, config.claims, split=config.split, outside_images=config.outside_images
        )

    encoder = AdaptedText(model, lambda source: _lora(source, config, plan), config.seed)
    texts = encoder.packed(data.tokens, data.lengths)
    optimizer, attached = _optimizer(config, encoder.source, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / (config.warmup + 1)))
    scale = float(model.logit_scale)
    rows = []
    with attached:
        for number, batch in enumerate(data.batches(config.batch_size, config.steps, config.seed), start=1):
            clip, claim = batch_losses(texts, batch, scale)
            loss = nast_loss(clip, claim, config.lambda_)
            values = (loss.item(), clip.item(), claim.item())
            if not np.isfinite(values).all():
                raise NonFiniteError(
                    f"the loss is {values[0]} at step {number} (L_CLIP {values[1]}, L_claim {values[2]}); lower lr "
                    f"(now {config.lr:g}) or check the embeddings"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            rows.append(values)
            for callback in callbacks:
                callback(Step(number, config.steps, *values, time.perf_counter() - started))

    for name, parameter in encoder.source.named_parameters():
        parameter.requires_grad_(".lora_" in name)  # also those that the plan held still
    tuned = rewrap(model, merged_copy(encoder.source))
    history = History(*np.asarray(rows, dtype=np.float64).T)
    update = update_share(model.source, encoder.source, plan)
    seconds = time.perf_counter() - started
    logger.info("fine-tuned %s for %d steps in %.1f s", config.weighting, config.steps, seconds)
    base = {"model": model.name, "weights_sha256": model.text.fingerprint()}
    return TrainResult(config, encoder.source, tuned, history, update, plan, seconds, base)


def _plan(config: TrainConfig) -> Prescription | None:
    from ..prescription.io import load_plan

    plan = load_plan(config.plan) if isinstance(config.plan, Path) else config.plan
    return None if plan is None else plan.with_budget(config.budget)


def _lora(source: nn.Module, config: TrainConfig, plan: Prescription | None) -> PeftModel:
    """The source with its adapters; those that the plan holds still are frozen, so that they cost nothing."""
    settings = lora_config(source, plan, config.lora_mode, r=config.rank, lora_alpha=config.lora_alpha)
    adapted = attach_lora(source, settings)
    if config.weighting in ("lr", "update"):
        weights = _needs(plan)
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
        parameters = _needs(plan).param_groups(module, config.lr)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.SGD
    # one call for all tensors: LoRA's are many and small
    optimizer = kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    if config.weighting in ("update", "gradient"):
        return optimizer, _needs(plan).attach(module, optimizer, mode=config.weighting)
    return optimizer, nullcontext()


def _needs(plan: Prescription | None) -> Prescription:
    if plan is None:  # the configuration was changed after validation
        raise PrescriptionError("weighted training needs a plan (tracescribe.prescribe, or a plan file)")
    return plan


def batch_losses(
    embed: Callable[[Int[Tensor, " n"]], Float[Tensor, "n embed"]], batch: Batch, scale: float
) -> tuple[Tensor, Tensor]:
    """L_CLIP and L_claim of one batch; each distinct text is run once."""
    wanted, place = torch.unique(torch.cat([batch.caption, batch.claims.flatten()]), return_inverse=True)
    texts = embed(wanted)[place]  # [n + set * claim, embed]
    captions, claims = texts[: len(batch.caption)], texts[len(batch.caption) :].unflatten(0, batch.claims.shape)
    return (
        clip_loss(batch.caption_image, captions, scale),
        claim_loss(batch.claim_image, claims, batch.label, scale, batch.present),
    )

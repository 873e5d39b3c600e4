"""Fine-tunes the text tower by LoRA on L_CLIP and L_claim, with uniform or causally weighted layers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator
from torch import Tensor, nn

from ...errors import DataFormatError, NonFiniteError, PrescriptionError
from ...patching.torch_state import neutral_state
from ..apply.adapters import merged_copy
from ..apply.blocks import block_parameters, say_if_of_other_weights
from ..apply.lora import attach_lora, lora_config
from ..apply.update_share import UpdateShare, update_share
from ..losses import claim_loss, clip_loss, nast_loss
from ..prescription.plan import Prescription
from .adapted import AdaptedText, rewrap
from .data import Batch, TrainingData, training_data

if TYPE_CHECKING:
    from peft import PeftModel

    from ...patching import DualEncoder

logger = logging.getLogger(__name__)


class TrainConfig(BaseModel):
    """What a run does. The defaults work on the shipped miniature; NAST publishes none of these values.

    lr, warmup: fixed after ``warmup`` linear steps. With budget "mean" a peaked plan raises its highest block's rate
        several times over: compare arms at a rate at which none of them diverges (a loss that stays at chance).
    captions, claims: JSONL files; split: which of their records to train on (None: all).
    weighting: "uniform"; "lr" (learning rate * multiplier per block), "update" (scaled steps; the same as "lr" for
        AdamW) or "gradient" (the paper's formula, which AdamW cancels).
    budget: "mean" rescales the multipliers to mean 1, so that a weighted run spends the same sum of learning rates as
        a uniform one and differs from it in *where* only; "none" is the paper's alpha ** beta, which also lowers the
        mean learning rate.
    lora_mode: weights in the adapters themselves (scale, rank, mask) in place of, or beside, ``weighting``.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    model: str = "phantom"
    captions: Path | None = None
    claims: Path | None = None
    split: Literal["train", "val", "test"] | None = "train"
    steps: int = Field(default=150, ge=1)
    batch_size: int = Field(default=32, ge=2)
    lambda_: float = Field(default=0.5, ge=0, le=1)
    lr: float = Field(default=3e-3, gt=0)
    warmup: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rank: int = Field(default=4, ge=1)
    lora_alpha: float = Field(default=8.0, gt=0)
    lora_mode: Literal["scale", "rank", "mask"] | None = None
    weighting: Literal["uniform", "lr", "update", "gradient"] = "uniform"
    budget: Literal["mean", "none"] = "mean"
    plan: Prescription | Path | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _weights_are_there(self) -> TrainConfig:
        if self.plan is None and (self.weighting != "uniform" or self.lora_mode is not None):
            what = f"weighting {self.weighting!r}" if self.weighting != "uniform" else f"lora_mode {self.lora_mode!r}"
            raise ValueError(f"{what} needs a plan (tracescribe.prescribe, or a plan file)")
        return self

    @field_serializer("plan")
    def _plan_as_json(self, plan: Prescription | Path | None) -> Any:
        if isinstance(plan, Prescription):
            from ..prescription.io import to_record

            return to_record(plan).model_dump(mode="json")
        return None if plan is None else str(plan)


@dataclass(frozen=True)
class Step:
    """One optimiser step, as progress callbacks see it; the losses are those before the step."""

    step: int  # 1..steps
    steps: int
    loss: float
    clip: float
    claim: float
    seconds: float


@dataclass(frozen=True, eq=False)
class History:
    """The losses before each step."""

    loss: Float[np.ndarray, " step"]
    clip: Float[np.ndarray, " step"]
    claim: Float[np.ndarray, " step"]


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished run.

    source: the tuned copy of the source module, with its peft adapters.
    model: the same weights with the adapters merged in, ready to be traced and evaluated.
    update: how much each block changed, ordered by the plan if there was one.
    plan: the weights as they were applied (after ``budget``), or None.
    base: name and fingerprint (``weights_sha256``, of the text tower) of the model that was started from.
    """

    config: TrainConfig
    source: PeftModel
    model: DualEncoder
    history: History
    update: UpdateShare
    plan: Prescription | None
    seconds: float
    base: dict[str, str]

    def save(self, folder: str | Path) -> Path:
        """Write adapters (peft's format), configuration and results into ``folder``, whole or not at all."""
        from .runs import save_run

        return save_run(self, folder)


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
        data = training_data(model, config.captions, config.claims, split=config.split)

    encoder = AdaptedText(model, lambda source: _lora(source, config, plan), config.seed)
    texts = encoder.packed(data.tokens, data.lengths)
    optimizer, attached = _optimizer(config, encoder.source, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / (config.warmup + 1)))
    scale = float(model.logit_scale)
    rows = []
    with attached:
        for number, batch in enumerate(data.batches(config.batch_size, config.steps, config.seed), start=1):
            clip, claim = _losses(texts, batch, scale)
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


def read_config(path: str | Path) -> TrainConfig:
    """A configuration from a JSON file; paths in it are relative to the file.

    Raises DataFormatError naming the file, the field and what was expected.
    """
    path = Path(path)
    try:
        config = TrainConfig.model_validate_json(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise DataFormatError(f"{path}: cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError as problem:
        raise DataFormatError(f"{path}: cannot be read as text ({problem})") from problem
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the configuration"
        raise DataFormatError(f"{path}: field {where!r}: {first['msg']}") from problem
    given = {name: getattr(config, name) for name in ("captions", "claims", "plan")}
    beside = {name: path.parent / value for name, value in given.items() if isinstance(value, Path)}
    return config.model_copy(update=beside)


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


def _losses(
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

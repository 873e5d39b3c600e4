"""The options of a training run as one object, with their ranges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_serializer, field_validator, model_validator

from ...checked import Checked
from ...errors import PrescriptionError, TracescribeError
from ..losses.options import LossOptions, Nast
from ..prescription.plan import Prescription

Files = Path | dict[Path, Annotated[float, Field(gt=0)]]
"""A JSONL file, or several and the weight of each."""

LAMBDA = 0.5  # NAST does not publish its own


class TrainConfig(Checked):
    """What a run does. The defaults work on the shipped miniature; NAST publishes none of these values.

    lr, warmup, schedule: ``warmup`` linear steps, then "constant", or "linear" or "cosine" decay to 0 at ``steps``.
        With budget "mean" a peaked plan raises its highest block's rate several times over: compare arms at a rate at
        which none of them diverges (a loss that stays at chance).
    pretrained, device: as ``ts.load`` takes them. precision: "bf16" or "fp16" computes the text tower in it (autocast).
    captions, claims: JSONL files, or ``{file: weight}``, each of which gives its share of every batch; split: which of
        their records to train on (None: all). An image ``{"text": "..."}`` is a text as the frozen target.
    image_cache: a folder that keeps the embeddings of image files, so that later runs encode none again.
    images: the folder that image paths are relative to; by default that of each file. outside_images: accept image
        paths that are absolute or lead out of that folder.
    weighting: "uniform"; "lr" (learning rate * multiplier per block), "update" (scaled steps; the same as "lr" for
        AdamW) or "gradient" (the paper's formula, which AdamW cancels).
    accumulate: batches of each step; their losses are averaged, and each has negatives of its own only. clip_norm: the
        gradients' total norm is kept below it (before scaled steps, after scaled gradients); None does not clip.
    evaluate_every: steps between evaluations on ``validation`` (a folder or file as `evaluate` takes; the captions'
        folder by default), split "val"; 0 never evaluates. select: whose weights are the result: those of the "last"
        step, or of the evaluation that is best in claim accuracy, negated accuracy, or their mean with affirmative
        accuracy and R@1 ("balanced"). patience: training stops after so many evaluations without a better one; 0 never.
    retrace: pairs of which at most ``retrace_pairs`` are traced before training and at every ``retrace_every``-th
        evaluation: how far the CTE profile has drifted (scores "cte_drift" and "cte_rank").
    repeats: captions that repeat in a batch are each other's negatives ("negatives", as in CLIP), or each is right for
        the other's image too ("positives"; :func:`~tracescribe.finetune.losses.multi_positive_clip_loss`).
    checkpoint_every: steps between checkpoints, where `train` is given a folder for them; 0: only at the end.
    trackers: "tensorboard", "wandb", "trackio": what also hears losses and scores, where it is installed.
    loss: what is minimised: "nast", "clip", "siglip", "negclip", "conclip", "negbench", "negationclip", "tngclip",
        "degla", "omninegclip", or ``{"name": ..., option: ...}``; see losses/options.py. lambda_: of the loss "nast",
        the weight of L_CLIP beside L_claim.
    budget: "mean" rescales the multipliers to mean 1, so that a weighted run spends the same sum of learning rates as
        a uniform one and differs from it in *where* only; "none" is the paper's alpha ** beta, which also lowers the
        mean learning rate.
    lora_alpha: the adapters' change is scaled by lora_alpha / rank; 2 * rank by default.
    lora_mode: weights in the adapters themselves: "scale" in place of ``weighting``, "rank" and "mask" also beside it.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    _error: ClassVar[type[TracescribeError]] = PrescriptionError

    model: str = "phantom"
    pretrained: str | None = None
    device: str = "cpu"
    captions: Files | None = None
    claims: Files | None = None
    split: Literal["train", "val", "test"] | None = "train"
    images: Path | None = None
    outside_images: bool = False
    image_cache: Path | None = None
    steps: int = Field(default=150, ge=1, le=10**9)
    batch_size: int = Field(default=32, ge=2, le=10**6)
    loss: LossOptions = Nast()
    lambda_: float = Field(default=LAMBDA, ge=0, le=1)
    lr: float = Field(default=3e-3, gt=0)
    warmup: int = Field(default=0, ge=0, le=10**9)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    accumulate: int = Field(default=1, ge=1, le=10**6)
    clip_norm: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    repeats: Literal["negatives", "positives"] = "negatives"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rank: int = Field(default=4, ge=1, le=8192)
    lora_alpha: float = Field(default_factory=lambda given: 2.0 * given.get("rank", 4), gt=0)
    lora_mode: Literal["scale", "rank", "mask"] | None = None
    weighting: Literal["uniform", "lr", "update", "gradient"] = "uniform"
    budget: Literal["mean", "none"] = "mean"
    plan: Prescription | Path | None = None
    validation: Path | None = None
    evaluate_every: int = Field(default=0, ge=0, le=10**9)
    select: Literal["last", "balanced", "claims", "negated"] = "last"
    patience: int = Field(default=0, ge=0, le=10**9)
    retrace: Path | None = None
    retrace_every: int = Field(default=1, ge=1, le=10**9)
    retrace_pairs: int = Field(default=32, ge=2, le=10**5)
    checkpoint_every: int = Field(default=0, ge=0, le=10**9)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    seed: int = Field(default=0, ge=0, le=2**63 - 1)

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, bool) and name != "outside_images":
                raise ValueError(f"{name} is {value}, which is neither a number nor a name")
        return given

    @field_validator("plan", mode="before")
    @classmethod
    def _plan_from_json(cls, given: Any) -> Any:
        """The plan that a run's configuration holds in full."""
        if not isinstance(given, dict):
            return given
        from ..prescription.io import PlanFile, from_record

        return from_record(PlanFile.model_validate_json(json.dumps(given)))

    @field_validator("captions", "claims", mode="after")
    @classmethod
    def _some_file(cls, given: Files | None) -> Files | None:
        if isinstance(given, dict) and not given:
            raise ValueError("no file is named")
        return given

    @model_validator(mode="after")
    def _weights_are_there(self) -> TrainConfig:
        if self.plan is None and (self.weighting != "uniform" or self.lora_mode is not None):
            what = f"weighting {self.weighting!r}" if self.weighting != "uniform" else f"lora_mode {self.lora_mode!r}"
            raise ValueError(f"{what} needs a plan (tracescribe.prescribe, or a plan file)")
        if self.plan is not None and self.weighting == "uniform" and self.lora_mode is None:
            raise ValueError("a plan is given, and nothing uses it: set weighting or lora_mode, or leave the plan out")
        if not self.evaluate_every and (self.select != "last" or self.patience or self.retrace is not None):
            what = f"select {self.select!r}" if self.select != "last" else f"patience {self.patience}"
            what = what if self.retrace is None else "retrace"
            raise ValueError(f"{what} needs evaluations: set evaluate_every")
        if self.lambda_ != LAMBDA and not isinstance(self.loss, Nast):
            raise ValueError(f"lambda is {self.lambda_:g}, which only the loss 'nast' reads, not {self.loss.name!r}")
        if self.warmup and self.warmup >= self.steps and self.schedule != "constant":
            raise ValueError(f"warmup is {self.warmup}, which leaves none of {self.steps} steps to the schedule")
        if self.lora_mode == "scale" and self.weighting != "uniform":
            raise ValueError(
                f"lora_mode 'scale' with weighting {self.weighting!r} would multiply by the plan twice: use one"
            )
        return self

    @field_serializer("captions", "claims")
    def _files_as_json(self, files: Path | dict[Path, float] | None) -> Any:
        """Pydantic 2.10 takes a mapping for a path."""
        if isinstance(files, dict):
            return {str(path): weight for path, weight in files.items()}
        return None if files is None else str(files)

    @field_serializer("plan")
    def _plan_as_json(self, plan: Prescription | Path | None) -> Any:
        if isinstance(plan, Prescription):
            from ..prescription.io import to_record

            return to_record(plan).model_dump(mode="json")
        return None if plan is None else str(plan)

"""What a study compares: its arms, rates and seeds, and the data; read from YAML or given as an object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from ...arguments import explains_arguments
from ...checked import Checked
from ...io.quoting import shown
from ...io.yaml_files import read_yaml_as
from ..losses.options import KINDS, LossOptions
from ..prescription.selectors import By, check_by
from ..training.config import TrainConfig

NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+= -]{0,59}")  # of files, too
# Options of a run that the study sets itself.
SET_BY_THE_STUDY = (
    "model",
    "captions",
    "claims",
    "split",
    "images",
    "outside_images",
    "lr",
    "seed",
    "plan",
    "weighting",
    "lora_mode",
    "budget",
)


class Arm(Checked):
    """One way of training: which plan, and how it is applied.

    by: what chooses the blocks; see :func:`tracescribe.prescribe`. source: of a plan by the trace and its controls, the
    trace itself or its excess over the control trace; site: where both are patched. aggregate, normalize, layers, beta,
    budget, k, decay: options of prescribe. weighting, lora_mode: how the plan acts; see TrainConfig. loss: what is
    minimised; None: what the study's ``train`` says.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    by: By = "trace"
    source: Literal["trace", "excess"] = "trace"
    site: Literal["resid", "attn", "mlp"] = "resid"
    aggregate: str = "sum"
    normalize: str | None = None
    layers: Literal["blocks", "inner"] = "blocks"
    beta: float = Field(default=1.0, ge=0)
    budget: Literal["mean", "none"] = "mean"
    k: int | None = None
    decay: float | None = None
    weighting: Literal["uniform", "lr", "update", "gradient"] = "update"
    lora_mode: Literal["scale", "rank", "mask"] | None = None
    loss: LossOptions | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> Arm:
        check_by(self.by, self.k, self.decay)
        return self

    def training(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """The options of TrainConfig that all arms share, with this arm's loss."""
        if self.loss is None:
            return dict(shared)
        left_out = () if self.loss.name == "nast" else ("lambda_",)  # which no other loss reads
        return {**{name: value for name, value in shared.items() if name not in left_out}, "loss": self.loss}


PRESETS: dict[str, Arm] = {
    "uniform": Arm(by="uniform", weighting="uniform"),
    "nast": Arm(),
    "nast_lr": Arm(weighting="lr"),
    "nast_gradient": Arm(weighting="gradient"),
    "nast_scale": Arm(weighting="uniform", lora_mode="scale"),
    "nast_rank": Arm(weighting="uniform", lora_mode="rank"),
    "nast_mask": Arm(weighting="uniform", lora_mode="mask", budget="none"),
    "nast_inner": Arm(layers="inner"),
    "nast_floor": Arm(normalize="floor"),
    "excess": Arm(source="excess", layers="inner"),
    "differing": Arm(aggregate="differing", layers="inner"),
    "nast_attn": Arm(site="attn"),
    "nast_mlp": Arm(site="mlp"),
    "permuted": Arm(by="permuted"),
    "inverse": Arm(by="inverse"),
    "auto_rgn": Arm(by="gradient"),
    "fisher": Arm(by="fisher"),
    "weight_change": Arm(by="weight_change"),
    "front": Arm(by="front", k=4),
    "decay": Arm(by="decay", decay=0.8),
    "random": Arm(by="random", k=4),
    **{name: Arm(by="uniform", weighting="uniform", loss=KINDS[name]()) for name in ("negclip", "conclip", "negbench")},
}


class StudyConfig(Checked):
    """A comparison of ways of training, every one tuned alike.

    model: any name that ``ts.load`` takes; ``phantom:FOLDER`` is another miniature or an aligned image tower.
    data: a folder with pairs.jsonl, captions.jsonl, claims.jsonl and mcq.jsonl (``tracescribe build phantom``): runs
        train on the split "train", rates are chosen on "val", scores are those on "test".
    train_images: train on at most so many images of the split "train", the first ones; None: on all of them.
    score_images: choose rates on at most so many images of the split "val", the first ones, and score on as many of
        "test"; None: on all of them.
    attribute: which pairs are traced, of the images that are trained on; control: of which attributes the control pairs
        are. n_pairs: at most so many.
    arms: names of presets, or name: options of :class:`Arm`.
    rates: learning rates that every arm is tried with. tuning_seeds: seeds of each of these runs; the other seeds are
        run at the rate that is best on validation.
    select: what is best on validation: "balanced", the mean of claim accuracy, affirmative and negated accuracy and
        R@1; or one of them.
    interpolation: shares of the way from the base weights to the tuned ones that are scored too (WiSE-FT, arXiv
        2109.01903), by which arms are compared at equal preservation.
    train: options of TrainConfig that all arms share (steps, batch_size, rank, warmup, ...).
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = "phantom"
    data: Path
    train_images: int | None = Field(default=None, ge=2)
    score_images: int | None = Field(default=None, ge=2)
    attribute: str = "existence"
    control: tuple[str, ...] = ("severity", "location")
    n_pairs: int = Field(default=2000, ge=2)
    arms: dict[str, Arm] = Field(
        default_factory=lambda: {name: PRESETS[name] for name in ("uniform", "nast", "permuted", "inverse")},
        min_length=1,
    )
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-3, 3e-3), min_length=1)
    seeds: int = Field(default=8, ge=1, le=1000)
    tuning_seeds: int = Field(default=2, ge=1)
    select: Literal["balanced", "claims", "negated", "affirmative", "r1"] = "balanced"
    interpolation: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5, 0.75)
    train: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)

    @field_validator("arms", mode="before")
    @classmethod
    def _presets_by_name(cls, given: Any) -> Any:
        if isinstance(given, list | tuple):
            named = [(name, None) for name in given]
        elif isinstance(given, dict):
            named = list(given.items())
        else:
            raise ValueError("arms must be a list of names, or name: options")
        arms = {}
        for name, options in named:
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise ValueError(
                    f"an arm's name has up to 60 letters, digits, spaces and signs of '_.+=-', not {shown(name)}"
                )
            if options is None and name not in PRESETS:
                raise ValueError(f"there is no arm {shown(name)}; known are {', '.join(PRESETS)}, or give its options")
            arms[name] = PRESETS[name] if options is None else options
        return arms

    @model_validator(mode="after")
    def _seeds_and_training(self) -> StudyConfig:
        if self.tuning_seeds > self.seeds:
            raise ValueError(f"tuning_seeds is {self.tuning_seeds}, more than seeds ({self.seeds})")
        if len({f"{rate:g}" for rate in self.rates}) < len(self.rates):
            raise ValueError("a rate is given twice (as six digits tell it)")
        taken = [name for name in self.train if name in SET_BY_THE_STUDY]
        if taken:
            raise ValueError(f"train.{taken[0]} is set by the study itself; leave it out")
        TrainConfig(**self.train)
        return self


@explains_arguments
def read_study(path: str | Path) -> StudyConfig:
    """A study from a YAML file; ``data`` in it is relative to the file.

    Raises DataFormatError naming the file, the field and what was expected.
    """
    config = read_yaml_as(StudyConfig, path, "data: and arms:")
    return config.model_copy(update={"data": Path(path).parent / config.data})

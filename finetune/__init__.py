"""What training does with a trace: prescribe, layer-wise scaling, LoRA, losses, the training loop.

The names are imported on first use: a plan can be made and read without loading torch or peft.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if not __name__.startswith("tracescribe."):
    raise ImportError(
        f"import tracescribe.{__name__}, not {__name__}: this folder is a part of the package tracescribe"
    )

if TYPE_CHECKING:
    from . import data, lora, losses, prescription, scaling, training
    from .lora import attach_lora, effective_weights, load_lora, lora_config, merged_copy
    from .losses import claim_loss, clip_loss, nast_loss
    from .planfile import PlanFile, load_plan, plan_schema
    from .prescription import Prescription, prescribe
    from .runs import load_run
    from .scaling import Attachment, ScaleInvariantOptimizerWarning, attach, param_groups
    from .shares import UpdateShare, update_share
    from .stability import Stability
    from .training import TrainConfig, TrainResult, train

_WHERE = {
    "Attachment": "scaling",
    "PlanFile": "planfile",
    "Prescription": "prescription",
    "ScaleInvariantOptimizerWarning": "scaling",
    "Stability": "stability",
    "TrainConfig": "training",
    "TrainResult": "training",
    "UpdateShare": "shares",
    "attach": "scaling",
    "attach_lora": "lora",
    "claim_loss": "losses",
    "clip_loss": "losses",
    "effective_weights": "lora",
    "load_lora": "lora",
    "load_plan": "planfile",
    "load_run": "runs",
    "lora_config": "lora",
    "merged_copy": "lora",
    "nast_loss": "losses",
    "param_groups": "scaling",
    "plan_schema": "planfile",
    "prescribe": "prescription",
    "train": "training",
    "update_share": "shares",
}
_PARTS = ("data", "lora", "losses", "prescription", "scaling", "training")

__all__ = [
    "Attachment",
    "PlanFile",
    "Prescription",
    "ScaleInvariantOptimizerWarning",
    "Stability",
    "TrainConfig",
    "TrainResult",
    "UpdateShare",
    "attach",
    "attach_lora",
    "claim_loss",
    "clip_loss",
    "data",
    "effective_weights",
    "load_lora",
    "load_plan",
    "load_run",
    "lora",
    "lora_config",
    "losses",
    "merged_copy",
    "nast_loss",
    "param_groups",
    "plan_schema",
    "prescribe",
    "prescription",
    "scaling",
    "train",
    "training",
    "update_share",
]


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Training with a trace: prescribe layer weights, apply them, LoRA, losses, the training loop.

prescription/ makes the plan, apply/ puts it to use in any training loop, losses/ has what to minimise, training/ is a
loop of our own, study/ compares ways of training over rates and seeds; training_free.py edits embeddings.
The names are imported on first use: a plan can be made and read without loading torch or peft.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if not __name__.startswith("tracescribe."):
    raise ImportError(
        f"import tracescribe.{__name__}, not {__name__}: this folder is a part of the package tracescribe"
    )

if TYPE_CHECKING:
    from . import apply, losses, prescription, study, training
    from .apply.adapters import effective_weights, merged_copy
    from .apply.attachment import Attachment, attach
    from .apply.block_gradients import BlockGradients, block_gradients
    from .apply.gradient import ScaleInvariantOptimizerWarning
    from .apply.load import load_lora
    from .apply.lora import attach_lora, lora_config
    from .apply.param_groups import param_groups
    from .apply.update_share import UpdateShare, update_share
    from .losses import claim_loss, clip_loss, nast_loss
    from .prescription.io import PlanFile, load_plan, plan_schema
    from .prescription.plan import Prescription
    from .prescription.prescribe import prescribe
    from .prescription.rank_agreement import RankAgreement
    from .prescription.stability import Stability
    from .study.analysis import StudyResult, read_study_result
    from .study.config import StudyConfig, read_study
    from .study.runs import run_study
    from .training.config import TrainConfig
    from .training.config_files import read_config
    from .training.export import export, interpolate
    from .training.loop import train
    from .training.result import TrainResult
    from .training.runs import load_run
    from .training_free import SpaceVLM, spacevlm, split_negations

__all__ = [
    "Attachment",
    "BlockGradients",
    "PlanFile",
    "Prescription",
    "RankAgreement",
    "ScaleInvariantOptimizerWarning",
    "SpaceVLM",
    "Stability",
    "StudyConfig",
    "StudyResult",
    "TrainConfig",
    "TrainResult",
    "UpdateShare",
    "apply",
    "attach",
    "attach_lora",
    "block_gradients",
    "claim_loss",
    "clip_loss",
    "effective_weights",
    "export",
    "interpolate",
    "load_lora",
    "load_plan",
    "load_run",
    "lora_config",
    "losses",
    "merged_copy",
    "nast_loss",
    "param_groups",
    "plan_schema",
    "prescribe",
    "prescription",
    "read_config",
    "read_study",
    "read_study_result",
    "run_study",
    "spacevlm",
    "split_negations",
    "study",
    "train",
    "training",
    "update_share",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["apply", "losses", "prescription", "study", "training"],
    submod_attrs={
        "apply.adapters": ["effective_weights", "merged_copy"],
        "apply.attachment": ["Attachment", "attach"],
        "apply.block_gradients": ["BlockGradients", "block_gradients"],
        "apply.gradient": ["ScaleInvariantOptimizerWarning"],
        "apply.load": ["load_lora"],
        "apply.lora": ["attach_lora", "lora_config"],
        "apply.param_groups": ["param_groups"],
        "apply.update_share": ["UpdateShare", "update_share"],
        "losses": ["claim_loss", "clip_loss", "nast_loss"],
        "prescription.rank_agreement": ["RankAgreement"],
        "prescription.io": ["PlanFile", "load_plan", "plan_schema"],
        "prescription.plan": ["Prescription"],
        "prescription.prescribe": ["prescribe"],
        "prescription.stability": ["Stability"],
        "training_free": ["SpaceVLM", "spacevlm", "split_negations"],
        "study.analysis": ["StudyResult", "read_study_result"],
        "study.config": ["StudyConfig", "read_study"],
        "study.runs": ["run_study"],
        "training.config": ["TrainConfig"],
        "training.config_files": ["read_config"],
        "training.export": ["export", "interpolate"],
        "training.loop": ["train"],
        "training.result": ["TrainResult"],
        "training.runs": ["load_run"],
    },
)

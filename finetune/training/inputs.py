"""What a run is made from, by content: its plan, its data, and the files that these were read from."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ...io.folders import file_hash
from ..prescription.io import load_plan
from ..prescription.plan import Prescription

if TYPE_CHECKING:
    from .config import TrainConfig
    from .data import TrainingData


def with_plan(config: TrainConfig) -> TrainConfig:
    """The configuration with its plan in full in place of a file, which may be another one when the run goes on.

    Raises DataFormatError for a file that is no plan.
    """
    return config.model_copy(update={"plan": load_plan(config.plan)}) if isinstance(config.plan, Path) else config


def applied_plan(config: TrainConfig) -> Prescription | None:
    """The plan with the configuration's budget. Raises DataFormatError for a file that is no plan."""
    plan = with_plan(config).plan
    return plan.with_budget(config.budget) if isinstance(plan, Prescription) else None


def plan_hash(plan: Prescription | None) -> str | None:
    """SHA-256 of the multipliers, which are all that training reads of a plan."""
    return None if plan is None else hashlib.sha256(plan.multipliers.tobytes()).hexdigest()


def files_hash(config: TrainConfig) -> str | None:
    """SHA-256 of the files of captions and contrast sets; None where the configuration names none.

    Raises OSError for a file that cannot be read.
    """
    named = [config.captions, config.claims]
    paths = [path for files in named if files is not None for path in (files if isinstance(files, dict) else [files])]
    return hashlib.sha256("".join(map(file_hash, paths)).encode()).hexdigest() if paths else None


def data_hash(data: TrainingData) -> str:
    """SHA-256 of everything that training reads: token ids, image embeddings, contrast sets."""
    digest = hashlib.sha256()
    for part in fields(data):
        value = getattr(data, part.name)
        if value is None:  # what only some losses read
            continue
        if isinstance(value, Tensor):
            digest.update(f"{part.name} {value.dtype} {tuple(value.shape)}".encode())
            for rows in value.split(1 << 16):  # embeddings may be mapped from a disk, and larger than memory
                digest.update(rows.cpu().contiguous().numpy().data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()

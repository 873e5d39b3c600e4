"""The result of a training run: steps, losses, the tuned model, and how much each block changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ..apply.update_share import UpdateShare
from ..prescription.plan import Prescription
from .config import TrainConfig

if TYPE_CHECKING:
    from peft import PeftModel

    from ...patching import DualEncoder


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

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write adapters (peft's format), configuration and results into ``folder``, whole or not at all.

        overwrite: replace an earlier run, if the folder holds nothing else.

        Raises OutputError saying where the run was kept instead, when it cannot be written to ``folder``.
        """
        from .runs import save_run  # which writes what this module declares

        return save_run(self, folder, overwrite=overwrite)

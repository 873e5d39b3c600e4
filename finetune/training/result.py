"""The result of a training run: steps, losses, the tuned model, and how much each block changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ...cards import Markup, card, table
from ...tracer.results.read_only import ReadOnlyArrays
from ..apply.update_share import UpdateShare
from ..prescription.plan import Prescription
from .config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel

    from ...patching import DualEncoder


@dataclass(frozen=True)
class Step:
    """One optimiser step, as progress callbacks see it; the losses are those before the step.

    clip, claim: L_CLIP and L_claim; NaN for a loss that is no mean of the two.
    """

    step: int  # 1..steps
    steps: int
    loss: float
    clip: float
    claim: float
    seconds: float


@dataclass(frozen=True, eq=False)
class History(ReadOnlyArrays):
    """The losses and the learning rate of each step, before it was taken, and the scores of every evaluation.

    clip, claim: NaN for a loss that is no mean of L_CLIP and L_claim.
    """

    loss: Float[np.ndarray, " step"]
    clip: Float[np.ndarray, " step"]
    claim: Float[np.ndarray, " step"]
    lr: Float[np.ndarray, " step"]
    scores: tuple[dict[str, float], ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per step: step, loss, clip, claim, lr, and the scores (``val_...``) of the steps that have some.

        >>> rows = History(np.ones(2), np.ones(2), np.ones(2), np.ones(2), ({"step": 2, "claims": 50.0},)).to_frame()
        >>> rows["val_claims"].tolist()
        [nan, 50.0]
        """
        import pandas as pd

        losses = {"loss": self.loss, "clip": self.clip, "claim": self.claim, "lr": self.lr}
        frame = pd.DataFrame({"step": np.arange(1, len(self.loss) + 1), **losses})
        if not self.scores:
            return frame
        scores = pd.DataFrame(list(self.scores)).rename(columns=lambda name: name if name == "step" else f"val_{name}")
        return frame.merge(scores, on="step", how="left")


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished run.

    source: the tuned copy of the source module, with its peft adapters.
    model: the same weights with the adapters merged in, ready to be traced and evaluated.
    update: how much each block changed, ordered by the plan if there was one.
    plan: the weights as they were applied (after ``budget``), or None.
    base: name and fingerprint (``weights_sha256``, of the text tower) of the model that was started from, and hashes
        (``data_sha256``, ``plan_sha256``) of what it was trained on and with.
    best: the step of the best evaluation, whose weights these are unless ``config.select`` is "last".
    stopped: why training ended early, or None.
    before: scores of the model that was started from, where there were evaluations.
    """

    config: TrainConfig
    source: PeftModel
    model: DualEncoder
    history: History
    update: UpdateShare
    plan: Prescription | None
    seconds: float
    base: dict[str, str | None]
    best: int | None = None
    stopped: str | None = None
    before: dict[str, float] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The step whose weights these are."""
        return len(self.history.loss) if self.config.select == "last" or self.best is None else self.best

    def __repr__(self) -> str:
        first, last = self.history.loss[0], self.history.loss[-1]
        steps = f"{len(self.history.loss)} steps, {self.config.weighting} weighting, loss {first:.3f} to {last:.3f}"
        return f"TrainResult({self.config.model}: {steps}, {self.update!r})"

    def _repr_html_(self) -> str:
        loss, scores = self.history.loss, self.history.scores
        facts = [
            ("weighting", self.config.weighting),
            ("steps", f"{len(loss)} in {self.seconds:.0f} s" + (f"; stopped: {self.stopped}" if self.stopped else "")),
            ("loss", f"{loss[0]:.3f} to {loss[-1]:.3f}"),
            ("weights", f"of step {self.step}" + (", the best evaluation" if self.step == self.best else "")),
        ]
        kept = next((one for one in scores if one["step"] == self.step), None)
        compared = [[name, self.before.get(name), value] for name, value in (kept or {}).items() if name != "step"]
        tables = [table(["validation", "before", "after"], compared)] if compared else []
        return card("TrainResult", self.config.model, facts, *tables, Markup(self.update._repr_html_()))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write adapters (peft's format), configuration and results into ``folder``, whole or not at all.

        overwrite: replace an earlier run, if the folder holds nothing else.

        Raises OutputError saying where the run was kept instead, when it cannot be written to ``folder``.
        """
        from .runs import save_run  # which writes what this module declares

        return save_run(self, folder, overwrite=overwrite)

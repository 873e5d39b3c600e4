"""A callback for transformers' Trainer: attaches the plan when training begins, removes it when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ...errors import PrescriptionError
from .attachment import MODES, Attachment, attach, check_others

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

    from ..prescription.plan import Prescription


def prescription_callback(
    plan: Prescription,
    mode: Literal["update", "gradient"] = "update",
    module: nn.Module | None = None,
    others: float | None = None,
) -> TrainerCallback:
    """A TrainerCallback that scales the Trainer's optimiser by the plan.

    A Trainer that was interrupted and is started again is scaled once: what was attached before is taken off first.

    module: the CLIP inside the Trainer's model, where that is a module of your own; the Trainer's model by default.
    others: see :func:`tracescribe.finetune.attach`; by default all of ``module`` but its text blocks is held still.
    The class is made here because transformers is imported only where it is used.
    """
    from transformers import TrainerCallback

    if mode not in MODES:
        raise PrescriptionError(f"unknown mode {mode!r}; choose one of: {', '.join(MODES)}")
    check_others(others)

    class PrescriptionCallback(TrainerCallback):
        attachment: Attachment | None = None

        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
        ) -> None:
            self.on_train_end(args, state, control)
            self.attachment = attach(plan, model if module is None else module, optimizer, mode, others)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.attachment is not None:
                self.attachment.remove()
                self.attachment = None

    return PrescriptionCallback()

"""Models with adapters, and a step of their training."""

from __future__ import annotations

from typing import Any

import peft
import torch
from torch import nn

import tracescribe as ts


def with_lora(source: nn.Module, **options: Any) -> Any:
    """Random adapters on all layers of the text tower."""
    targets = ts.patching.lora_targets(source)
    return peft.get_peft_model(source, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **options))


def optimiser_step(wrapped: Any) -> None:
    """One step, by gradients of 1, of all that is trained."""
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.5)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()

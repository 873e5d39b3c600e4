"""The text tower over a copy of the source model with LoRA adapters, differentiable in the adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import PrescriptionError
from .lora import lora_deltas, merged_copy

if TYPE_CHECKING:
    from peft import PeftModel

    from ..patching import DualEncoder


class AdaptedText:
    """Runs our text tower with each weight W replaced by W + s B A.

    The tower trims texts where the source's own encoder cannot, serves every family of models alike, and never runs
    peft's forward, which for fused attention merges and unmerges the frozen weights at every call and thereby changes
    them by rounding. The frozen weights stay the same bit for bit.

    source: the copy with its adapters (peft). frozen: the copy's weights are never trained, only the adapters.
    """

    def __init__(self, model: DualEncoder, adapt: Callable[[nn.Module], PeftModel], seed: int) -> None:
        base = merged_copy(model.source) if _has_adapters(model.source) else copy.deepcopy(model.source)
        base.requires_grad_(False).eval()
        self.tower = rewrap(model, base).text
        in_tower = {parameter.data_ptr(): name for name, parameter in self.tower.named_parameters()}
        place = {name: in_tower.get(parameter.data_ptr()) for name, parameter in base.named_parameters()}
        cuda = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # the adapters' start depends on the seed and on nothing else
            torch.manual_seed(seed)
            self.source = adapt(base)
        adapted = lora_deltas(self.source)
        missing = [name for name in adapted if place.get(name) is None]
        if missing:
            raise PrescriptionError(
                f"the text tower does not use the adapted weight {missing[0]!r} of its source model"
            )
        self._place = {name: str(place[name]) for name in adapted}

    def __call__(self, ids: Int[Tensor, "text pos"]) -> Float[Tensor, "text embed"]:
        """L2-normalised embeddings of token ids, with gradients to the adapters."""
        frozen = dict(self.tower.named_parameters())
        weights = {}
        for name, delta in lora_deltas(self.source).items():
            weight = frozen[self._place[name]]
            weights[self._place[name]] = (weight + delta).to(weight.dtype)
        return F.normalize(functional_call(self.tower, weights, (ids,)).float(), dim=-1)


def rewrap(model: DualEncoder, source: nn.Module) -> DualEncoder:
    """Another source module of the same kind under the model's tokenizer, preprocessing and name."""
    from ..patching import wrap

    return wrap(source, tokenizer=model.text.tokenizer, preprocess=model.preprocess, name=model.name)


def _has_adapters(module: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(module, PeftModel)

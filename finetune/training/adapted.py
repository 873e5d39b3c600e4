"""The text tower over a copy of the source model with LoRA adapters, differentiable in the adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import PrescriptionError
from ...patching.towers.tower import normalise
from ..apply.adapters import lora_factors, merged_copy
from ..apply.blocks import source_of
from ..apply.lora import start_adapters
from .lowrank import install, trained_blocks
from .packing import PackedTexts

if TYPE_CHECKING:
    from peft import PeftModel

    from ...patching import DualEncoder


class AdaptedText:
    """Runs our text tower with W x + s B A x in the place of each adapted W x.

    The tower trims texts where the source's own encoder cannot, serves every family of models alike, and never runs
    peft's forward, which for fused attention merges and unmerges the frozen weights at every call and thereby changes
    them by rounding. The frozen weights stay the same bit for bit.

    source: the copy with its adapters (peft). model: the copy as a DualEncoder, whose texts pass the adapters. frozen:
    how many of the lowest blocks training cannot change, because they have no adapter or one that does not require
    gradients. The copy's weights are never trained, only adapters.
    """

    def __init__(self, model: DualEncoder, adapt: Callable[[nn.Module], PeftModel], seed: int) -> None:
        base = starting_copy(model.source).requires_grad_(False).eval()
        self.model = rewrap(model, base)
        self.tower = self.model.text
        in_tower = {parameter.data_ptr(): name for name, parameter in self.tower.named_parameters()}
        place = {name: in_tower.get(parameter.data_ptr()) for name, parameter in base.named_parameters()}
        cuda = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # peft draws from the caller's random state
            self.source = adapt(base)
        start_adapters(self.source, seed)
        factors = lora_factors(self.source)
        missing = [name for name in factors if place.get(name) is None]
        if missing:
            raise PrescriptionError(
                f"the text tower does not use the adapted weight {missing[0]!r} of its source model"
            )
        install(self.tower, {str(place[name]): adapters for name, adapters in factors.items()})
        trained = trained_blocks(self.tower)
        self.frozen = trained.index(True) if True in trained else len(trained) - 1

    def __call__(self, ids: Int[Tensor, "text pos"]) -> Float[Tensor, "text embed"]:
        """L2-normalised embeddings of token ids, with gradients to the adapters."""
        return normalise(self.tower(ids))

    def packed(self, ids: Int[Tensor, "text pos"], lengths: Int[Tensor, " text"]) -> PackedTexts:
        """A table of texts, embedded by number and faster; not normalised. See :class:`.packing.PackedTexts`."""
        return PackedTexts(self.tower, ids, lengths, frozen=self.frozen)


def starting_copy(source: nn.Module) -> nn.Module:
    """A copy of a source module for adapters of ours: those that it has are merged.

    It is the module below torch.compile and parallel training, whose names of parameters peft does not know.
    """
    inside = source_of(source)
    return merged_copy(inside) if _has_adapters(inside) else copy.deepcopy(inside)


def rewrap(model: DualEncoder, source: nn.Module) -> DualEncoder:
    """Another source module of the same kind under the model's tokenizer, preprocessing and name."""
    from ...patching import wrap

    return wrap(source, tokenizer=model.tokenizer, preprocess=model.preprocess, name=model.name)


def _has_adapters(module: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(module, PeftModel)

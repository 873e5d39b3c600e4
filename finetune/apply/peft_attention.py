"""peft's LoRA on ``nn.MultiheadAttention``, with the adapter of ``out_proj`` counted once.

peft up to 0.21 at least adds the out_proj adapter twice: merging writes W + D into the layer and then calls the layer's
own merge, which adds D again (huggingface/peft pull request 3774). As its forward pass merges too, an adapted open_clip
model computes W + 2 D while its gradients and its saved factors mean W + D, and the same adapters will mean something
else once that is repaired. Layers attached through this package count D once, under every version of peft.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import MultiheadAttention
from torch import Tensor, nn


class OnceMergedAttention(MultiheadAttention):
    """The same layer; merging adds the out_proj adapter once, and unmerging takes it off once."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        before = list(self.merged_adapters)
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)
        for adapter in self.merged_adapters[len(before) :]:
            inner, delta = self._out_proj(adapter)
            inner.weight.data -= delta  # .data: the merged weight stays in the graph of the forward pass

    def unmerge(self) -> None:
        for adapter in self.merged_adapters:
            inner, delta = self._out_proj(adapter)
            merged = inner.weight.detach() + delta  # a new tensor: the backward pass still needs the old one
            del inner.weight
            inner.weight = merged
        super().unmerge()

    def _out_proj(self, adapter: str) -> tuple[Any, Tensor]:
        """The plain out_proj layer, and what the adapter adds to its weight."""
        out_proj: Any = self.get_base_layer().out_proj
        inner = out_proj.get_base_layer()
        with torch.no_grad():
            return inner, out_proj.get_delta_weight(adapter).to(inner.weight.dtype)


def count_out_proj_once(module: nn.Module) -> None:
    """Repair every LoRA attention layer inside ``module``, where the installed peft needs it."""
    if not out_proj_is_counted_twice():
        return
    for layer in list(module.modules()):
        if type(layer) is MultiheadAttention:
            layer.__class__ = OnceMergedAttention


@cache
def out_proj_is_counted_twice() -> bool:
    """Whether the installed peft has the defect: asked of a two-dimensional attention layer, not of its version."""
    with torch.random.fork_rng(devices=[]):
        probe: Any = get_peft_model(
            nn.Sequential(nn.MultiheadAttention(2, 1)), LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
        )
    layer = probe.base_model.model[0]
    base = layer.get_base_layer().out_proj
    expected = base.get_base_layer().weight.detach() + base.get_delta_weight("default").detach()
    layer.merge()
    return not torch.allclose(base.get_base_layer().weight, expected, atol=1e-6)

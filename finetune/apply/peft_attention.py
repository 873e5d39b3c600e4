"""peft's LoRA on ``nn.MultiheadAttention``: how often the adapter of ``out_proj`` counts, and its gradient.

peft up to 0.21 at least adds the out_proj adapter twice (huggingface/peft pull request 3774): merging writes W + D into
the layer and then calls the layer's own merge, which adds D again. As its forward pass merges too, an adapted open_clip
model computes W + 2 D. An adapter therefore means what the peft that trained it computes. This package keeps to that:
its adapters give the same embeddings under stock peft, and stock peft's adapters the same under this package. Files of
another convention than the installed peft's are converted when they are loaded (:func:`.load.load_lora`).

The second D carries no gradient in peft, so that D would get half of its gradient. ``attach_lora`` repairs that, and
changes no value.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import MultiheadAttention
from torch import nn

LAST_KNOWN_TO_COUNT_TWICE = (0, 21)  # minor version of peft


class AttentionWithItsGradient(MultiheadAttention):
    """The same layer, where the out_proj adapter gets the gradient of the weight that the forward pass uses."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        before = list(self.merged_adapters)
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)
        out_proj: Any = self.get_base_layer().out_proj
        inner = out_proj.get_base_layer()
        for adapter in self.merged_adapters[len(before) :]:
            delta = out_proj.get_delta_weight(adapter).to(inner.weight.dtype)
            if delta.requires_grad:
                merged = inner.weight + (delta - delta.detach())  # adds exactly 0
                del inner.weight
                inner.weight = merged


def give_out_proj_its_gradient(module: nn.Module) -> None:
    """Repair the gradient of every LoRA attention layer inside ``module``, where the installed peft needs it."""
    if not out_proj_is_counted_twice():
        return
    for layer in list(module.modules()):
        if type(layer) is MultiheadAttention:
            layer.__class__ = AttentionWithItsGradient


@cache
def out_proj_is_counted_twice() -> bool:
    """Whether the installed peft does: tried on a two-dimensional attention layer, not read from its version."""
    with torch.random.fork_rng(devices=[]):
        probe: Any = get_peft_model(
            nn.Sequential(nn.MultiheadAttention(2, 1)), LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
        )
    layer = probe.base_model.model[0]
    base = layer.get_base_layer().out_proj
    once = base.get_base_layer().weight.detach() + base.get_delta_weight("default").detach()
    layer.merge()
    return not torch.allclose(base.get_base_layer().weight, once, atol=1e-6)


def out_proj_factor(saved_by: object) -> float:
    """What the out_proj factors of a file must be multiplied by to mean the same under the installed peft.

    saved_by: the file's ``peft_version``; versions that did not write it count twice.

    Raises ValueError for a version newer than the installed one where that decides the meaning.
    """
    import peft

    here = out_proj_is_counted_twice()
    version = _minor(saved_by)
    if here and version is not None and version > (_minor(peft.__version__) or LAST_KNOWN_TO_COUNT_TWICE):
        raise ValueError(
            f"they were saved by peft {saved_by}, which may count the out_proj adapters of fused attention once where "
            f"the installed {peft.__version__} counts them twice; install the peft that saved them"
        )
    there = version is None or version <= LAST_KNOWN_TO_COUNT_TWICE or here
    return (2.0 if there else 1.0) / (2.0 if here else 1.0)


def _minor(version: object) -> tuple[int, int] | None:
    parts = str(version).split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return None

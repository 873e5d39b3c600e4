"""The effective weights of a peft model (those that its forward pass uses), and merged copies."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...arguments import explains_arguments
from ...errors import PrescriptionError
from .blocks import source_of


@dataclass(frozen=True, eq=False)
class LowRank:
    """One adapter of one weight: it adds ``scale * b @ a``."""

    a: Float[Tensor, "r d_in"]
    b: Float[Tensor, "d_out r"]
    scale: float

    @property
    def trained(self) -> bool:
        """Whether training can change it."""
        return self.a.requires_grad or self.b.requires_grad


@explains_arguments
def effective_weights(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter of the module as its forward pass uses it (adapters added), by its name without peft.

    For a module without adapters these are its parameters. The weights of LoRA are differentiable in the adapters;
    where there is anything else (DoRA, IA3, LoKr, modules_to_save, ...) all weights are those of a merged copy, without
    gradients.

    Raises PrescriptionError, with its name, for a kind of adapter that is no change of the weights (prompt learning).
    """
    module = source_of(module)
    if _beyond_lora(module) is not None:
        return dict(merged_copy(module).named_parameters(remove_duplicate=False))
    deltas = lora_deltas(module)
    weights = {
        plain_name(name): parameter
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if not _IS_ADAPTER.search(name)
    }
    return {name: weight + deltas[name] if name in deltas else weight for name, weight in weights.items()}


@explains_arguments
@torch.no_grad()
def merged_copy(module: nn.Module) -> nn.Module:
    """An independent copy of the source module, its adapters added into the weights: trace it, export it, ship it.

    It computes what ``module`` computes: disabled adapters are left out, merged ones stay, modules_to_save replace the
    modules that they stand for.

    Raises PrescriptionError, with its name, for a kind of adapter that cannot be merged.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    twin = copy.deepcopy(source_of(module))
    if isinstance(twin, PeftModel):
        config = twin.active_peft_config
        if config.is_prompt_learning or config.is_adaption_prompt:
            raise PrescriptionError(
                f"adapters of type {config.peft_type.value} add tokens and change no weight, so that they cannot be "
                "merged; use LoRA or another adapter of weights"
            )
        twin = twin.get_base_model()
    while True:  # a wrapper may stand around another
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        layer = next((found for found in twin.named_modules() if isinstance(found[1], kinds)), None)
        if layer is None:
            break
        merged = _merged_layer(*layer)
        if not layer[0]:
            twin = merged
        else:
            parent, _, name = layer[0].rpartition(".")
            setattr(twin.get_submodule(parent), name, merged)
    if hasattr(twin, "peft_config"):
        del twin.peft_config  # peft's mark of a module that has adapters
    return twin.requires_grad_(False).eval()


def _merged_layer(name: str, layer: Any) -> nn.Module:
    """The plain layer that computes what peft's ``layer`` computes; ``layer`` is used up."""
    from peft.utils.other import ModulesToSaveWrapper

    try:
        merge = not layer.disable_adapters and not getattr(layer, "merged", False)
        if isinstance(layer, ModulesToSaveWrapper):
            active = layer.active_adapters if merge else []
            chosen = next((a for a in active if a in layer.modules_to_save), None)
            return layer.original_module if chosen is None else layer.modules_to_save[chosen]
        if layer.disable_adapters and getattr(layer, "merged", False):
            layer.unmerge()
        if hasattr(layer, "unload_and_optionally_merge_module"):
            return layer.unload_and_optionally_merge_module(merge=merge, safe_merge=False, adapter_names=None)
        if merge:
            layer.merge()
        return layer.get_base_layer()
    except (NotImplementedError, ValueError, RuntimeError, AttributeError, TypeError) as problem:
        kind = f"{type(layer).__module__}.{type(layer).__name__}".removeprefix("peft.tuners.")
        raise PrescriptionError(f"{name}: adapters of kind {kind} cannot be merged ({problem})") from problem


def lora_deltas(module: nn.Module) -> dict[str, Tensor]:
    """What the active LoRA adapters add to each weight: ``s B A``, differentiable, by the weight's name without peft.

    Merged or disabled adapters add nothing, and a module without adapters gives an empty dict.

    Raises PrescriptionError, with its name, for an adapter that is no plain LoRA.
    """
    deltas: dict[str, Tensor] = {}
    for name, layer, adapter, times in _active_lora(module):
        delta = layer.get_delta_weight(adapter) * times
        deltas[name] = deltas[name] + delta if name in deltas else delta
    return deltas


def lora_factors(module: nn.Module) -> dict[str, list[LowRank]]:
    """The factors of :func:`lora_deltas`: peft's own parameters A and B and the scale s, by the weight's name."""
    factors: dict[str, list[LowRank]] = {}
    for name, layer, adapter, times in _active_lora(module):
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        factors.setdefault(name, []).append(LowRank(a, b, layer.scaling[adapter] * times))
    return factors


def _active_lora(module: nn.Module) -> Iterator[tuple[str, Any, str, int]]:
    """Weight name without peft, peft's layer, adapter name, and how often the layer's forward pass adds the adapter."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import MultiheadAttention

    from .peft_attention import out_proj_is_counted_twice

    beyond = _beyond_lora(module)
    if beyond is not None:
        raise PrescriptionError(f"{beyond} is not supported here; use plain LoRA (peft.LoraConfig), or merge it first")
    twice: set[int] = set()
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, LoraLayer) or layer.merged or layer.disable_adapters:
            continue
        weight = "in_proj_weight" if isinstance(layer, MultiheadAttention) else "weight"
        if isinstance(layer, MultiheadAttention) and out_proj_is_counted_twice():
            twice.add(id(layer.get_base_layer().out_proj))
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A:
                yield plain_name(f"{name}.{weight}"), layer, adapter, 2 if id(layer) in twice else 1


def _beyond_lora(module: nn.Module) -> str | None:
    """The first thing of peft's in ``module`` that is more than an active plain LoRA of a linear layer, or None."""
    from peft import PeftModel
    from peft.tuners.lora import Linear, LoraLayer
    from peft.tuners.lora.layer import MultiheadAttention
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, PeftModel) and module.active_peft_config.is_prompt_learning:
        return str(module.active_peft_config.peft_type.value)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, AuxiliaryTrainingWrapper):
            return f"{type(layer).__name__.removesuffix('Wrapper')} of {plain_name(name)!r}"
        if not isinstance(layer, BaseTunerLayer):
            continue
        where = f"of {plain_name(name)!r}"
        if not isinstance(layer, LoraLayer):
            return f"{type(layer).__module__.split('.')[-2]} ({type(layer).__name__}) {where}"
        if layer.merged or layer.disable_adapters:
            continue
        for adapter in layer.active_adapters:
            if adapter in layer.lora_variant:
                return f"{type(layer.lora_variant[adapter]).__name__.removesuffix('Variant')} {where}"
            if adapter in layer.lora_embedding_A:
                return f"LoRA on an embedding, {where}"
            if layer.lora_bias.get(adapter):
                return f"lora_bias {where}"
            if adapter in layer.lora_A and not isinstance(layer, Linear | MultiheadAttention):
                return f"LoRA on a {type(layer).__name__}, {where}"
    return None


_IS_ADAPTER = re.compile(r"\.lora_[A-Za-z_]+\.")


def plain_name(name: str) -> str:
    """A parameter's name as it was before peft wrapped the module.

    >>> plain_name("base_model.model.transformer.resblocks.0.attn.base_layer.out_proj.base_layer.weight")
    'transformer.resblocks.0.attn.out_proj.weight'
    """
    return name.removeprefix("base_model.model.").replace(".base_layer", "")

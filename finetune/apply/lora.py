"""LoRA on the text tower by peft: exact targets, weights as scale, rank or mask, and what the adapters amount to."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ...errors import DataFormatError, PrescriptionError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from ..prescription.plan import Prescription
    from ..training.lowrank import LowRank

MODES = ("scale", "rank", "mask")


def lora_config(
    module: nn.Module,
    plan: Prescription | None = None,
    mode: Literal["scale", "rank", "mask"] | None = None,
    r: int = 8,
    lora_alpha: float | None = None,
    threshold: float = 0.5,
    **options: Any,
) -> LoraConfig:
    """A peft LoraConfig that adapts the text tower's linear layers and nothing else.

    The targets are one regular expression over full module names, so that a vision tower with blocks of the same names
    is never adapted; fused ``nn.MultiheadAttention`` is targeted as a whole, because peft ignores its ``out_proj``.

    mode None: the same adapter in every block. "scale": ``lora_alpha * multiplier`` in each block (the effective update
    B A lora_alpha / r is scaled, and with it the gradient of A and B). "rank": rank ``max(1, round(r * multiplier))``
    at an unchanged factor lora_alpha / r. "mask": adapters only in blocks with multiplier >= ``threshold``.
    Blocks with multiplier 0 get no adapter in any of the three.

    r: rank. lora_alpha: numerator of the factor lora_alpha / r; 2 r by default. options: passed on to LoraConfig.

    Raises PrescriptionError for an unknown mode, a mode without a plan, a rank below 1, different numbers of blocks, or
    a plan that leaves no block.
    """
    from peft import LoraConfig

    from ...patching import lora_targets

    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise PrescriptionError(f"LoRA's rank r must be a whole number of at least 1, not {r!r}")
    if mode is not None and mode not in MODES:
        raise PrescriptionError(f"unknown mode {mode!r}; choose one of: {', '.join(MODES)}, or None")
    if mode is not None and plan is None:
        raise PrescriptionError(f"LoRA mode {mode!r} needs a plan (tracescribe.prescribe)")
    numerator = 2.0 * r if lora_alpha is None else float(lora_alpha)
    targets = lora_targets(module)
    settings: dict[str, Any] = {"r": r, "lora_alpha": numerator, "target_modules": targets, **options}
    if mode is None or plan is None:
        return LoraConfig(**settings)

    names = _block_names(module, plan)
    smallest = threshold if mode == "mask" else 0.0
    kept = {
        name: float(multiplier)
        for name, multiplier in zip(names, plan.multipliers, strict=True)
        if multiplier > 0 and multiplier >= smallest
    }
    if not kept:
        raise PrescriptionError(f"no block has a multiplier of at least {smallest:g}, so that nothing would be adapted")
    settings["target_modules"] = rf"(?=(?:{'|'.join(map(re.escape, kept))})\.)(?:{targets})"
    if mode == "scale":
        settings["alpha_pattern"] = {_whole_block(name): numerator * factor for name, factor in kept.items()}
    elif mode == "rank":
        ranks = {name: max(1, round(r * factor)) for name, factor in kept.items()}
        settings["rank_pattern"] = {_whole_block(name): rank for name, rank in ranks.items()}
        settings["alpha_pattern"] = {_whole_block(name): numerator * rank / r for name, rank in ranks.items()}
    return LoraConfig(**settings)


def attach_lora(module: nn.Module, config: LoraConfig) -> PeftModel:
    """Put adapters into ``module`` (in place, as peft does) and freeze everything else.

    Fused attention gets its out_proj adapter once, where peft counts it twice (see :mod:`.peft_attention`).

    Raises PrescriptionError if anything outside the text tower's blocks were trainable.
    """
    from peft import get_peft_model

    from ...patching import text_blocks
    from .peft_attention import count_out_proj_once

    adapted = get_peft_model(module, config)
    count_out_proj_once(adapted)
    inside = {id(parameter) for block in text_blocks(adapted) for parameter in block.parameters()}
    outside = [name for name, p in adapted.named_parameters() if p.requires_grad and id(p) not in inside]
    if outside:
        raise PrescriptionError(
            f"the configuration also adapts {len(outside)} tensors outside the text blocks, such as {outside[0]!r}"
        )
    return adapted


def load_lora(module: nn.Module, folder: str | Path) -> PeftModel:
    """Put adapters saved by peft (or by a training run, its folder ``adapter``) into ``module``, in place.

    Raises DataFormatError when the folder holds no adapters for this module.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights
    from safetensors import SafetensorError

    from .peft_attention import count_out_proj_once

    if not (Path(folder) / "adapter_config.json").is_file():
        raise DataFormatError(f"{folder}: holds no adapters (adapter_config.json is missing)")
    # without a file peft would look for the folder's name on the network
    if not any((Path(folder) / f"adapter_model.{kind}").is_file() for kind in ("safetensors", "bin")):
        raise DataFormatError(f"{folder}: holds no adapters (adapter_model.safetensors is missing)")
    try:
        with warnings.catch_warnings():  # an error below says what this warning says
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(module, str(folder))
    except SafetensorError as problem:
        raise DataFormatError(f"{folder}: the adapters' file is damaged ({problem}); was it cut short?") from problem
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as problem:
        raise DataFormatError(f"{folder}: these adapters do not fit the module: {problem}") from problem
    # peft passes over names that only the file or only the module has
    different = sorted(set(load_peft_weights(str(folder), device="cpu")) ^ set(get_peft_model_state_dict(adapted)))
    if different:
        raise DataFormatError(
            f"{folder}: these adapters do not fit the module: {len(different)} tensors are in one of the two only, "
            f"such as {different[0]!r}"
        )
    count_out_proj_once(adapted)
    return adapted


def lora_deltas(module: nn.Module) -> dict[str, Tensor]:
    """What the active adapters add to each weight: ``s B A``, differentiable, by the weight's name without peft.

    Merged or disabled adapters add nothing, and a module without adapters gives an empty dict.
    """
    deltas: dict[str, Tensor] = {}
    for name, layer, adapter, times in _active_adapters(module):
        delta = layer.get_delta_weight(adapter) * times
        deltas[name] = deltas[name] + delta if name in deltas else delta
    return deltas


def lora_factors(module: nn.Module) -> dict[str, list[LowRank]]:
    """The factors of :func:`lora_deltas`: peft's own parameters A and B and the scale s, by the weight's name."""
    from ..training.lowrank import LowRank

    factors: dict[str, list[LowRank]] = {}
    for name, layer, adapter, times in _active_adapters(module):
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        factors.setdefault(name, []).append(LowRank(a, b, layer.scaling[adapter] * times))
    return factors


def _active_adapters(module: nn.Module) -> Iterator[tuple[str, Any, str, int]]:
    """Weight name without peft, peft's layer, adapter name, and how often the layer's forward pass adds the adapter."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import MultiheadAttention

    from .peft_attention import out_proj_is_counted_twice

    doubled: set[int] = set()  # out_proj layers of attention that was not attached through this package
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, LoraLayer) or layer.merged or layer.disable_adapters:
            continue
        weight = "in_proj_weight" if isinstance(layer, MultiheadAttention) else "weight"
        if type(layer) is MultiheadAttention and out_proj_is_counted_twice():
            doubled.add(id(layer.get_base_layer().out_proj))
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A:
                if getattr(layer, "use_dora", {}).get(adapter):
                    raise PrescriptionError(f"{name}: DoRA adapters are not supported; use plain LoRA (use_dora=False)")
                yield plain_name(f"{name}.{weight}"), layer, adapter, 2 if id(layer) in doubled else 1


def effective_weights(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter of the module as its forward pass uses it (adapters added), by its name without peft.

    For a module without adapters these are its parameters.
    """
    deltas = lora_deltas(module)
    weights = {
        plain_name(name): parameter
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }
    return {name: weight + deltas[name] if name in deltas else weight for name, weight in weights.items()}


@torch.no_grad()
def merged_copy(module: nn.Module) -> nn.Module:
    """An independent copy of the source module, its adapters added into the weights: trace it, export it, ship it."""
    from peft import PeftModel

    twin = copy.deepcopy(module)
    if isinstance(twin, PeftModel):
        twin = twin.merge_and_unload()
    return twin.requires_grad_(False).eval()


def plain_name(name: str) -> str:
    """A parameter's name as it was before peft wrapped the module.

    >>> plain_name("base_model.model.transformer.resblocks.0.attn.base_layer.out_proj.base_layer.weight")
    'transformer.resblocks.0.attn.out_proj.weight'
    """
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _block_names(module: nn.Module, plan: Prescription) -> list[str]:
    """Full names of the text blocks, found by identity."""
    from ...patching import text_blocks
    from .scaling import block_parameters

    block_parameters(plan, module)  # the same checks and messages as for the other ways to apply a plan
    names = {id(part): plain_name(name) for name, part in module.named_modules()}
    try:
        return [names[id(block)] for block in text_blocks(module)]
    except KeyError:
        raise PrescriptionError(
            f"the text blocks are no parts of this {type(module).__name__}; pass the source module (model.source)"
        ) from None


def _whole_block(name: str) -> str:
    # peft matches these keys against the end of a module's name, preceded by anything up to a dot
    return re.escape(name) + r"\..+"

"""LoRA on the text tower by peft: exact targets, and weights as scale, rank or mask."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from ...arguments import explains_arguments
from ...errors import PrescriptionError
from ...io.quoting import shown
from ...validation import is_number, is_whole
from .adapters import plain_name
from .blocks import block_parameters, say_if_of_other_weights, source_of

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from ..prescription.plan import Prescription

MODES = ("scale", "rank", "mask")


@explains_arguments
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

    mode None: the same adapter in every block. "scale": ``lora_alpha * multiplier`` in each block. The effective update
    B A lora_alpha / r is scaled, and with it the gradient of A and B: under Adam-like optimisers the weights change by
    the multiplier, under SGD by its square. "rank": rank ``max(1, round(r * multiplier))`` at an unchanged factor
    lora_alpha / r (or / sqrt(r), with use_rslora). "mask": adapters only in blocks with multiplier >= ``threshold``.
    Blocks with multiplier 0 get no adapter in any of the three.

    r: rank. lora_alpha: numerator of the factor lora_alpha / r; 2 r by default.
    options: passed on to LoraConfig. A mode acts inside the given ``target_modules``, and multiplies the given
        ``alpha_pattern`` and ``rank_pattern``.

    Raises PrescriptionError for an unknown mode, a mode without a plan, a rank below 1, different numbers of blocks, or
    a plan that leaves no block.
    """
    from ...patching import lora_targets

    _check_arguments(plan, mode, r, lora_alpha, threshold)
    _check_options(options)
    r = int(r)
    source = source_of(module)
    numerator = 2.0 * r if lora_alpha is None else float(lora_alpha)
    settings: dict[str, Any] = {"target_modules": lora_targets(source), **options, "r": r, "lora_alpha": numerator}
    if mode is None or plan is None:
        return _config(settings)

    names = _block_names(source, plan)
    say_if_of_other_weights(plan, source)
    smallest = threshold if mode == "mask" else 0.0
    kept = {
        name: float(multiplier)
        for name, multiplier in zip(names, plan.multipliers, strict=True)
        if multiplier > 0 and multiplier >= smallest
    }
    if not kept:
        raise PrescriptionError(f"no block has a multiplier of at least {smallest:g}, so that nothing would be adapted")
    targets = settings["target_modules"]
    if not isinstance(targets, str):  # peft matches names in a list against the end of a module's name
        targets = rf"(?:.*\.)?(?:{'|'.join(map(re.escape, targets))})"
    settings["target_modules"] = rf"(?=(?:{'|'.join(map(re.escape, kept))})\.)(?:{targets})"
    if mode == "mask":
        return _config(settings)

    power = 0.5 if settings.get("use_rslora") else 1.0
    ranks, numerators = {}, {}
    for pattern, factor, rank, alpha in _patterns(source, kept, settings):
        ranks[pattern] = max(1, round(rank * factor)) if mode == "rank" else rank
        numerators[pattern] = alpha * factor if mode == "scale" else alpha * (ranks[pattern] / rank) ** power
    if mode == "rank" or settings.get("rank_pattern"):
        settings["rank_pattern"] = ranks
    return _config({**settings, "alpha_pattern": numerators})


def _check_arguments(plan: Any, mode: Any, r: Any, lora_alpha: Any, threshold: Any) -> None:
    if not is_whole(r, least=1):
        raise PrescriptionError(f"LoRA's rank r must be a whole number of at least 1, not {shown(r)}")
    if mode is not None and mode not in MODES:
        raise PrescriptionError(f"unknown mode {mode!r}; choose one of: {', '.join(MODES)}, or None")
    if mode is not None and plan is None:
        raise PrescriptionError(f"LoRA mode {mode!r} needs a plan (tracescribe.prescribe)")
    if plan is not None and not hasattr(plan, "multipliers"):
        raise PrescriptionError(f"plan must be a plan (tracescribe.prescribe) or None, not {shown(plan)}")
    for name, number in (("lora_alpha", 1.0 if lora_alpha is None else lora_alpha), ("threshold", threshold)):
        if not is_number(number):
            raise PrescriptionError(f"{name} must be a finite number, not {shown(number)}")


def _check_options(options: dict[str, Any]) -> None:
    """What is read here of peft's options; the others are checked by peft."""
    given = options.get("target_modules", ".*")
    if not isinstance(given, str) and not (
        isinstance(given, list | tuple | set) and all(isinstance(name, str) for name in given)
    ):
        raise PrescriptionError(f"target_modules must be a pattern or a list of module names, not {shown(given)}")
    for name, value in options.items():
        if hasattr(value, "__array__"):
            raise PrescriptionError(f"{name} must be an option of peft, not {shown(value)}")
    for name in ("alpha_pattern", "rank_pattern"):
        if not isinstance(options.get(name, {}), dict):
            raise PrescriptionError(f"{name} must give numbers by module names, not {shown(options[name])}")
        for pattern in options.get(name, {}):
            try:
                re.compile(rf"(.*\.)?({pattern})$")  # as peft does
            except re.error as problem:
                raise PrescriptionError(f"{name}: {shown(pattern)} is no regular expression ({problem})") from problem


def _config(settings: dict[str, Any]) -> LoraConfig:
    from peft import LoraConfig

    try:
        return LoraConfig(**settings)
    except Exception as problem:  # peft raises many kinds
        raise PrescriptionError(f"peft refuses these options of LoRA: {str(problem)[:300]}") from problem


@explains_arguments
def attach_lora(module: nn.Module, config: LoraConfig, seed: int | None = None) -> PeftModel:
    """Put adapters into ``module`` (in place, as peft does) and freeze everything else.

    The adapters compute what they compute under stock peft (see :mod:`.peft_attention`).

    seed: start of the adapters' A, by module name, so that adapters of other ranks or in fewer blocks start alike where
        both have them; None leaves peft's own start, from torch's generator.

    Raises PrescriptionError if anything outside the text tower's blocks were trainable.
    """
    from peft import get_peft_model

    from ...patching import text_blocks
    from .peft_attention import give_out_proj_its_gradient

    adapted = get_peft_model(source_of(module), config)
    give_out_proj_its_gradient(adapted)
    inside = {id(parameter) for block in text_blocks(adapted) for parameter in block.parameters()}
    outside = [name for name, p in adapted.named_parameters() if p.requires_grad and id(p) not in inside]
    if outside:
        raise PrescriptionError(
            f"the configuration also adapts {len(outside)} tensors outside the text blocks, such as {outside[0]!r}"
        )
    if seed is not None:
        if config.init_lora_weights is not True:
            raise PrescriptionError(
                f"a seed starts adapters in peft's default way, not with init_lora_weights={config.init_lora_weights!r}"
            )
        start_adapters(adapted, seed)
    return adapted


@torch.no_grad()
def start_adapters(module: nn.Module, seed: int) -> None:
    """Give every A of B A its first values, uniform in +-1/sqrt(fan-in) as peft's; B stays 0.

    They depend on the seed, the weight's name and the row only: runs with other ranks, or with adapters on fewer
    weights, start from the same values where both have some.
    """
    for name, parameter in module.named_parameters():
        if ".lora_A." in name:
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            drawn = generator.uniform(-1, 1, size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn / np.sqrt(parameter.shape[1])))


def _patterns(
    source: nn.Module, kept: dict[str, float], settings: dict[str, Any]
) -> Iterable[tuple[str, float, int, float]]:
    """For each block, or each target where the user gave patterns: peft's key, multiplier, rank and numerator."""
    from peft.utils.other import get_pattern_key

    r, numerator = settings["r"], settings["lora_alpha"]
    ranks, numerators = settings.get("rank_pattern") or {}, settings.get("alpha_pattern") or {}
    if not ranks and not numerators:
        return [(rf"{re.escape(name)}\..+", factor, r, numerator) for name, factor in kept.items()]
    matches: Callable[[str], Any] = re.compile(settings["target_modules"]).fullmatch
    targets = [name for name in (plain_name(name) for name, _ in source.named_modules()) if matches(name)]
    # peft takes the first key that ends a module's name: of names that end alike the longer one comes first
    return [
        (
            re.escape(name),
            next(factor for block, factor in kept.items() if name.startswith(f"{block}.")),
            ranks.get(get_pattern_key(ranks, name), r),
            numerators.get(get_pattern_key(numerators, name), numerator),
        )
        for name in sorted(targets, key=len, reverse=True)
    ]


def _block_names(module: nn.Module, plan: Prescription) -> list[str]:
    """Full names of the text blocks, found by identity."""
    from ...patching import text_blocks

    block_parameters(plan, module)  # the same checks and messages as for the other ways to apply a plan
    names = {id(part): plain_name(name) for name, part in module.named_modules()}
    try:
        return [names[id(block)] for block in text_blocks(module)]
    except KeyError:
        raise PrescriptionError(
            f"the text blocks are no parts of this {type(module).__name__}; pass the source module (model.source)"
        ) from None

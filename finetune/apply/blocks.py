"""Which parameters belong to which text block, and whether a plan was made for this module."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import PrescriptionError, TracescribeError

if TYPE_CHECKING:
    from ..prescription.plan import Prescription

logger = logging.getLogger(__name__)


def source_of(module: Any) -> nn.Module:
    """The source module inside a DualEncoder, DistributedDataParallel, DataParallel or ``torch.compile``.

    A peft wrapper stays: its adapters are what is trained.
    """
    from ...patching.adapters.wrappers import class_names, unwrapped

    module = unwrapped(module)
    if "tracescribe.DualEncoder" in class_names(module):
        module = unwrapped(module.source)
    return module


def block_parameters(plan: Prescription, module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each text block 1..L, found by identity: parameters are never assigned by parsing names.

    Raises PrescriptionError when the plan and the module have different numbers of blocks, or blocks share parameters
    (also in a flat parameter of FSDP).
    """
    from ...patching import text_blocks

    module = source_of(module)
    blocks = text_blocks(module)
    if len(blocks) != plan.n_blocks:
        shape = plan.provenance.get("shape", [])
        transposed = len(shape) == 2 and shape[1] == len(blocks) + 1
        hint = (
            f"; the plan came from an array {shape}: if layers are its second axis, pass its transpose"
            if transposed
            else ""
        )
        raise PrescriptionError(
            f"the plan has weights for {plan.n_blocks} blocks, but this module's text tower has {len(blocks)}{hint}"
        )
    refuse_shared_parameters(blocks)
    _refuse_flat_parameters(module, blocks)
    return [list(block.parameters()) for block in blocks]


def refuse_shared_parameters(blocks: Sequence[nn.Module]) -> None:
    """Refuse blocks that share parameters (ALBERT), which have no layer of their own.

    Raises PrescriptionError.
    """
    owner: dict[int, int] = {}
    for layer, block in enumerate(blocks, start=1):
        for parameter in block.parameters():
            if owner.setdefault(id(parameter), layer) != layer:
                raise PrescriptionError(
                    f"blocks {owner[id(parameter)]} and {layer} share a parameter, which cannot have two weights"
                )


def _refuse_flat_parameters(module: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Refuse blocks whose parameters FSDP has put into one flat parameter with those of other modules."""
    layer_of = {id(part): layer for layer, block in enumerate(blocks, start=1) for part in block.modules()}
    joined = {layer for layer, block in enumerate(blocks, start=1) if next(block.parameters(), None) is None}
    for parameter in module.parameters():
        inside = [layer_of.get(id(info.module), 0) for info in getattr(parameter, "_param_infos", ())]
        if len(set(inside)) > 1:
            joined |= set(inside)
    for layer in sorted(joined - {0}):
        raise PrescriptionError(
            f"FSDP has put parameters of text block {layer} into a flat parameter together with others, which cannot "
            "have several weights: use FullyShardedDataParallel(..., use_orig_params=True), or an auto_wrap_policy "
            "that wraps each block"
        )


def refuse_scaled_adapters(plan: Prescription, module: nn.Module) -> None:
    """Refuse adapters whose factors carry the plan's multipliers already: everything would be multiplied twice.

    Raises PrescriptionError when the factors of the blocks' LoRA layers are proportional to the multipliers.
    """
    from ...patching import text_blocks

    ratios, factors = set(), set()
    for block, multiplier in zip(text_blocks(source_of(module)), plan.multipliers, strict=True):
        for layer in block.modules():
            scaling = getattr(layer, "scaling", None)
            if not isinstance(scaling, dict):
                continue
            for factor in scaling.values():
                factors.add(round(float(factor), 9))
                ratios.add(round(float(factor / multiplier), 6) if multiplier else 0.0)
    if len(factors) > 1 and len(ratios) == 1:
        raise PrescriptionError(
            "the adapters carry this plan's multipliers already (lora_config mode 'scale'), and every update would be "
            "multiplied twice: use either the adapters or the optimiser, not both"
        )


def say_if_of_other_weights(plan: Prescription, module: Any) -> None:
    """Log a warning when the plan was made from a trace of other text weights than those of ``module``.

    This is allowed, and easily a mistake: nothing but the number of blocks would tell. The adapters of a peft model do
    not count. Nothing is said where the plan's trace, or the module's weights, are not known.
    """
    traced = plan.provenance.get("trace")
    known = traced.get("weights_sha256") if isinstance(traced, dict) else None
    if not isinstance(traced, dict) or not isinstance(known, str):
        return
    found = _fingerprint(module)
    if found is not None and found != known:
        logger.warning(
            "the plan was made from a trace of %r with other text weights than those that are trained now: load the "
            "model that was traced, or trace this one",
            traced.get("model", "another model"),
        )


def _fingerprint(module: Any) -> str | None:
    from ...patching import TextTower
    from ...patching.adapters.registry import adapter_for
    from ...patching.adapters.wrappers import class_names, inner_source

    if "tracescribe.DualEncoder" in class_names(module):
        module = module.text
    if isinstance(module, TextTower):
        return module.fingerprint()
    base = inner_source(module)
    layers: list[Any] = [layer for layer in base.modules() if "peft.BaseTunerLayer" in class_names(layer)]
    if any(layer.merged for layer in layers):
        return None
    disabled = [layer for layer in layers if not layer.disable_adapters]
    try:
        for layer in disabled:
            layer._disable_adapters = True  # read by `disable_adapters`; no gradient flag moves
        with torch.no_grad():
            return adapter_for(base)[0].build_tower(base, _NoTexts()).fingerprint()
    except (TracescribeError, AttributeError, TypeError, RuntimeError):  # sharded, or on the meta device
        return None
    finally:
        for layer in disabled:
            layer._disable_adapters = False


class _NoTexts:
    """Stands for the tokenizer of a tower that is built for its weights only."""

    pad_id = 0
    special_ids: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def strings(self, ids: Sequence[int]) -> list[str]:
        raise NotImplementedError

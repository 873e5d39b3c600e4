"""From what a user has (a dual encoder, or a compiled, parallel or peft-wrapped model) to the source model inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ...errors import UnsupportedTowerError

# Modules that hold one other module and add nothing to what it computes, and how to reach it.
_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "torch.OptimizedModule": lambda wrapper: wrapper._orig_mod,  # torch.compile(module)
    "torch.DistributedDataParallel": lambda wrapper: wrapper.module,
    "torch.DataParallel": lambda wrapper: wrapper.module,
    "torch.FullyShardedDataParallel": lambda wrapper: wrapper.module,
    "torch.AveragedModel": lambda wrapper: wrapper.module,
    "deepspeed.DeepSpeedEngine": lambda wrapper: wrapper.module,
}
_HOLDERS: dict[str, Callable[[Any], Any]] = {
    "tracescribe.DualEncoder": lambda model: model.source,
    "peft.PeftModel": lambda wrapper: _base_of(wrapper),
    "peft.PeftMixedModel": lambda wrapper: wrapper.base_model.model,
    "peft.BaseTuner": lambda tuner: tuner.model,
}
_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # of weights that a tower computes with


def class_names(thing: Any) -> frozenset[str]:
    """Names of the class of ``thing`` and its bases, as ``package.Class``: a type test that imports no library."""
    return _names_of(type(thing))  # type: ignore[arg-type]  # a class is hashable


@lru_cache(maxsize=1024)
def _names_of(kind: type) -> frozenset[str]:
    return frozenset(f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in kind.__mro__)


def unwrapped(module: Any) -> Any:
    """The module inside the wrappers of torch.compile and parallel training; any other module as it is."""
    return _inside(module, _WRAPPERS)


def inner_source(thing: Any) -> nn.Module:
    """The source model inside whatever a user passes.

    Seen through, in any order and number: :class:`DualEncoder`, torch.compile, DataParallel, DistributedDataParallel,
    FSDP, ``swa_utils.AveragedModel``, DeepSpeed engines and peft models (whose adapters stay where they are, in the
    layers).

    Raises:
        UnsupportedTowerError: a peft model that changes the inputs (prompt tuning), or nothing that holds a module.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> inner_source(torch.nn.DataParallel(layer)) is layer
    True
    """
    source = _inside(thing, _WRAPPERS | _HOLDERS)
    if not isinstance(source, nn.Module):
        raise UnsupportedTowerError(
            f"a {type(thing).__module__}.{type(thing).__name__} is no model: pass a torch module, or a DualEncoder"
        )
    return source


def computing_hooks(layer: nn.Module) -> list[Callable[[nn.Module, Any], Any]]:
    """The hooks by which torch.nn.utils computes a weight at each pass: weight_norm, spectral_norm, prune.

    Between two passes such a layer holds the weight that its last pass computed, which may be out of date.
    """
    return [hook for hook in layer._forward_pre_hooks.values() if type(hook).__module__.startswith("torch.nn.utils.")]


def peft_root(thing: Any) -> nn.Module:
    """The module whose layers peft names: below any :class:`DualEncoder` and peft model, other wrappers included."""
    root = thing
    while True:
        below = _inside(thing, _WRAPPERS)
        thing = _inside(below, _HOLDERS)
        if thing is below:
            return root
        root = thing


def kinds(module: Any) -> frozenset[str]:
    """:func:`class_names` of the module inside any wrapper of torch.compile or parallel training."""
    return class_names(unwrapped(module))


def _inside(thing: Any, ways: dict[str, Callable[[Any], Any]]) -> Any:
    while True:
        found = class_names(thing)
        way = next((ways[name] for name in ways if name in found), None)
        if way is None:
            return thing
        thing = way(thing)


def _base_of(wrapper: Any) -> Any:
    """The model below a ``peft.PeftModel``.

    Raises:
        UnsupportedTowerError: its adapter adds virtual tokens instead of changing weights.
    """
    if wrapper.active_peft_config.is_prompt_learning:
        raise UnsupportedTowerError(
            f"the peft model's adapter is of type {wrapper.active_peft_config.peft_type.value}, which adds virtual "
            f"tokens to every text: only adapters that change weights (LoRA and its relatives) can be traced"
        )
    return wrapper.get_base_model()


def check_unsharded(source: nn.Module) -> None:
    """Raise if this process holds only a part of each weight.

    Raises:
        UnsupportedTowerError: the model is sharded by FSDP, or its weights are distributed or not loaded at all.
    """
    sharded = any("torch.FullyShardedDataParallel" in class_names(module) for module in source.modules())
    if sharded or any("torch.DTensor" in class_names(parameter) for parameter in source.parameters()):
        raise UnsupportedTowerError(
            f"the weights of this {type(source).__name__} are sharded over processes (FSDP), and a text tower needs "
            f"all of them: load torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            f"options=StateDictOptions(full_state_dict=True)) into an unsharded model and wrap that"
        )
    tensors = [*source.named_parameters(), *source.named_buffers()]
    meta = next((name for name, tensor in tensors if tensor.is_meta), None)
    if meta is not None:
        raise UnsupportedTowerError(
            f"the tensor {meta!r} of this {type(source).__name__} is on the meta device, which holds no values: load "
            f"the weights before wrapping"
        )


def check_unquantised(source: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Raise if a layer in ``parts`` of ``source`` computes with quantised weights.

    Raises:
        UnsupportedTowerError: names the layer and what holds its weights (torch.ao, torchao, bitsandbytes, float8).
    """
    names = {module: name for name, module in source.named_modules()}
    for module in (module for part in parts for module in part.modules()):
        kind = type(module)
        quantised = f"{kind.__module__}.{kind.__name__}" if kind.__module__.startswith("torch.ao.nn.") else None
        for parameter in module.parameters(recurse=False):
            if parameter.dtype not in _PRECISIONS or hasattr(parameter, "__tensor_flatten__"):
                quantised = f"{type(parameter).__name__} of {str(parameter.dtype).removeprefix('torch.')}"
        if quantised is not None:
            raise UnsupportedTowerError(
                f"the layer {names.get(module, kind.__name__)!r} of this {type(source).__name__} has quantised weights "
                f"({quantised}), which no tower computes with: load the model without quantisation"
            )

"""Reading weights out of source modules: shared when plain, effective (computed, not merged in place) under peft."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..layers import LayerNorm, Linear


def kinds(module: Any) -> set[str]:
    """Names of a module's class and its bases, as ``package.Class``: a type test that imports no library."""
    return {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(module).__mro__}


def unwrap(module: nn.Module) -> nn.Module:
    """The source model inside peft's wrapper (its adapters stay where they are, in the layers)."""
    return module.get_base_model() if "peft.PeftModel" in kinds(module) else module  # type: ignore[operator]


def has_adapters(module: nn.Module) -> bool:
    """Whether any layer of ``module`` carries a peft adapter."""
    return any("peft.BaseTunerLayer" in kinds(layer) for layer in module.modules())


def plain(layer: nn.Module) -> nn.Module:
    """``layer`` itself, or, for a peft layer, a copy of it with its active adapters merged in.

    The copy is merged, never the user's layer. A tower over it is a snapshot: wrap again after more training.
    """
    if "peft.BaseTunerLayer" not in kinds(layer):
        return layer
    tuner: Any = layer
    if not tuner.disable_adapters and not tuner.merged:
        tuner = copy.deepcopy(tuner)
        tuner.merge()
    return tuner.get_base_layer()


def linear(layer: nn.Module) -> Linear:
    """Our linear layer over ``layer``'s weight and bias."""
    source = plain(layer)
    if not isinstance(source, nn.Linear):
        raise UnsupportedTowerError(f"expected a linear layer, found {type(layer).__name__}")
    return Linear(source.weight, source.bias)


def layer_norm(layer: nn.Module) -> LayerNorm:
    """Our layer norm over ``layer``'s weight and bias."""
    source = plain(layer)
    if not isinstance(source, nn.LayerNorm):
        raise UnsupportedTowerError(f"expected a layer norm, found {type(layer).__name__}")
    return LayerNorm(source)


def stateless(activation: nn.Module) -> nn.Module:
    """A copy of an activation, which must hold no parameters."""
    if any(True for _ in activation.parameters()):
        raise UnsupportedTowerError(f"the activation {type(activation).__name__} has parameters of its own")
    return copy.deepcopy(activation)


def has(module: Any, path: str) -> bool:
    """Whether ``module`` has an attribute at a dotted path, and it is not None."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module is not None

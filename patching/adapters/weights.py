"""Reads weights from source modules: shared as they are, or effective (computed, not merged in place) under peft."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ...errors import SiteError, UnsupportedTowerError
from ..towers.block import Attention
from ..towers.hooks import share
from ..towers.image_tower import ImageTower
from ..towers.layers import BatchNorm, LayerNorm, Linear, RMSNorm, SplitQKV
from ..towers.relative_positions import Rotary
from .wrappers import class_names, computing_hooks, unwrapped


def has_adapters(module: nn.Module) -> bool:
    """Whether any layer of ``module`` carries a peft adapter."""
    return any("peft.BaseTunerLayer" in class_names(layer) for layer in module.modules())


def plain(layer: nn.Module) -> nn.Module:
    """``layer`` itself, or what it computes at this moment where it is wrapped.

    For a peft layer: a copy with its active adapters merged in (never the user's layer), or its base layer where
    adapters are disabled or merged already. For peft's ``modules_to_save``: the module in use.

    Raises:
        UnsupportedTowerError: the adapter cannot be merged into the layer.
    """
    layer = unwrapped(layer)
    found = class_names(layer)
    wrapper: Any = layer
    if "peft.ModulesToSaveWrapper" in found:
        used = [] if wrapper.disable_adapters else wrapper.active_adapters
        return plain(wrapper.modules_to_save[used[0]] if used else wrapper.original_module)
    if "peft.TrainableTokensWrapper" in found:
        return plain(wrapper.token_adapter)
    if "peft.BaseTunerLayer" not in found:
        return _with_current_weights(layer)
    if wrapper.disable_adapters == wrapper.merged:
        wrapper = copy.deepcopy(wrapper)
        try:
            wrapper.unmerge() if wrapper.merged else wrapper.merge()
        except (NotImplementedError, AttributeError, TypeError, ValueError) as error:
            raise UnsupportedTowerError(
                f"the adapter layer {type(wrapper).__name__} cannot be merged into its {type(layer).__name__} "
                f"({error or 'its kind has no merged form'}): merge or remove this adapter before wrapping"
            ) from error
    return _with_current_weights(unwrapped(wrapper.get_base_layer()))


def _with_current_weights(layer: nn.Module) -> nn.Module:
    """``layer``, or where torch.nn.utils computes its weight at each pass: a copy that shows what a pass would use."""
    hooks = computing_hooks(layer)
    if not hooks:
        return layer
    shown = copy.copy(layer)  # holds the same parameters; the computed weight is an attribute of the copy alone
    shown.training = False  # spectral_norm moves its vectors in training
    for hook in hooks:
        hook(shown, ())
    return shown


def table(embedding: nn.Module) -> Tensor:
    """The vectors of an embedding layer, adapters included."""
    source: Any = plain(embedding)
    if getattr(source, "max_norm", None) is not None:  # a pass of the source rewrites the rows that it reads
        raise UnsupportedTowerError(
            f"this {type(source).__name__} has max_norm={source.max_norm}, by which each pass changes its weights: set "
            f"it to None, with weights that are within it"
        )
    return source.weight


def _kind(layer: nn.Module) -> str:
    """The class of a layer with its module: several libraries call theirs ``Linear``."""
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def linear(layer: nn.Module) -> Linear:
    """Our linear layer over ``layer``'s weight and bias."""
    source = plain(layer)
    if not isinstance(source, nn.Linear):
        raise UnsupportedTowerError(f"expected a linear layer, found {_kind(layer)}")
    return Linear(source.weight, source.bias)


def layer_norm(layer: nn.Module) -> LayerNorm:
    """Our layer norm over ``layer``'s weight and bias."""
    source = plain(layer)
    if not isinstance(source, nn.LayerNorm):
        raise UnsupportedTowerError(f"expected a layer norm, found {_kind(layer)}")
    return LayerNorm(source)


def rms_norm(layer: nn.Module, cast: bool = False, single: bool = False) -> RMSNorm:
    """Our RMS norm over ``layer``'s weight; cast, single: see :class:`RMSNorm`."""
    source: Any = plain(layer)
    eps = getattr(source, "variance_epsilon", getattr(source, "eps", None))
    if [name for name, _ in source.named_parameters()] != ["weight"] or eps is None or isinstance(source, nn.LayerNorm):
        raise UnsupportedTowerError(f"expected an RMS norm, found {_kind(layer)}")
    return RMSNorm(source.weight, eps, cast, single)


def batch_norm(layer: nn.Module) -> BatchNorm:
    """Our batch norm over ``layer``'s weight, bias and running statistics."""
    source = plain(layer)
    if not isinstance(source, nn.BatchNorm1d) or source.running_mean is None:
        raise UnsupportedTowerError(f"expected a batch norm with running statistics, found {_kind(layer)}")
    return BatchNorm(source)


def head(projection: nn.Module) -> list[nn.Module]:
    """What follows the pooled row: one layer, or an ``nn.Sequential`` of linear layers, norms and activations."""
    layers = projection if isinstance(projection, nn.Sequential) else [projection]
    return [_layer(layer) for layer in layers]


def _layer(layer: nn.Module) -> nn.Module:
    source = plain(layer)
    if isinstance(source, nn.BatchNorm1d):
        return batch_norm(layer)
    if isinstance(source, nn.LayerNorm):
        return layer_norm(layer)
    return linear(layer) if hasattr(source, "weight") else stateless(layer)


def attention(source: Any) -> Attention:
    """Our attention over one with ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj`` and ``num_heads``."""
    return Attention(
        SplitQKV(linear(source.q_proj), linear(source.k_proj), linear(source.v_proj)),
        linear(source.out_proj),
        source.num_heads,
    )


def rotary(encoder: Any, kind: str | None = None, window: int | None = None) -> Rotary:
    """Our rotary positions over the frequencies of one of transformers' encoders.

    kind: of the blocks, where they have frequencies by kind (ModernBERT). window: see :class:`Rotary`.

    Raises:
        UnsupportedTowerError: the frequencies change with the texts that the source has seen.
    """
    source = encoder.rotary_emb
    name, prefix = (source.rope_type, "") if kind is None else (source.rope_type[kind], f"{kind}_")
    if name in ("dynamic", "longrope"):
        raise UnsupportedTowerError(
            f"{type(encoder).__name__} with rotary positions of type {name!r} is not supported: what a text means "
            f"would depend on the texts before it"
        )
    frequencies, scaling = getattr(source, f"{prefix}inv_freq"), getattr(source, f"{prefix}attention_scaling")
    return Rotary(frequencies, scaling=scaling, window=window)


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


def opaque(module: nn.Module) -> nn.Module:
    """A part of the source model that is run as it stands: our own tree of modules over the same parameters."""
    if has_adapters(module):  # they would be merged in place at each pass, in the user's model
        raise UnsupportedTowerError(
            f"the image encoder's {type(module).__name__} is run as a whole, and has peft adapters: merge them first"
        )
    return share(module)


def fixed_grid(tower: ImageTower, grid: int | None) -> None:
    """Refuse another grid than the tower's own, for towers whose positions are their patches.

    Raises:
        SiteError: another grid was asked for.
    """
    if grid is not None and (grid, grid) != tower.grid:
        raise SiteError(
            f"this image tower's positions are its {tower.grid[0]} x {tower.grid[1]} patches: grid={grid} is a choice "
            f"only for ResNets; to patch several patches together, trace with stride= or positions="
        )

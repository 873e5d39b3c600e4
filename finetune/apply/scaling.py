"""Applies layer weights to training: per-layer learning rates, scaled steps, or the paper's scaled gradients.

Adam's step is m / (sqrt(v) + eps). Scaling a layer's gradient by c scales m by c and sqrt(v) by c, so that only eps
changes, to eps / c: the paper's gradient scaling is cancelled by AdamW, the optimiser it names. Learning rates
(:func:`param_groups`) and scaled steps (``attach(mode="update")``) do what the formula means, under any optimiser.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import nn

from ...errors import PrescriptionError

if TYPE_CHECKING:
    from ..prescription.plan import Prescription

logger = logging.getLogger(__name__)

MODES = ("update", "gradient")

# Optimisers whose step does not change, or hardly, when a layer's gradient is multiplied by a constant: they divide it
# by its own running size (Adam family, Adagrad, Adafactor, RMSprop), use its sign (Lion, Rprop) or its direction
# (Muon, LAMB, LARS). Matched against the class names in the MRO, which covers 8-bit and paged versions.
_SCALE_INVARIANT = re.compile(
    r"ada|rmsprop|rprop|lion|muon|lamb|lars|prodigy|sophia|soap|shampoo|signsgd", re.IGNORECASE
)


class ScaleInvariantOptimizerWarning(UserWarning):
    """Gradient scaling was asked for under an optimiser that undoes it."""


@dataclass
class Attachment:
    """A plan at work on an optimiser; ends with :meth:`remove` or at the end of a ``with`` block.

    parameters: how many parameters are scaled per block (1..L).
    """

    mode: str
    parameters: dict[int, int]
    _handles: list[Any] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Take every hook off; training goes on unscaled. Calling it twice does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def block_parameters(plan: Prescription, module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each text block 1..L, found by identity: parameters are never assigned by parsing names.

    Raises PrescriptionError when the plan and the module have different numbers of blocks, or blocks share parameters.
    """
    from ...patching import text_blocks

    blocks = text_blocks(module)
    if len(blocks) != plan.n_blocks:
        shape = plan.provenance.get("shape", [])
        turned = len(shape) == 2 and shape[1] == len(blocks) + 1
        hint = (
            f"; the plan came from an array {shape}: if layers are its second axis, pass its transpose"
            if turned
            else ""
        )
        raise PrescriptionError(
            f"the plan has weights for {plan.n_blocks} blocks, but this module's text tower has {len(blocks)}{hint}"
        )
    found = [list(block.parameters()) for block in blocks]
    owner: dict[int, int] = {}
    for layer, parameters in enumerate(found, start=1):
        for parameter in parameters:
            if owner.setdefault(id(parameter), layer) != layer:
                raise PrescriptionError(
                    f"blocks {owner[id(parameter)]} and {layer} share a parameter, which cannot have two weights"
                )
    return found


def param_groups(plan: Prescription, module: nn.Module, lr: float, **defaults: Any) -> list[dict[str, Any]]:
    """Optimiser parameter groups with learning rate ``lr * multiplier`` for each text block.

    Every trainable parameter of ``module`` appears exactly once: one group per block (key ``layer`` 1..L, key
    ``multiplier``), and one group ``layer=None`` at ``lr`` for everything else. Other ``defaults`` (weight_decay, ...)
    go into every group. Under a decoupled weight decay the decay is scaled with the learning rate, as the whole update
    is. Schedulers that multiply the initial rates keep the proportions; OneCycleLR needs ``max_lr`` as a list.

    Source: per-layer learning rates in place of NAST's gradient scaling, which Adam-like optimisers cancel.

    Raises PrescriptionError when no trainable parameter belongs to a text block, or the numbers of blocks differ.

    >>> import numpy as np, open_clip, tracescribe as ts
    >>> text = dict(context_length=8, vocab_size=16, width=16, heads=2, layers=2)
    >>> vision = dict(image_size=16, patch_size=8, width=16, head_width=8, layers=1)
    >>> clip = open_clip.model.CLIP(16, vision_cfg=vision, text_cfg=text)
    >>> groups = ts.prescribe(np.array([1.0, 0.2, 1.0])).param_groups(clip, lr=1e-3)
    >>> [(group["layer"], group["lr"]) for group in groups]
    [(1, 0.0), (2, 0.001), (None, 0.001)]
    """
    tagged: set[int] = set()
    groups: list[dict[str, Any]] = []
    for layer, (parameters, multiplier) in enumerate(
        zip(block_parameters(plan, module), plan.multipliers, strict=True), start=1
    ):
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        tagged.update(map(id, trainable))
        if trainable:
            scaled = {"lr": lr * float(multiplier), "layer": layer, "multiplier": float(multiplier)}
            groups.append({**defaults, "params": trainable, **scaled})
    if not groups:
        raise PrescriptionError(
            "no trainable parameter of this module belongs to a text block; attach LoRA first (plan.lora_config) or "
            "set requires_grad"
        )
    rest = [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) not in tagged]
    if rest:
        groups.append({**defaults, "params": rest, "lr": lr, "layer": None, "multiplier": 1.0})
    return groups


def attach(
    plan: Prescription,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    mode: Literal["update", "gradient"] = "update",
) -> Attachment:
    """Scale the steps of an existing optimiser by the plan's multipliers.

    ``"update"``: after each step, p = old + multiplier * (new - old) for the parameters of each text block. Exact under
    every optimiser (momentum, Adam, foreach, closures), weight decay included; the optimiser's own state is untouched.
    It costs one copy of the scaled parameters.

    ``"gradient"``: the paper's g~_l = alpha_l ** beta * g_l (NAST, arXiv 2602.12498), by hooks on the gradients as they
    are computed, so that accumulated gradients are scaled once and gradient clipping sees scaled gradients. It is what
    it says under SGD, and is cancelled by Adam-like optimisers, for which ScaleInvariantOptimizerWarning is issued.

    Attach after the optimiser has all its parameters. Of an optimiser that wraps another as ``.optimizer`` (accelerate,
    Lookahead) the inner one is scaled. Raises PrescriptionError for an unknown mode, different numbers of blocks, or an
    optimiser that holds no parameter of a text block.
    """
    if mode not in MODES:
        raise PrescriptionError(f"unknown mode {mode!r}; choose one of: {', '.join(MODES)}")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    blocks = [
        [parameter for parameter in parameters if id(parameter) in held]
        for parameters in block_parameters(plan, module)
    ]
    if not any(blocks):
        raise PrescriptionError(
            "none of the optimiser's parameters belongs to a text block of this module; build the optimiser from the "
            "module's (LoRA) parameters and attach afterwards"
        )
    counts = {layer: len(parameters) for layer, parameters in enumerate(blocks, start=1) if parameters}
    scaled = [
        (parameter, float(multiplier))
        for parameters, multiplier in zip(blocks, plan.multipliers, strict=True)
        for parameter in parameters
        if multiplier != 1.0  # such a parameter needs no copy
    ]
    handles = _scale_updates(_with_step_hooks(optimizer), scaled) if mode == "update" else _scale_gradients(scaled)
    if mode == "gradient":
        _warn_if_scale_invariant(optimizer)
    return Attachment(mode, counts, handles)


def _with_step_hooks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for inner in _unwrapped(optimizer):
        if "_optimizer_step_pre_hooks" in vars(inner):  # a subclass that wraps another optimiser may lack them
            return inner
    raise PrescriptionError(f"{type(optimizer).__name__} has no step hooks; pass the torch optimiser whose step() runs")


def _scale_updates(optimizer: torch.optim.Optimizer, scaled: list[tuple[nn.Parameter, float]]) -> list[Any]:
    # few calls over many tensors: LoRA's are small, and a call for each would cost more than the arithmetic
    parameters: list[torch.Tensor] = [parameter for parameter, _ in scaled]
    moving = [i for i, (_, multiplier) in enumerate(scaled) if multiplier != 0.0]
    multipliers = [scaled[i][1] for i in moving]
    olds: list[torch.Tensor] = []

    def before(_optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        with torch.no_grad():
            if olds:
                torch._foreach_copy_(olds, parameters)
            else:
                olds.extend(parameter.detach().clone() for parameter in parameters)

    def after(_optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        with torch.no_grad():
            if moving:
                torch._foreach_lerp_([olds[i] for i in moving], [parameters[i] for i in moving], multipliers)
            # what does not move was frozen exactly, even where the step was not finite
            torch._foreach_copy_(parameters, olds)

    return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]


def _scale_gradients(scaled: list[tuple[nn.Parameter, float]]) -> list[Any]:
    def times(multiplier: float) -> Any:
        return lambda gradient: gradient * multiplier

    return [parameter.register_hook(times(multiplier)) for parameter, multiplier in scaled if parameter.requires_grad]


def _warn_if_scale_invariant(optimizer: torch.optim.Optimizer) -> None:
    for inner in _unwrapped(optimizer):
        name = next((kind.__name__ for kind in type(inner).__mro__ if _SCALE_INVARIANT.search(kind.__name__)), None)
        if name is not None:
            message = (
                f"{type(inner).__name__} undoes gradient scaling: its step hardly changes when a layer's gradient is "
                "multiplied by a constant. Use attach(mode='update') or param_groups to scale what the layers learn."
            )
            logger.warning(message)
            warnings.warn(message, ScaleInvariantOptimizerWarning, stacklevel=4)
            return


def _unwrapped(optimizer: Any) -> Iterator[Any]:
    """An optimiser and those it wraps (accelerate, Lookahead and others keep theirs as ``.optimizer``)."""
    while optimizer is not None:
        yield optimizer
        inner = None
        with suppress(AttributeError):
            inner = optimizer.optimizer
        optimizer = inner

"""Attaches a plan to an existing optimiser: scaled steps, or the paper's scaled gradients.

Adam's step is m / (sqrt(v) + eps). Scaling a layer's gradient by c scales m by c and sqrt(v) by c, so that only eps
changes, to eps / c: the paper's gradient scaling is cancelled by AdamW, the optimiser it names. Learning rates
(:func:`param_groups`) and scaled steps (``attach(mode="update")``) do what the formula means, under any optimiser.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...arguments import explains_arguments
from ...errors import PrescriptionError
from ...io.quoting import shown
from ...validation import is_number
from .blocks import block_parameters, refuse_scaled_adapters, say_if_of_other_weights, source_of
from .gradient import ScaledGradients, scaled_by_hooks, warn_if_scale_invariant
from .update import ScaledUpdate, earlier_updates
from .wrapped_optimizers import optimizer_chain, with_step_hooks

if TYPE_CHECKING:
    from ..prescription.plan import Prescription

logger = logging.getLogger(__name__)

MODES = ("update", "gradient")

# These take each step from a second copy of the weights in their state, which a scaled step never reaches.
_STEPS_FROM_A_COPY = re.compile(r"schedulefree", re.IGNORECASE)


@dataclass(eq=False)
class Attachment:
    """A plan at work on an optimiser; ends with :meth:`remove` or at the end of a ``with`` block.

    parameters: how many parameters are scaled per block (1..L).
    """

    mode: str
    parameters: dict[int, int]
    _scaled: list[ScaledUpdate | ScaledGradients] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Take every hook off; training goes on unscaled. Calling it twice does nothing."""
        for scaled in self._scaled:
            scaled.remove()

    def realised(self) -> Float[np.ndarray, " block"]:
        """What came of the last step in each block, as a share of the step that the optimiser proposed (mode "update").

        This is the plan's multiplier where all is well; PrescriptionWarning is issued once where it is not (another
        writer, rounding). NaN for a block without a parameter in the optimiser or without a step. Of a sharded module
        it is that of what this process holds. A step that a gradient scaler skips changes nothing of it.

        Raises PrescriptionError in mode "gradient", which does not know the unscaled step, and before the first step.
        """
        if self.mode != "update":
            raise PrescriptionError(
                "mode 'gradient' changes what the optimiser sees, so that the step it would have taken is not known; "
                "compare two runs with update_share"
            )
        (scaled,) = self._scaled
        assert isinstance(scaled, ScaledUpdate)
        found = scaled.realised()
        if found is None:
            raise PrescriptionError(
                "no step was seen yet: call realised() after optimizer.step(). If that was called, it is not the "
                "optimiser that this plan is attached to"
            )
        return found[:-1]  # the last group holds the parameters outside the blocks

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on beside the optimiser's state, for a checkpoint: remainders of rounding."""
        return {
            f"{number}/{name}": value
            for number, scaled in enumerate(self._scaled)
            if isinstance(scaled, ScaledUpdate)
            for name, value in scaled.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave, of the same plan on the same parameters."""
        for number, scaled in enumerate(self._scaled):
            if isinstance(scaled, ScaledUpdate):
                mine = {n.partition("/")[2]: value for n, value in state.items() if n.startswith(f"{number}/")}
                scaled.load_state(mine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


@explains_arguments
def attach(
    plan: Prescription,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    mode: Literal["update", "gradient"] = "update",
    others: float | None = None,
) -> Attachment:
    """Scale the steps of an existing optimiser by the plan's multipliers.

    ``"update"``: after each step, p = old + multiplier * (new - old) for the parameters of each text block. Exact under
    every optimiser (momentum, Adam, foreach, closures), weight decay included; the optimiser's own state is untouched.
    It costs one copy of the scaled parameters. In bfloat16 the remainder of each rounding is kept for the next step.

    ``"gradient"``: the paper's g~_l = alpha_l ** beta * g_l (NAST, arXiv 2602.12498), by hooks on the gradients as they
    are computed, so that accumulated gradients are scaled once and gradient clipping sees scaled gradients. It is what
    it says under SGD (weight decay is not scaled), and is cancelled by Adam-like optimisers, for which
    ScaleInvariantOptimizerWarning is issued. Blocks with multiplier 0 stay as they are, weight decay included.

    module: a source module, peft-wrapped or not, a DualEncoder, or either inside DistributedDataParallel, FSDP, FSDP2
        or ``torch.compile``.
    others: multiplier of the optimiser's parameters in ``module`` that lie outside the text blocks (embeddings,
        projections, the image tower, the logit scale). None holds them still, as 0 does, and says so in a log warning.

    Attach after the optimiser has all its parameters. An earlier attachment on these parameters is replaced. Of an
    optimiser that wraps another (accelerate, Lookahead) the inner one is scaled. Raises PrescriptionError for an
    unknown mode, different numbers of blocks, an optimiser that holds no parameter of a text block or steps from a copy
    of the weights (ScheduleFree, DeepSpeed), mode "gradient" of a module that FSDP shards, and parameters that are
    scaled already (``param_groups``, LoRA mode "scale").
    """
    if mode not in MODES:
        raise PrescriptionError(f"unknown mode {mode!r}; choose one of: {', '.join(MODES)}")
    check_others(others)
    module = source_of(module)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    found = block_parameters(plan, module)
    blocks = [[parameter for parameter in parameters if id(parameter) in held] for parameters in found]
    if not any(blocks):
        _refuse_deepspeed(optimizer)
        raise PrescriptionError(
            "none of the optimiser's parameters belongs to a text block of this module; build the optimiser from the "
            "module's (LoRA) parameters and attach afterwards"
        )
    _refuse_made_before_adapters(found, held)
    inside = {id(parameter) for parameters in found for parameter in parameters}
    outside = [p for p in module.parameters() if id(p) in held and id(p) not in inside]
    _refuse_scaled_twice(plan, module, optimizer, {id(parameter) for block in blocks for parameter in block})
    say_if_of_other_weights(plan, module)
    if outside and others is None:
        free, scaled = (sum(p.numel() for p in some) for some in (outside, (p for block in blocks for p in block)))
        logger.warning(
            "%d of the optimiser's tensors (%.0f %% of its numbers) lie outside the text blocks and are held still; "
            "others=1 trains them at the full rate, others=0 holds them still without this message",
            len(outside),
            100 * free / (free + scaled),
        )
    rest = float(others or 0)
    inner = with_step_hooks(optimizer) if mode == "update" else next(iter(optimizer_chain(optimizer)))
    _replace_earlier([parameter for block in blocks for parameter in block] + outside, optimizer)
    groups, multipliers = [*blocks, outside], [*map(float, plan.multipliers), rest]
    counts = {layer: len(parameters) for layer, parameters in enumerate(blocks, start=1) if parameters}
    if mode == "update":
        if rest == 1:
            groups[-1] = []  # such parameters need no copy
        return Attachment(mode, counts, [ScaledUpdate(inner, groups, multipliers)])
    _refuse_sharded_gradients(module)
    warn_if_scale_invariant(optimizer)
    return Attachment(mode, counts, _scale_gradients(optimizer, groups, multipliers))


def check_others(others: float | None) -> None:
    """Raises PrescriptionError unless it is a multiplier or None."""
    if others is not None and not is_number(others, 0):
        raise PrescriptionError(f"others must be a finite multiplier of at least 0 or None, not {shown(others)}")


def _scale_gradients(
    optimizer: Any, groups: list[list[nn.Parameter]], multipliers: list[float]
) -> list[ScaledUpdate | ScaledGradients]:
    gradients = ScaledGradients()
    for group, multiplier in zip(groups, multipliers, strict=True):
        for parameter in group:
            if multiplier != 1:
                gradients.add(parameter, multiplier)
    gradients.watch(optimizer)
    frozen = [group for group, multiplier in zip(groups, multipliers, strict=True) if multiplier == 0 and group]
    if not frozen:
        return [gradients]
    # a gradient of 0 does not keep weight decay, nor momentum from before, from moving a parameter
    return [gradients, ScaledUpdate(with_step_hooks(optimizer), frozen, [0.0] * len(frozen))]


def _refuse_scaled_twice(plan: Prescription, module: nn.Module, optimizer: Any, held: set[int]) -> None:
    for inner in optimizer_chain(optimizer):
        if _STEPS_FROM_A_COPY.search(type(inner).__name__):
            raise PrescriptionError(
                f"{type(inner).__name__} takes each step from a second copy of the weights, which a scaled step does "
                "not reach; use plan.param_groups with it"
            )
    for group in optimizer.param_groups:
        if group.get("multiplier", 1.0) != 1.0 and any(id(parameter) in held for parameter in group["params"]):
            raise PrescriptionError(
                "this optimiser was built from plan.param_groups, so that its learning rates are scaled already, and "
                "every update would be multiplied twice: use either param_groups or attach, not both"
            )
    refuse_scaled_adapters(plan, module)


def _refuse_made_before_adapters(blocks: list[list[nn.Parameter]], held: set[int]) -> None:
    """An optimiser from before LoRA was added holds the weights that LoRA has frozen: nothing would be trained."""
    trained = [id(parameter) in held for block in blocks for parameter in block if parameter.requires_grad]
    if trained and not any(trained):
        raise PrescriptionError(
            f"the optimiser holds none of the {len(trained)} trainable tensors of the text blocks, only frozen ones: "
            "it was probably built before the adapters; build it after them"
        )


def _refuse_deepspeed(optimizer: Any) -> None:
    kinds = {kind for inner in optimizer_chain(optimizer) for kind in type(inner).__mro__}
    found = sorted(kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] == "deepspeed")
    if found:
        raise PrescriptionError(
            f"DeepSpeed's optimiser ({type(optimizer).__name__}) steps from flat copies of the weights, to which no "
            "plan can be attached; build the optimiser that deepspeed.initialize takes from plan.param_groups"
        )


def _refuse_sharded_gradients(module: nn.Module) -> None:
    """FSDP writes the gradients of its shards itself, so that hooks on them never run.

    FSDP1 marks the parameters; it may be around a module that was not passed here.
    """
    fsdp1 = any(getattr(parameter, "_fsdp_flattened", False) for parameter in module.parameters())
    if fsdp1 or any(kind.__name__ == "FSDPModule" for part in module.modules() for kind in type(part).__mro__):
        raise PrescriptionError(
            "gradients of a module that is sharded by FSDP2 or FSDP cannot be scaled as they are computed; use "
            "attach(mode='update') or plan.param_groups"
        )


def _replace_earlier(parameters: list[nn.Parameter], optimizer: Any) -> None:
    """A cell run twice, or a Trainer interrupted and started again, must not multiply twice.

    A plan on other parameters of the optimiser, of a second model, stays.
    """
    ours = set(map(id, parameters))
    left = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} - ours
    earlier: list[ScaledUpdate | ScaledGradients] = [*scaled_by_hooks(parameters)]
    for inner in optimizer_chain(optimizer):
        if hasattr(inner, "_optimizer_step_pre_hooks"):
            earlier += [scaled for scaled in earlier_updates(inner) if not scaled.scales_only(left)]
    for scaled in earlier:
        scaled.remove()
    if earlier:
        logger.warning("a plan was attached here before; it is replaced")

"""Per-layer learning rates as parameter groups of any torch optimiser."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from torch import nn

from ...arguments import explains_arguments
from ...errors import PrescriptionError
from ...io.quoting import shown
from ...validation import is_number, is_positive
from .blocks import block_parameters, refuse_scaled_adapters, say_if_of_other_weights, source_of
from .gradient import scaled_by_hooks
from .rates import PLANNED, check_rates_at_every_step

if TYPE_CHECKING:
    from ..prescription.plan import Prescription

logger = logging.getLogger(__name__)


@explains_arguments
def param_groups(
    plan: Prescription,
    module: nn.Module,
    lr: float,
    others: float | None = None,
    *,
    no_decay: bool = False,
    lr_scale: bool = False,
    **defaults: Any,
) -> list[dict[str, Any]]:
    """Optimiser parameter groups with learning rate ``lr * multiplier`` for each text block.

    Every trainable parameter of a text block appears exactly once: one group per block (key ``layer`` 1..L, key
    ``multiplier``), or two with ``no_decay``. Under a decoupled weight decay the decay is scaled with the learning
    rate, as the whole update is. Schedulers that multiply the initial rates keep the proportions. Those that give one
    rate to all groups (open_clip's own, OneCycleLR without a list, cosine annealing with ``eta_min``) undo them, and
    some optimisers do not go by their groups' rates (Adafactor with relative steps): PrescriptionWarning says so at the
    first step that finds it. In bfloat16 a small step is rounded away; ``attach`` keeps the remainder.

    module: a source module, peft-wrapped or not, a DualEncoder, or either inside DistributedDataParallel or
        ``torch.compile``.
    others: learning rate of the trainable parameters outside the text blocks (embeddings, projections, the image tower,
        the logit scale), as one more group ``layer=None``. None leaves them out, so that nothing moves them.
    no_decay: parameters of fewer than two dimensions (biases, norms, the logit scale) get groups with weight decay 0.
    lr_scale: for schedulers that multiply by a group's key ``lr_scale`` (timm's, and BEiT's way of layer-wise decay):
        it holds the multiplier, and every group's ``lr`` is the same. Without such a scheduler nothing would be scaled,
        which is said at the first step.
    defaults: go into every group (weight_decay, ...).

    Source: per-layer learning rates in place of NAST's gradient scaling, which Adam-like optimisers cancel.

    Raises PrescriptionError when no trainable parameter belongs to a text block, the numbers of blocks differ, these
    parameters are scaled already, or a rate is no positive number.

    >>> import numpy as np, open_clip, tracescribe as ts
    >>> text = dict(context_length=8, vocab_size=16, width=16, heads=2, layers=2)
    >>> vision = dict(image_size=16, patch_size=8, width=16, head_width=8, layers=1)
    >>> clip = open_clip.model.CLIP(16, vision_cfg=vision, text_cfg=text)
    >>> groups = ts.prescribe(np.array([1.0, 0.2, 1.0])).param_groups(clip, lr=1e-3)
    >>> [(group["layer"], group["lr"]) for group in groups]
    [(1, 0.0), (2, 0.001)]
    """
    if not is_positive(lr):
        raise PrescriptionError(f"lr must be a positive number, not {shown(lr)}")
    if others is not None and not is_number(others, 0):
        raise PrescriptionError(f"others must be a learning rate of at least 0 or None, not {shown(others)}")
    module = source_of(module)
    blocks = block_parameters(plan, module)
    refuse_scaled_adapters(plan, module)
    if scaled_by_hooks(parameter for block in blocks for parameter in block):
        raise PrescriptionError(
            "the gradients of these parameters are scaled already (attach, mode 'gradient'), and every update would be "
            "multiplied twice: take that off first (handle.remove())"
        )
    say_if_of_other_weights(plan, module)
    groups: list[dict[str, Any]] = []

    def add(layer: int | None, parameters: list[nn.Parameter], multiplier: float, rate: float) -> None:
        scaled = {"lr": lr, "lr_scale": rate / lr} if lr_scale else {"lr": rate}
        settings = {**defaults, **scaled, "layer": layer, "multiplier": multiplier}
        PLANNED.update((parameter, multiplier) for parameter in parameters)
        vectors = [parameter for parameter in parameters if no_decay and parameter.ndim < 2]
        apart = set(map(id, vectors))
        if matrices := [parameter for parameter in parameters if id(parameter) not in apart]:
            groups.append({**settings, "params": matrices})
        if vectors:
            groups.append({**settings, "params": vectors, "weight_decay": 0.0})

    tagged: set[int] = set()
    for layer, (parameters, multiplier) in enumerate(zip(blocks, plan.multipliers, strict=True), start=1):
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        tagged.update(map(id, trainable))
        add(layer, trainable, float(multiplier), lr * float(multiplier))
    if not groups:
        raise PrescriptionError(
            "no trainable parameter of this module belongs to a text block; attach LoRA first (plan.lora_config) or "
            "set requires_grad"
        )
    rest = [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) not in tagged]
    if rest and others is not None:
        add(None, rest, 1.0, others)
    elif rest:
        logger.info(
            "%d trainable tensors outside the text blocks are in no group and stay as they are (others=None)", len(rest)
        )
    check_rates_at_every_step()
    return groups

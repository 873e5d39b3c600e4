"""The losses by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ...checked import problem_of
from ...errors import OptionError
from .batch import LossBatch
from .clip import batch_clip_loss
from .conclip import conclip_loss
from .degla import degla_loss
from .nast import batch_nast_loss
from .negationclip import negationclip_loss
from .negbench import negbench_loss
from .negclip import negclip_loss
from .omninegclip import omninegclip_loss
from .options import LossOptions
from .siglip import siglip_loss
from .tngclip import tngclip_loss

Loss = Callable[[LossBatch, float | Tensor], Float[Tensor, ""]]

LOSSES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "nast": batch_nast_loss,
        "clip": batch_clip_loss,
        "siglip": siglip_loss,
        "negclip": negclip_loss,
        "conclip": conclip_loss,
        "negbench": negbench_loss,
        "negationclip": negationclip_loss,
        "tngclip": tngclip_loss,
        "degla": degla_loss,
        "omninegclip": omninegclip_loss,
    }
)
"""Every loss: ``LOSSES[name](batch, scale)``, with the options of options.py as keywords."""


def loss_for(name: str, **options: float) -> Loss:
    """The loss of that name with some options.

    Raises OptionError for a name or an option that is not known, or is out of range.

    >>> import torch
    >>> loss = loss_for("negbench", a=1.0)  # which is L_CLIP alone
    >>> loss(LossBatch(images=torch.eye(2), captions=torch.eye(2)), 1.0)
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: the loss 'negbench' needs contrast sets (claims), which the batch does not have
    """
    try:
        found = TypeAdapter(LossOptions).validate_python({"name": name, **options})
    except ValidationError as problem:
        raise OptionError(problem_of(problem)) from problem
    return partial(LOSSES[found.name], **found.arguments())

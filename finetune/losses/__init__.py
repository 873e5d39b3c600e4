"""Losses for tuning a text tower on negation: embeddings in, a scalar out; no model and no trainer is needed.

Every loss of the registry is ``loss(batch, scale)`` of one :class:`.batch.LossBatch`; one file per method, with its
paper. options.py names them and their options for configurations, and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .batch import LossBatch
    from .clip import clip_loss, multi_positive_clip_loss
    from .conclip import conclip_loss
    from .degla import degla_loss
    from .nast import claim_loss, nast_loss
    from .negationclip import negationclip_loss
    from .negbench import negbench_loss
    from .negclip import negclip_loss
    from .omninegclip import omninegclip_loss
    from .registry import LOSSES, loss_for
    from .siglip import siglip_loss
    from .tngclip import tngclip_loss

__all__ = [
    "LOSSES",
    "LossBatch",
    "claim_loss",
    "clip_loss",
    "conclip_loss",
    "degla_loss",
    "loss_for",
    "multi_positive_clip_loss",
    "nast_loss",
    "negationclip_loss",
    "negbench_loss",
    "negclip_loss",
    "omninegclip_loss",
    "siglip_loss",
    "tngclip_loss",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch": ["LossBatch"],
        "clip": ["clip_loss", "multi_positive_clip_loss"],
        "conclip": ["conclip_loss"],
        "nast": ["claim_loss", "nast_loss"],
        "negbench": ["negbench_loss"],
        "negclip": ["negclip_loss"],
        "degla": ["degla_loss"],
        "negationclip": ["negationclip_loss"],
        "omninegclip": ["omninegclip_loss"],
        "siglip": ["siglip_loss"],
        "tngclip": ["tngclip_loss"],
        "registry": ["LOSSES", "loss_for"],
    },
)

"""Replacements at hook points by nnsight, and the check that each took place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import PatchDidNotFireError


def hook_point(block: Any, hook: str) -> Any:
    """nnsight's view of a hook point inside a block."""
    for name in hook.split("."):
        block = getattr(block, name)
    return block


def prove(found: Tensor, wanted: Tensor, where: str) -> None:
    """Check that a hook point held the donor's activation.

    Raises:
        PatchDidNotFireError: it did not.
    """
    if not torch.equal(found, wanted):
        raise PatchDidNotFireError(
            f"the patch at {where} did not fire: the hook point held "
            f"{'another state' if found.shape == wanted.shape else f'shape {list(found.shape)}'} instead of the "
            f"donor's; no result is returned"
        )

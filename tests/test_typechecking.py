"""The shapes that annotations state are checked while tests run."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from tracescribe.finetune.losses import claim_loss


def test_a_wrong_shape_is_found() -> None:
    images, claims = torch.zeros(2, 4), torch.zeros(2, 3, 4)
    assert claim_loss(images, claims, torch.zeros(2, dtype=torch.long), 1.0).ndim == 0
    with pytest.raises(jaxtyping.TypeCheckError):
        claim_loss(images, claims, torch.zeros(3, dtype=torch.long), 1.0)

"""Phantom chest radiographs: seeded images, facts, captions and the miniature CLIP trained on them."""

from __future__ import annotations

from .captions import Claim
from .counterfactuals import counterfactual_pairs, counterfactuals
from .dataset import build_phantom
from .drawing import draw, to_uint8
from .facts import CONDITIONS, Facts, Finding, sample_facts

__all__ = [
    "CONDITIONS",
    "Claim",
    "Facts",
    "Finding",
    "build_phantom",
    "counterfactual_pairs",
    "counterfactuals",
    "draw",
    "sample_facts",
    "to_uint8",
]

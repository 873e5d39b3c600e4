"""Patching directions: which caption is the donor and which the base."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["DIRECTIONS", "Direction"]

# noising (NAST), denoising, and Quantmeyer et al. 2024, who choose between the two pair by pair
Direction = Literal["foil->correct", "correct->foil", "negated->affirmative"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

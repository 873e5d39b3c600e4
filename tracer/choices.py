"""What some options choose from; a module of its own, which needs no numpy, since the commands' help reads it."""

from typing import Literal

__all__ = ["ALIGNMENTS", "REDUCTIONS", "SEGMENTS", "Inputs", "RowKind"]

ALIGNMENTS = ("role", "quantmeyer", "position")
REDUCTIONS = ("ratio_of_means", "mean_of_ratios", "median")
SEGMENTS = ("correct", "ambiguous", "incorrect", "all")
Inputs = Literal["qkv", "q", "k", "v", "qk"]
RowKind = Literal["role", "position"]

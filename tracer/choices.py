"""What some options choose from; a module of its own, which needs no numpy, since the commands' help reads it."""

from typing import Literal

__all__ = ["ALIGNMENTS", "METRIC_NAMES", "REDUCTIONS", "SEGMENTS", "Against", "CircuitMethod", "Inputs", "RowKind"]

ALIGNMENTS = ("role", "quantmeyer", "position")
METRIC_NAMES = ("cosine", "distance", "margin", "log_probability", "probability", "rank")  # others are registered
REDUCTIONS = ("ratio_of_means", "mean_of_ratios", "median")
SEGMENTS = ("correct", "ambiguous", "incorrect", "all")
Against = Literal["caption", "target"]
CircuitMethod = Literal["greedy", "order"]
Inputs = Literal["qkv", "q", "k", "v", "qk"]
RowKind = Literal["role", "position"]

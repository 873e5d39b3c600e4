"""WHAT is measured: caption pairs, causal traces, their statistics, saved results.

How a trace comes about: pairs -> batch (tokens), images (targets), selection (cells) -> running, by the engine or from
the store -> collecting (scores) -> result -> maps, profiles, statistics, tables, storage.
"""

from __future__ import annotations

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of tracescribe")

from typing import TYPE_CHECKING, Any

from .heads import NegatorAttention, negator_attention
from .image_pairs import ImagePair
from .maps import Excess, LayerProfile, TraceMap
from .options import TraceError, TraceInterrupted, TraceWarning
from .pairs import Pair, Text, read_pairs
from .result import CausalTrace, Scores
from .roles import TokenKind
from .storage import load_trace
from .valse import read_valse

if TYPE_CHECKING:
    from .image_tracing import trace_images
    from .tracing import trace

__all__ = [
    "CausalTrace",
    "Excess",
    "ImagePair",
    "LayerProfile",
    "NegatorAttention",
    "Pair",
    "Scores",
    "Text",
    "TokenKind",
    "TraceError",
    "TraceInterrupted",
    "TraceMap",
    "TraceWarning",
    "load_trace",
    "negator_attention",
    "read_pairs",
    "read_valse",
    "trace",
    "trace_images",
]


def __getattr__(name: str) -> Any:
    if name == "trace":  # tracing needs torch; looking at saved traces does not
        from .tracing import trace

        return trace
    if name == "trace_images":
        from .image_tracing import trace_images

        return trace_images
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What is measured: caption pairs, causal traces, their statistics, saved results.

pairs/ is what is compared, run/ how a trace comes about, results/ what it says. The names are imported on first use:
tracing needs torch, looking at saved traces does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of tracescribe")

from ..errors import TraceError, TraceInterrupted, TraceWarning

if TYPE_CHECKING:
    from . import pairs, results, run
    from .pairs.image_pairs import ImagePair
    from .pairs.pairs import Pair, Text, read_pairs
    from .pairs.roles import TokenKind
    from .pairs.valse import read_valse
    from .results.causal_trace import CausalTrace, Scores
    from .results.circuit import Circuit, load_circuit
    from .results.compare import compare
    from .results.comparison import TraceComparison
    from .results.comparison_file import load_comparison
    from .results.faithfulness import Faithfulness, load_faithfulness
    from .results.head_edges import HeadEdges, load_head_edges
    from .results.knockout import KnockOut
    from .results.knockout_file import load_knock_out
    from .results.maps import Excess, LayerProfile, TraceMap
    from .results.metrics import register_metric
    from .results.negator_attention import NegatorAttention, load_negator_attention
    from .results.neurons import Neurons, load_neurons
    from .results.storage import load_trace
    from .run.circuit import circuit
    from .run.faithfulness import faithfulness
    from .run.head_edges import head_edges
    from .run.knock_out import knock_out
    from .run.negator_attention import negator_attention
    from .run.neurons import neurons
    from .run.trace import trace
    from .run.trace_images import trace_images

__all__ = [
    "CausalTrace",
    "Circuit",
    "Excess",
    "Faithfulness",
    "HeadEdges",
    "ImagePair",
    "KnockOut",
    "LayerProfile",
    "NegatorAttention",
    "Neurons",
    "Pair",
    "Scores",
    "Text",
    "TokenKind",
    "TraceComparison",
    "TraceError",
    "TraceInterrupted",
    "TraceMap",
    "TraceWarning",
    "circuit",
    "compare",
    "faithfulness",
    "head_edges",
    "knock_out",
    "load_circuit",
    "load_comparison",
    "load_faithfulness",
    "load_head_edges",
    "load_knock_out",
    "load_negator_attention",
    "load_neurons",
    "load_trace",
    "negator_attention",
    "neurons",
    "pairs",
    "read_pairs",
    "read_valse",
    "register_metric",
    "results",
    "run",
    "trace",
    "trace_images",
]

__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submodules=["pairs", "results", "run"],
    submod_attrs={
        "pairs.image_pairs": ["ImagePair"],
        "pairs.pairs": ["Pair", "Text", "read_pairs"],
        "pairs.roles": ["TokenKind"],
        "pairs.valse": ["read_valse"],
        "results.causal_trace": ["CausalTrace", "Scores"],
        "results.circuit": ["Circuit", "load_circuit"],
        "results.compare": ["compare"],
        "results.comparison": ["TraceComparison"],
        "results.comparison_file": ["load_comparison"],
        "results.faithfulness": ["Faithfulness", "load_faithfulness"],
        "results.head_edges": ["HeadEdges", "load_head_edges"],
        "results.knockout": ["KnockOut"],
        "results.knockout_file": ["load_knock_out"],
        "results.maps": ["Excess", "LayerProfile", "TraceMap"],
        "results.metrics": ["register_metric"],
        "results.negator_attention": ["NegatorAttention", "load_negator_attention"],
        "results.neurons": ["Neurons", "load_neurons"],
        "results.storage": ["load_trace"],
        "run.circuit": ["circuit"],
        "run.faithfulness": ["faithfulness"],
        "run.head_edges": ["head_edges"],
        "run.knock_out": ["knock_out"],
        "run.negator_attention": ["negator_attention"],
        "run.neurons": ["neurons"],
        "run.trace": ["trace"],
        "run.trace_images": ["trace_images"],
    },
)


def __dir__() -> list[str]:
    return __all__

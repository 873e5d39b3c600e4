"""tracescribe: trace which layers of a CLIP text encoder carry a distinction, and hand the finding to training.

The public names below are imported on first use, so that ``import tracescribe`` costs milliseconds and loads no
heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import benchmark, errors, finetune, patching, tracer, viz
    from .atlas import read_atlas, run_atlas
    from .benchmark import read
    from .finetune import Prescription, load_plan, prescribe
    from .patching import DualEncoder, TextTower, load, wrap
    from .tracer import (
        CausalTrace,
        Circuit,
        Faithfulness,
        ImagePair,
        LayerProfile,
        Pair,
        Text,
        circuit,
        compare,
        faithfulness,
        head_edges,
        knock_out,
        load_faithfulness,
        load_trace,
        negator_attention,
        neurons,
        read_pairs,
        trace,
        trace_images,
    )

# Spelled out, because type checkers and linters read it; a test holds it to the table below.
__all__ = [
    "CausalTrace",
    "Circuit",
    "DualEncoder",
    "Faithfulness",
    "ImagePair",
    "LayerProfile",
    "Pair",
    "Prescription",
    "Text",
    "TextTower",
    "__version__",
    "benchmark",
    "circuit",
    "compare",
    "errors",
    "faithfulness",
    "finetune",
    "head_edges",
    "knock_out",
    "load",
    "load_faithfulness",
    "load_plan",
    "load_trace",
    "negator_attention",
    "neurons",
    "patching",
    "prescribe",
    "read",
    "read_atlas",
    "read_pairs",
    "run_atlas",
    "trace",
    "trace_images",
    "tracer",
    "viz",
    "wrap",
]

__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submodules=["benchmark", "errors", "finetune", "patching", "tracer", "viz"],
    submod_attrs={
        "atlas": ["read_atlas", "run_atlas"],
        "benchmark": ["read"],
        "finetune": ["Prescription", "load_plan", "prescribe"],
        "patching": ["DualEncoder", "TextTower", "load", "wrap"],
        "tracer": [
            "CausalTrace",
            "Circuit",
            "Faithfulness",
            "ImagePair",
            "LayerProfile",
            "Pair",
            "Text",
            "circuit",
            "compare",
            "faithfulness",
            "head_edges",
            "knock_out",
            "load_faithfulness",
            "load_trace",
            "negator_attention",
            "neurons",
            "read_pairs",
            "trace",
            "trace_images",
        ],
    },
)


def __dir__() -> list[str]:
    return __all__

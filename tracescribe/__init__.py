"""tracescribe: trace which layers of a CLIP text encoder carry a distinction, and hand the finding to training.

The public names below are imported on first use, so that ``import tracescribe`` costs milliseconds and loads no
heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "CausalTrace": "tracer",
    "DualEncoder": "patching",
    "ImagePair": "tracer",
    "LayerProfile": "tracer",
    "Pair": "tracer",
    "Prescription": "finetune",
    "Text": "tracer",
    "TextTower": "patching",
    "load": "patching",
    "load_plan": "finetune",
    "load_trace": "tracer",
    "negator_attention": "tracer",
    "prescribe": "finetune",
    "read_pairs": "tracer",
    "trace": "tracer",
    "trace_images": "tracer",
    "wrap": "patching",
}
_PARTS = ("benchmark", "errors", "finetune", "patching", "tracer", "viz")

# Spelled out, because type checkers and linters read it; a test holds it to the two tables above.
__all__ = [
    "CausalTrace",
    "DualEncoder",
    "ImagePair",
    "LayerProfile",
    "Pair",
    "Prescription",
    "Text",
    "TextTower",
    "__version__",
    "benchmark",
    "errors",
    "finetune",
    "load",
    "load_plan",
    "load_trace",
    "negator_attention",
    "patching",
    "prescribe",
    "read_pairs",
    "trace",
    "trace_images",
    "tracer",
    "viz",
    "wrap",
]

if TYPE_CHECKING:
    from . import benchmark, errors, finetune, patching, tracer, viz
    from .finetune import Prescription, load_plan, prescribe
    from .patching import DualEncoder, TextTower, load, wrap
    from .tracer import (
        CausalTrace,
        ImagePair,
        LayerProfile,
        Pair,
        Text,
        load_trace,
        negator_attention,
        read_pairs,
        trace,
        trace_images,
    )


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""What holds for the whole suite."""

from __future__ import annotations

import os

# The models here are tiny: a second thread only costs (up to ten times, beside other jobs).
# Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typechecking
from jaxtyping import install_import_hook

# Shapes and types that annotations state are checked at every call of what computes with arrays. (What users call takes
# anything, and refuses it in a sentence: that is tested too, and beartype would come before.)
COMPUTING = (
    "benchmark.metrics",
    "benchmark.shortcuts",
    "benchmark.tasks",
    "finetune.losses",
    "patching.resume",
    "patching.towers.block",
    "patching.towers.image_tower",
    "patching.towers.layers",
    "patching.towers.relative_positions",
    "patching.towers.text_tower",
    "patching.towers.tower",
    "tracer.results.scoring",
)
install_import_hook([f"tracescribe.{module}" for module in COMPUTING], f"{typechecking.__name__}.checked")

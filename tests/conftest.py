"""What holds for the whole suite."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# The models here are tiny: a second thread only costs (up to ten times, beside other jobs).
# Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them and their processes ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import typechecking
from jaxtyping import install_import_hook

# Shapes and dtypes of arrays that annotations state are checked at every call: in the folders of
# CHECKED, but not in modules that users call with anything: they say it in a sentence (beartype would come before).
# (Not all results: beartype sets warning filters at each call, and their warnings are tested to be said once.)
CHECKED = (
    "benchmark/metrics",
    "benchmark/shortcuts",
    "benchmark/tasks",
    "finetune/apply",
    "finetune/losses",
    "finetune/prescription",
    "patching/engine",
    "patching/resume",
    "patching/towers/block",
    "patching/towers/image_tower",
    "patching/towers/layers",
    "patching/towers/relative_positions",
    "patching/towers/text_tower",
    "patching/towers/tower",
    "tracer/results/scoring",
    "tracer/run",
)
CALLED_WITH_ANYTHING = {
    "finetune/apply/attachment",
    "finetune/apply/block_gradients",
    "finetune/apply/lora",
    "finetune/apply/param_groups",
    "finetune/apply/trainer_callback",
    "finetune/prescription/plan",
    "finetune/prescription/prescribe",
    "patching/engine/patterns",
    "tracer/run/circuit",
    "tracer/run/faithfulness",
    "tracer/run/finer_options",
    "tracer/run/head_edges",
    "tracer/run/joint_options",
    "tracer/run/neurons",
    "tracer/run/options",
    "tracer/run/prepared",
    "tracer/run/trace",
    "tracer/run/trace_images",
}
ROOT = Path(__file__).parent.parent
COMPUTING = [
    f"tracescribe.{module.replace('/', '.')}"
    for part in CHECKED
    for module in (
        [str(path.relative_to(ROOT).with_suffix("")) for path in sorted((ROOT / part).glob("[!_]*.py"))] or [part]
    )
    if module not in CALLED_WITH_ANYTHING
]
install_import_hook(COMPUTING, f"{typechecking.__name__}.checked")

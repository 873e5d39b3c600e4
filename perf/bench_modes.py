"""What a plan adds to full fine-tuning, and what schedule, clipping and log add to our loop's step.

python perf/bench_modes.py
"""

from __future__ import annotations

from measuring import Timing, random_clip, spread, turns, write_section

# isort: split
import statistics
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tracescribe as ts
from tracescribe.finetune import attach_lora, lora_config
from tracescribe.finetune.training.packing import token_table
from tracescribe.finetune.training.progress import rate_factor
from tracescribe.patching import text_blocks

CAPTIONS = 32
TEXT = "there is a small {} in the {} lung . no {} ."
WORDS = ("effusion", "edema", "nodule", "pneumothorax")


def captions() -> list[str]:
    return [TEXT.format(a, side, b) for a in WORDS for b in WORDS for side in ("left", "right")][:CAPTIONS]


class FullStep:
    """Full fine-tuning of the text blocks by fused AdamW, under a plan or without one."""

    def __init__(self, model: ts.DualEncoder, mode: str | None) -> None:
        source = deepcopy(model.source).requires_grad_(False)
        self.text = ts.wrap(source, tokenizer=model.tokenizer, preprocess=model.preprocess).text
        trained = [p.requires_grad_(True) for block in text_blocks(source) for p in block.parameters()]
        plan = ts.finetune.Prescription(np.linspace(0.5, 1.5, model.text.n_layers))
        groups = plan.param_groups(source, lr=1e-6) if mode == "param_groups" else trained
        self.optimizer = torch.optim.AdamW(groups, lr=1e-6, fused=True)
        if mode == "update":
            plan.attach(source, self.optimizer)
        for parameter in trained:
            parameter.grad = torch.ones_like(parameter)
        self.ids = token_table(self.text, captions())[0].long()

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.text(self.ids).square().sum().backward()

    def step(self) -> None:
        self.optimizer.step()


def full_section(model: ts.DualEncoder, repeats: int) -> list[str]:
    """Passes and optimiser's steps, timed apart: what a plan adds is small beside what the passes vary by."""
    arms = {mode or "ordinary": FullStep(model, mode) for mode in (None, "param_groups", "update")}
    steps = turns({name: arm.step for name, arm in arms.items()}, repeats)
    passes = Timing()
    for _ in range(max(2, repeats // 3)):
        passes.run(arms["ordinary"].backward)
    both = statistics.median(passes.cpu) + statistics.median(steps["ordinary"].cpu)
    lines = [
        f"Forward and backward pass: {spread(passes.cpu)} s.",
        "",
        "| arm | optimiser's step, CPU s | added to a training step |",
        "|---|---|---|",
    ]
    for name in arms:
        more = statistics.median(a - b for a, b in zip(steps[name].cpu, steps["ordinary"].cpu, strict=True))
        share = "–" if name == "ordinary" else f"**{more / both:.1%}**"
        lines.append(f"| {name} | {spread(steps[name].cpu)} | {share} |")
    return lines


def extras_section(model: ts.DualEncoder, repeats: int) -> str:
    """Schedule, clipping and the record of a step, beside a step on adapters."""
    config = ts.finetune.TrainConfig(schedule="cosine", warmup=5, clip_norm=1.0)
    source = deepcopy(model.source)
    adapted = attach_lora(source, lora_config(source, r=config.rank))
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, fused=True)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate_factor(config, done))
    optimizer.step()
    losses: list[tuple[float, ...]] = []

    def extras() -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        schedule.step()
        losses.append((1.0, 1.0, 1.0, config.lr * rate_factor(config, 1)))
        return norm

    full = FullStep(model, None)
    arms: dict[str, Callable[[], Any]] = {"extras": extras, "passes": full.backward}
    times = turns(arms, repeats)
    added, passes = (statistics.median(times[name].cpu) for name in arms)
    return (
        f"Schedule, clipping and the record of a step take {1e3 * added:.2g} ms of CPU time for adapters (r = "
        f"{config.rank}, {len(trained)} tensors): **{added / passes:.2%}** of two passes over the same captions."
    )


def section(quick: bool, out: Path | None, *, repeats: int) -> str:
    torch.set_num_threads(1)
    models = {"miniature": ts.load("phantom")}
    if not quick:
        models["ViT-B/32, random weights"] = random_clip(quick=False)[1]
    repeats = 2 if quick else repeats
    lines = [
        "## Applying a plan to full fine-tuning",
        "",
        f"All weights of the text blocks, fused AdamW, {CAPTIONS} captions a step (trimmed, images cached), one "
        "thread. Arms run in turn in one process; medians (and ranges) of CPU seconds.",
    ]
    for name, model in models.items():
        numbers = sum(p.numel() for block in text_blocks(model.source) for p in block.parameters())
        lines += ["", f"### {name}, {numbers / 1e6:.3g} M weights", "", *full_section(model, repeats)]
        lines += ["", extras_section(model, repeats)]
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=9)


if __name__ == "__main__":
    main()

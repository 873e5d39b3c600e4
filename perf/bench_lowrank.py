"""What low-rank products save in training: our step against two simpler ways to write the same layer.

    python perf/bench_lowrank.py --out FOLDER/bench_lowrank.md

An adapted layer computes y = W x + s B A x. Ours is one autograd function (`finetune/training/lowrank.py`). The simpler
ways are the same formula left to autograd, and the sum W + s B A formed first, as peft does for fused attention.
"""

from __future__ import annotations

from measuring import spread, write_section

# isort: split
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch.nn.functional as F
from bench_train import MODELS, build_case, our_losses
from torch import Tensor

from tracescribe.finetune.training import lowrank
from tracescribe.finetune.training.lowrank import LowRank


def by_autograd(x: Tensor, weight: Tensor, bias: Tensor | None, adapters: Sequence[LowRank]) -> Tensor:
    """y = W x + s B (A x) as three linear layers."""
    y = F.linear(x, weight, bias)
    for adapter in adapters:
        y = y + F.linear(F.linear(x, adapter.a) * adapter.scale, adapter.b)
    return y


def merged(x: Tensor, weight: Tensor, bias: Tensor | None, adapters: Sequence[LowRank]) -> Tensor:
    """y = (W + s B A) x, whose backward pass computes a gradient of W's size."""
    for adapter in adapters:
        weight = weight + adapter.scale * (adapter.b @ adapter.a)
    return F.linear(x, weight, bias)


WAYS: dict[str, Callable[..., Tensor]] = {
    "ours: one autograd function": lowrank.adapted_linear,
    "the formula, by autograd": by_autograd,
    "W + s B A, then one product": merged,
}


def measure(name: str, turns: int, films: int) -> dict[str, list[float]]:
    """CPU seconds per training step by way, one number per turn; the ways take turns.

    Raises:
        AssertionError: the ways show different losses.
    """
    case = build_case(name, films)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    expected = our_losses(case, 3)
    for _ in range(turns):
        for way, function in WAYS.items():
            found: list[float] = []
            with patch.object(lowrank, "adapted_linear", function):
                losses = our_losses(case, MODELS[name].our_steps, found)
            differ = max(abs(a / b - 1) for a, b in zip(losses[:3], expected, strict=True))
            assert differ <= 1e-3, f"{way}: the losses differ by {differ:.1e}"  # the tolerance of bench_train
            seconds[way].append(statistics.median(found))
    return seconds


def section(quick: bool, out: Path | None, *, turns: int) -> str:
    rows = []
    for name in ["miniature"] if quick else list(MODELS):
        seconds = measure(name, 1 if quick else turns, 60 if quick else 120)
        ours = next(iter(seconds.values()))
        for way, taken in seconds.items():
            ratio = spread([theirs / own for theirs, own in zip(taken, ours, strict=True)])
            rows.append(f"| {name} | {way} | {statistics.median(taken):.3g} | {'–' if taken is ours else ratio} |")
    return "\n".join(
        [
            "## Adapters in training: thin products against simpler ways",
            "",
            "CPU seconds per training step (LoRA r = 4 in every linear layer of the text blocks; batches as in the "
            "training benchmark) with the adapted layer written in three ways, which show the same losses. A ratio is "
            "the median of the turns' ratios, with their range.",
            "",
            "| model | adapted layer | s a step | over ours |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, turns=4)


if __name__ == "__main__":
    main()

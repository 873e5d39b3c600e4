"""Shared by the benchmarks: one thread, clocks, the machine's rate, and one Markdown section each.

Seconds are CPU seconds of the process unless a table says wall: other programs on the machine disturb them least.
Arms take turns, and a ratio is the median of the turns' ratios.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before torch and numpy read them
os.environ["TQDM_DISABLE"] = "1"

import argparse
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tracescribe as ts
from tracescribe.patching import TextTower

CORRECT, FOIL = "There is no {}.", "There is {} {}."


@dataclass
class Timing:
    """Repeated measurements of one arm, in seconds."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self, function: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = function()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        return result


def turns(arms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Time arms in turn; each has run once before."""
    times = {name: Timing() for name in arms}
    for arm in arms.values():
        arm()
    for _ in range(repeats):
        for name, arm in arms.items():
            times[name].run(arm)
    return times


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


# the machine's own rate -----------------------------------------------------------------------------------------------


def block_products(tower: TextTower, rows: int, blocks: int | None = None) -> tuple[Callable[[], None], int]:
    """The four products of every block at ``rows`` rows, through the blocks' own weights; and their operations.

    blocks: only the first so many.
    """
    layers: list[Any] = [
        layer
        for block in list(tower.blocks)[:blocks]
        for layer in (block.attn.qkv, block.attn.out, block.mlp.up, block.mlp.down)
    ]
    inputs = {size: torch.randn(rows, size) for size in {int(layer.weight.shape[1]) for layer in layers}}

    @torch.no_grad()
    def run() -> None:
        for layer in layers:
            nn.functional.linear(inputs[layer.weight.shape[1]], layer.weight, layer.bias)

    return run, sum(2 * rows * layer.weight.numel() for layer in layers)


def square_product(size: int) -> tuple[Callable[[], Any], int]:
    """A product of two square matrices; and its operations."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return lambda: a @ b, 2 * size**3


class _Products(TorchDispatchMode):
    """Writes down the matrix products that run inside it: bias, shape of the rows, transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor | None, torch.Size, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.addmm.default:
            self.seen.append((args[0], args[1].shape, args[2]))
        elif func is torch.ops.aten.mm.default:
            self.seen.append((None, args[0].shape, args[1]))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def products_of(function: Callable[[], Any]) -> Callable[[], None]:
    """The matrix products with weights that ``function`` runs, and nothing else: same shapes, same weights, same order.

    What they take alone is what no engine with these products can go below on this machine.
    """
    with _Products() as products:
        function()
    inputs = {shape: torch.randn(shape) for _, shape, _ in products.seen}

    @torch.no_grad()
    def run() -> None:
        for bias, shape, weight in products.seen:
            if bias is None:
                torch.mm(inputs[shape], weight)
            else:
                torch.addmm(bias, inputs[shape], weight)

    return run


# models and processes -------------------------------------------------------------------------------------------------


def random_clip(quick: bool, **text: int) -> tuple[nn.Module, ts.DualEncoder]:
    """A randomly initialised open_clip CLIP, and the same model wrapped: ViT-B/32, or with another text tower.

    quick: a tiny one. text: ``width``, ``heads`` and ``layers`` of another text tower, with a token image tower.
    """
    import open_clip

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if quick or text:
        cfg: Any = text or {"width": 64, "heads": 2, "layers": 3}
        vision: Any = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}
        model: nn.Module = open_clip.model.CLIP(embed_dim=cfg["width"], vision_cfg=vision, text_cfg=cfg)
    else:
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # open_clip warns that weights are random; here they are meant to be
        model = open_clip.create_model("ViT-B-32")
        root.setLevel(level)
    model.eval()
    return model, ts.wrap(model, tokenizer=open_clip.get_tokenizer("ViT-B-32"), name="random")


def fresh_process(code: str, *, threads: int | None = 1) -> list[float]:
    """Runs ``code`` in a new interpreter and returns the numbers on its last line.

    threads: None leaves them to the machine, as a user's own process does.
    """
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in limits}
    if threads is not None:
        env |= dict.fromkeys(limits, str(threads))
    command = [sys.executable, "-c", code]
    folder = Path(__file__).parent
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd=folder).stdout
    return [float(word) for word in out.splitlines()[-1].split()]


# sections -------------------------------------------------------------------------------------------------------------


def write_section(
    section: Callable[..., str], description: str | None, arguments: list[str] | None, **options: int | str
) -> None:
    """A benchmark's command line: print the Markdown of ``section(quick, out, ...)`` and write it to ``--out``.

    out: the folder that the section's pictures belong in, or None. options: further options (whole numbers, texts) and
        their defaults.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny towers: checks the benchmark, times nothing real")
    parser.add_argument("--out", type=Path, help="where the section is written; pictures go beside it")
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    given = vars(parser.parse_args(arguments))
    out: Path | None = given.pop("out")
    page = section(given.pop("quick"), out and out.parent, **given)
    print(page)
    if out is not None:
        out.write_text(page, encoding="utf-8")

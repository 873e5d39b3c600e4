"""`least_flops` is attained: a trace in plain torch, without hook points, with that many operations and our numbers."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import WordTokenizer, open_clip_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import tracescribe as ts
from tracescribe.patching import PatchingEngine, TextTower
from tracescribe.patching.towers.block import Block

FOLDER = Path(__file__).parents[2] / "perf"


class Run:
    """States, queries, keys and values of a clean run from row ``start`` on, over another run's rows before it."""

    def __init__(self, tower: TextTower, ids: list[int], before: Run | None = None, start: int = 0) -> None:
        n, blocks = len(ids), list(tower.blocks)
        x = tower.embedding(torch.tensor([ids]), tower.hook_embed)[0][start:]
        self.resid, self.q, self.k, self.v = [x], list[Tensor](), list[Tensor](), list[Tensor]()
        for layer, block in enumerate(blocks):
            last = block is blocks[-1]
            q, k, v = block.attn.qkv(block.ln_1(x), torch.tensor([n - 1 - start]) if last else None)
            if before is not None:
                k, v = torch.cat([before.k[layer][:start], k]), torch.cat([before.v[layer][:start], v])
            x = after_qkv(block, x[-1:] if last else x, q, k, v)
            for kept, state in ((self.q, q), (self.k, k), (self.v, v), (self.resid, x)):
                kept.append(state)
        self.embedding = tower.readout(x)[0]


def after_qkv(block: Block, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The rest of a block for the last rows of a text, whose keys and values ``k`` and ``v`` are complete."""
    q, k, v = (t.unflatten(-1, (block.attn.n_heads, -1)).transpose(0, 1)[None] for t in (q, k, v))
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril_(k.shape[2] - q.shape[2])
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1).flatten(1)
    x = x + block.attn.out(z)
    return x + block.mlp(block.ln_2(x))


@torch.no_grad()
def trace(tower: TextTower, base: list[int], donor: list[int]) -> dict[tuple[int, int], Tensor]:
    """Embeddings of every cell (layer, position) that has to be run, with nothing computed that is known already."""
    n, blocks = len(base), list(tower.blocks)
    differing = [p for p in range(n) if base[p] != donor[p]]
    first = differing[0]
    clean = Run(tower, base)
    other = Run(tower, donor, clean, first)
    cells = {}
    for p in range(first, n):
        start = p + (p == first)  # at the first differing token the patched row goes on as in the donor's run
        for layer in range(0 if p in differing and len(differing) > 1 else 1, len(blocks)):
            x = clean.resid[layer][start:].clone()
            q = clean.q[layer][start if layer < len(blocks) - 1 else 0 :].clone()
            k, v = clean.k[layer].clone(), clean.v[layer].clone()
            k[p], v[p] = other.k[layer][p], other.v[layer][p]
            if p > first:
                x[0] = other.resid[layer][p - first]
                if layer < len(blocks) - 1 or p == n - 1:
                    q[0] = other.q[layer][p - first if layer < len(blocks) - 1 else 0]
            for at, block in enumerate(blocks[layer:], start=layer):
                last = at == len(blocks) - 1
                if at > layer:
                    k, v = clean.k[at][:start].clone(), clean.v[at][:start].clone()
                    if p == first:
                        k[p], v[p] = other.k[at][p], other.v[at][p]
                    q, own_k, own_v = block.attn.qkv(block.ln_1(x), torch.tensor([len(x) - 1]) if last else None)
                    k, v = torch.cat([k, own_k]), torch.cat([v, own_v])
                x = after_qkv(block, x[-1:] if last else x, q, k, v)
            cells[layer, p] = tower.readout(x)[0]
    return cells


@pytest.mark.parametrize(
    ("base", "donor"),
    [
        ("there is no edema .", "there is severe edema ."),
        ("there is no edema .", "there are some masses ."),
        ("no", "a"),
        ("the lungs are clear", "the lungs are dark"),
        ("a b c d e f g h", "a b x d e f y h"),
    ],
)
@pytest.mark.parametrize("shape", [{"layers": 3}, {"layers": 4, "width": 64, "heads": 4}])
def test_the_least_count_is_attained_with_our_numbers(
    monkeypatch: pytest.MonkeyPatch, base: str, donor: str, shape: dict[str, int]
) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    flops = importlib.import_module("flops")
    tower = ts.wrap(open_clip_model(**shape), tokenizer=WordTokenizer()).text
    rows = tower.rows([base, donor])
    with FlopCounterMode(display=False) as counter:
        cells = trace(tower, *rows)
    assert counter.get_total_flops() == flops.least_flops(tower, rows[:1], rows[1:])
    ours = PatchingEngine(tower).patch(rows[:1], rows[1:]).patched[0]
    for cell, embedding in cells.items():
        # float32 sums in another order, on weights of order one: seen up to 7e-7
        torch.testing.assert_close(F.normalize(embedding, dim=0), ours[cell], atol=1e-5, rtol=0)


def test_the_examples_of_the_counts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    assert doctest.testmod(importlib.import_module("flops")).failed == 0

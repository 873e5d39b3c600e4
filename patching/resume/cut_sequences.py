"""Sequences in which some queries may not attend to some keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .patched_sequences import PatchedSequences, Patches


@dataclass(frozen=True, eq=False)
class CutSequences(PatchedSequences):
    """Sequences whose attention is cut in the blocks from ``first`` to ``until``; no state is replaced.

    until: for each the block after the last one where it is cut. edges: for each (query, key). heads: for each the head
    whose edges they are; None for all. cells: which cell of the map (pair, layer, column) each sequence computes.
    """

    until: list[int]
    edges: list[Int[np.ndarray, "_ 2"]]
    heads: list[int | None]
    cells: Int[np.ndarray, "sequence 3"]
    n_heads: int

    def patches(self, block: int) -> Patches:
        nothing = np.empty(0, dtype=np.int64)
        return Patches(nothing, nothing)

    def mask_of(self, block: int, count: int, only_pooled: bool) -> Bool[Tensor, "*sequence query key"] | None:
        mask = super().mask_of(block, count, only_pooled)
        active = [sequence for sequence in range(count) if self.until[sequence] > block]
        if not active:
            return mask
        n_queries = 1 if only_pooled else self.width
        by_head = any(self.heads[sequence] is not None for sequence in active)
        kept = np.ones((count, self.n_heads if by_head else 1, n_queries, self.clean.length), dtype=bool)
        for sequence in active:
            edges, head = self.edges[sequence], self.heads[sequence]
            if only_pooled:
                edges = edges[edges[:, 0] == self.clean.pooled]
            rows = np.zeros(len(edges), dtype=np.int64) if only_pooled else edges[:, 0] - self.start
            kept[sequence, slice(None) if head is None else head, rows, edges[:, 1]] = False
        cut = torch.from_numpy(kept).to(self.clean.cache.resid[0].device)
        return cut if mask is None else cut & mask

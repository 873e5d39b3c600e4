"""How a pass resumes: which rows are run when hidden states are patched, and what they attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .block import Attend, Attention


class KeyValues(NamedTuple):
    """The keys and values of one block."""

    k: Float[Tensor, "batch pos head d_head"]
    v: Float[Tensor, "batch pos head d_head"]


@dataclass(frozen=True, eq=False)
class CleanRun:
    """Everything a resumed pass needs from an unpatched one: states, keys and values, pooled position."""

    resid: list[Float[Tensor, "batch pos d_model"]]  # layers 0..L
    kv: list[KeyValues]  # blocks 1..L
    pooled: int
    embedding: Float[Tensor, "batch embed"]

    def part(self, rows: slice) -> CleanRun:
        """The same run of some of its texts."""
        return CleanRun(
            [state[rows] for state in self.resid],
            [KeyValues(k[rows], v[rows]) for k, v in self.kv],
            self.pooled,
            self.embedding[rows],
        )


@dataclass(frozen=True, eq=False)
class Site:
    """One position of the texts of one clean run, to be patched at many layers in one pass.

    ``joins[l]`` numbers the texts whose state of layer l is replaced: their clean states enter the pass before block
    l + 1. ``start`` is the first row that is run; in a causal tower the rows before the position cannot change, and
    their clean keys and values are attended to instead.
    """

    clean: CleanRun
    position: int
    start: int
    joins: list[Int[Tensor, " texts"]]
    mask: Bool[Tensor, "width keys"] | None

    @property
    def width(self) -> int:
        """Rows that are run for each text that has joined."""
        return self.clean.resid[0].shape[1] - self.start

    def joined(self, layer: int) -> Int[Tensor, " sequences"]:
        """The texts that have joined up to and including this layer, in order."""
        return torch.cat(self.joins[: layer + 1])

    @property
    def n_rows(self) -> int:
        """Rows in the last block: what the pass costs at its widest."""
        return self.width * sum(map(len, self.joins))


class Layout:
    """Where the rows of many sites stand in the flat batch [rows, d_model] at one layer: site after site."""

    def __init__(self, sites: Sequence[Site], layer: int) -> None:
        self.sites, self.layer = sites, layer
        self.counts = [sum(map(len, site.joins[: layer + 1])) for site in sites]
        self.sizes = [count * site.width for count, site in zip(self.counts, sites, strict=True)]

    def enter(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "more_rows d"]:
        """The flat batch of the layer before with the clean states of the texts that join at this one."""
        joining = [site.clean.resid[self.layer][site.joins[self.layer], site.start :] for site in self.sites]
        before = [size - states.shape[:2].numel() for size, states in zip(self.sizes, joining, strict=True)]
        pairs = zip(x.split(before), joining, strict=True)
        return torch.cat([piece for old, new in pairs for piece in (old, new.flatten(0, 1))])

    def patched(self) -> Int[Tensor, " joining"]:
        """Flat numbers of the rows to be patched at this layer, in the order of the sites."""
        rows, offset = [], 0
        for site, count, size in zip(self.sites, self.counts, self.sizes, strict=True):
            new = site.joins[self.layer]
            sequence = torch.arange(count - len(new), count, device=new.device)
            rows.append(offset + sequence * site.width + site.position - site.start)
            offset += size
        return torch.cat(rows)

    def pooled(self) -> Int[Tensor, " sequences"]:
        """Flat numbers of the rows that the embeddings are read from."""
        rows, offset = [], 0
        for site, count, size in zip(self.sites, self.counts, self.sizes, strict=True):
            sequence = torch.arange(count, device=site.joins[0].device)
            rows.append(offset + sequence * site.width + site.clean.pooled - site.start)
            offset += size
        return torch.cat(rows)

    def attend(self, only_pooled: bool) -> Attend:
        """Each sequence attends to itself and to the clean positions before it."""

        def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = []
            queries = q.split(self.counts if only_pooled else self.sizes)
            for i, (own_q, own_k, own_v) in enumerate(
                zip(queries, k.split(self.sizes), v.split(self.sizes), strict=True)
            ):
                if self.counts[i]:
                    out.append(self._attend_one(attention, i, own_q, own_k, own_v, only_pooled))
            return torch.cat(out)

        return attend

    def _attend_one(
        self, attention: Attention, i: int, q: Tensor, k: Tensor, v: Tensor, only_pooled: bool
    ) -> Float[Tensor, "queries head d_head"]:
        site, count = self.sites[i], self.counts[i]
        q, k, v = (t.unflatten(0, (count, -1)) for t in (q, k, v))  # (sequence, row, head, d_head)
        if site.start:
            clean, texts = site.clean.kv[self.layer], site.joined(self.layer)
            k = torch.cat([clean.k[texts, : site.start], k], dim=1)
            v = torch.cat([clean.v[texts, : site.start], v], dim=1)
        mask = site.mask
        if only_pooled and mask is not None:
            mask = mask[site.clean.pooled - site.start].unsqueeze(0)
        return attention.mix(q, k, v, mask).flatten(0, 1)

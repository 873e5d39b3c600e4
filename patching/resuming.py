"""How a pass resumes: which rows are run when hidden states are patched, and what they attend to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
    """Everything a resumed pass needs from an unpatched one.

    resid: states of layers 0..L. kv: keys and values by block; None in a block that is not taken apart.
    site: activations of the patched site by block, where that is not the residual stream. pooled: the position that is
    read out, the same in every row; None where the readout is over all of them.
    """

    resid: list[Float[Tensor, "batch pos d_model"]]
    kv: list[KeyValues | None]
    site: list[Tensor]
    pooled: int | None
    mask: Bool[Tensor, "*batch pos pos"] | None
    embedding: Float[Tensor, "batch embed"]

    def part(self, rows: slice) -> CleanRun:
        """The same run of some of its texts."""
        return CleanRun(
            [state[rows] for state in self.resid],
            [None if kv is None else KeyValues(kv.k[rows], kv.v[rows]) for kv in self.kv],
            [state[rows] for state in self.site],
            self.pooled,
            self.mask if self.mask is None or self.mask.ndim == 2 else self.mask[rows],
            self.embedding[rows],
        )


@dataclass(frozen=True, eq=False)
class Lanes:
    """Sequences that resume from one row of one clean run and are patched at the same positions.

    Lane i is a patched run of text ``texts[i]``: its clean states enter the pass before block ``first[i]``, which is
    the first block where it is patched, and ``until[i]`` is the block after the last one. Lanes are ordered by
    ``first``. ``heads[i]`` is the patched head (all lanes have one, or none). ``start`` is the first row that is run;
    in a causal tower the rows before the patch cannot change, and their clean keys and values are attended to instead.
    """

    clean: CleanRun
    positions: tuple[int, ...]
    start: int
    texts: list[int]
    first: list[int]
    until: list[int]
    heads: list[int] | None = None

    @property
    def width(self) -> int:
        """Rows that are run for each lane."""
        return self.clean.resid[0].shape[1] - self.start

    @property
    def n_rows(self) -> int:
        """Rows in the last block: what the pass costs at its widest."""
        return self.width * len(self.texts)

    def joined(self, block: int) -> int:
        """How many lanes have entered before this block is run."""
        return bisect_right(self.first, block)

    def active(self, block: int) -> list[int]:
        """The lanes that are patched in this block."""
        return [lane for lane in range(self.joined(block)) if self.until[lane] > block]

    @cached_property
    def text_index(self) -> Int[Tensor, " lane"]:
        return torch.tensor(self.texts, device=self.clean.embedding.device)

    @cached_property
    def mask(self) -> Bool[Tensor, "*lane width pos"] | None:
        """Which positions each lane's rows may attend to; None for all."""
        mask = self.clean.mask
        if mask is None:
            return None
        mask = mask[..., self.start :, :] if mask.shape[-2] > 1 else mask
        if mask.ndim > 2:
            mask = mask[self.text_index]
        return None if bool(mask.all()) else mask

    @cached_property
    def pooled_mask(self) -> Bool[Tensor, "*lane one pos"] | None:
        """Which positions the row that is read out may attend to; None for all."""
        if self.mask is None or self.mask.shape[-2] == 1:
            return self.mask
        assert self.clean.pooled is not None
        at = self.clean.pooled - self.start
        mask = self.mask[..., at : at + 1, :]
        return None if bool(mask.all()) else mask


class Layout:
    """Where the rows of many lanes stand in the flat batch [rows, d_model] of one block: lanes after lanes."""

    def __init__(self, lanes: Sequence[Lanes], block: int) -> None:
        self.lanes, self.block = lanes, block
        self.counts = [group.joined(block) for group in lanes]
        self.sizes = [count * group.width for count, group in zip(self.counts, lanes, strict=True)]

    def enter(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "more_rows d"]:
        """The flat batch of the block before with the clean states of the lanes that enter at this one."""
        before = [(group.joined(self.block - 1) if self.block else 0) for group in self.lanes]
        pieces = []
        old = x.split([count * group.width for count, group in zip(before, self.lanes, strict=True)])
        for piece, group, earlier, now in zip(old, self.lanes, before, self.counts, strict=True):
            pieces.append(piece)
            if now > earlier:
                states = group.clean.resid[self.block][group.text_index[earlier:now], group.start :]
                pieces.append(states.flatten(0, 1))
        return torch.cat(pieces)

    def patched(self, only_pooled: bool) -> tuple[Tensor, ...]:
        """Flat numbers of the rows that are patched in this block, lane after lane; and their heads, if by head.

        only_pooled: the activation has one row for each lane, the one that is read out.
        """
        rows: list[int] = []
        heads: list[int] = []
        offset = 0
        for group, count, size in zip(self.lanes, self.counts, self.sizes, strict=True):
            for lane in group.active(self.block):
                if only_pooled:
                    here = [offset + lane] if group.clean.pooled in group.positions else []
                else:
                    at = offset + lane * group.width - group.start
                    here = [at + position for position in group.positions]
                rows += here
                if group.heads is not None:
                    heads += [group.heads[lane]] * len(here)
            offset += count if only_pooled else size
        device = self.lanes[0].clean.embedding.device
        index = (torch.tensor(rows, dtype=torch.long, device=device),)
        return (*index, torch.tensor(heads, dtype=torch.long, device=device)) if heads else index

    def pooled(self) -> Int[Tensor, " lane"]:
        """Flat numbers of the rows that the embeddings are read from."""
        rows: list[int] = []
        offset = 0
        for group, count, size in zip(self.lanes, self.counts, self.sizes, strict=True):
            assert group.clean.pooled is not None
            at = offset + group.clean.pooled - group.start
            rows += range(at, at + count * group.width, group.width)
            offset += size
        return torch.tensor(rows, device=self.lanes[0].clean.embedding.device)

    def attend(self, only_pooled: bool) -> Attend:
        """Each lane attends to itself and to the clean positions before it."""

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
        group, count = self.lanes[i], self.counts[i]
        q, k, v = (t.unflatten(0, (count, -1)) for t in (q, k, v))  # (lane, row, head, d_head)
        if group.start:
            clean, texts = group.clean.kv[self.block], group.text_index[:count]
            assert clean is not None
            k = torch.cat([clean.k[texts, : group.start], k], dim=1)
            v = torch.cat([clean.v[texts, : group.start], v], dim=1)
        mask = group.pooled_mask if only_pooled else group.mask
        first = group.clean.pooled if only_pooled else group.start
        assert first is not None
        if mask is not None and mask.ndim > 2:
            mask = mask[:count]
        return attention.mix(q, k, v, mask, first).flatten(0, 1)

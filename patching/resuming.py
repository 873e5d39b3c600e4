"""How a pass resumes: which rows are run when hidden states are patched, and what they attend to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .block import Attention, Fresh
from .sites import Site
from .unpatched import QKV, SharedRun, Unpatched, take

Index = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Lanes:
    """Sequences that resume from one row of one unpatched run and are patched at the same positions.

    Lane i is a patched run of text ``texts[i]``: its unpatched states enter the pass before block ``first[i]``, the
    first where it is patched, and ``until[i]`` is the block after the last one. Lanes are ordered by ``first``.
    ``heads[i]`` is the patched head (all lanes have one, or none). ``start`` is the first row that is run. In a causal
    tower the rows before the patch cannot change, and patched rows which no changed row comes before go on
    as in the donor's run: the keys and values of all rows before ``start`` are those of the run ``before``.

    clean: the run that is patched. donor: where the replacing states come from, in the frame of ``clean``.
    """

    clean: SharedRun
    donor: SharedRun
    before: SharedRun
    positions: tuple[int, ...]
    start: int
    texts: list[int]
    first: list[int]
    until: list[int]
    heads: list[int] | None = None

    @property
    def width(self) -> int:
        """Rows that are run for each lane."""
        return self.clean.rows.shape[1] - self.start

    @property
    def n_rows(self) -> int:
        """Rows in the last block: what the pass costs at its widest."""
        return self.width * len(self.texts)

    @property
    def pooled(self) -> int:
        """The row that is read out, counted from ``start``."""
        assert self.clean.pooled is not None
        return self.clean.pooled - self.start

    def joined(self, block: int) -> int:
        """How many lanes have entered before this block is run."""
        return bisect_right(self.first, block)

    def active(self, block: int) -> list[int]:
        """The lanes that are patched in this block."""
        return [lane for lane in range(self.joined(block)) if self.until[lane] > block]

    @cached_property
    def text_index(self) -> Int[Tensor, " lane"]:
        return torch.tensor(self.texts, device=self.clean.rows.device)

    @cached_property
    def rows(self) -> Int[Tensor, "lane pos"]:
        """The unpatched rows that a lane's own are before it is patched, and those of ``before``."""
        rows = self.clean.rows[self.text_index]
        rows[:, : self.start] = self.before.rows[self.text_index, : self.start]
        return rows

    @cached_property
    def patched_rows(self) -> Int[Tensor, "lane pos"]:
        """The same with the donor's rows at the patched positions."""
        rows, positions = self.rows.clone(), list(self.positions)
        rows[:, positions] = self.donor.rows[self.text_index][:, positions]
        return rows

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
        mask = self.mask[..., self.pooled : self.pooled + 1, :]
        return None if bool(mask.all()) else mask


class Pass:
    """One pass down the blocks: unpatched rows, unless an earlier pass has run them, and lanes that resume from them.

    site: where lanes are patched. If that is not queries, keys or values, those of a lane's first block are known: the
    unpatched rows', and where the block's input is patched the donor's. reads_one: the last block computes of each lane
    only the row that is read out. keep: later passes resume from the same rows.
    """

    def __init__(
        self,
        unpatched: Unpatched,
        lanes: Sequence[Lanes],
        *,
        site: Site,
        n_blocks: int,
        reads_one: bool,
        keep: bool = False,
    ) -> None:
        self.unpatched, self.lanes, self.site, self.keep = unpatched, lanes, site, keep
        self.n_unpatched = unpatched.n_rows if unpatched.embedding is None else 0
        self.known = site.name not in ("q", "k", "v")
        self.device = unpatched.resid[0].device
        self.layouts = [Layout(self, block, reads_one and block == n_blocks - 1) for block in range(n_blocks)]

    def enter(self) -> Float[Tensor, "row d_model"]:
        """The rows that stand before all lanes in every block."""
        return self.unpatched.resid[0][: self.n_unpatched]

    def leave(self, x: Float[Tensor, "row d_model"]) -> None:
        """Keep the unpatched states that come out of a block."""
        if self.n_unpatched:
            self.unpatched.resid.append(x[: self.n_unpatched].clone())  # no view: it would keep the lanes' rows too


class Layout:
    """Where the rows stand in the flat batch [rows, d_model] of one block: unpatched rows, then lanes after lanes."""

    def __init__(self, pass_: Pass, block: int, only_pooled: bool) -> None:
        self.pass_, self.block, self.only_pooled = pass_, block, only_pooled
        self.counts = [group.joined(block) for group in pass_.lanes]
        self.before = [group.joined(block - 1) if block else 0 for group in pass_.lanes]
        # lanes whose queries, keys and values are computed
        self.computed = self.before if pass_.known else self.counts

    def enter(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "more_rows d"]:
        """The flat batch of the block before with the unpatched states of the lanes that enter at this one."""
        sizes = [count * group.width for count, group in zip(self.before, self.pass_.lanes, strict=True)]
        unpatched, *earlier = x.split([self.pass_.n_unpatched, *sizes])
        pieces, states = [unpatched], self.pass_.unpatched.resid[self.block]
        for group, piece, before, count in zip(self.pass_.lanes, earlier, self.before, self.counts, strict=True):
            pieces.append(piece)
            if count > before:
                pieces.append(take(states, group.rows[before:count, group.start :].flatten()))
        return torch.cat(pieces)

    @cached_property
    def patched(self) -> tuple[Index, Index]:
        """What is replaced in this block, and by what: in the activation of this pass, and in the unpatched one.

        Both are numbers of rows, and heads where heads are replaced; lane after lane.
        """
        only_pooled = self.only_pooled and self.pass_.site.of_queries  # one row for each lane, the one that is read out
        rows: list[int] = []
        heads: list[int] = []
        donors = [torch.empty(0, dtype=torch.long, device=self.pass_.device)]
        offset = self.pass_.n_unpatched
        for group, count in zip(self.pass_.lanes, self.counts, strict=True):
            positions = [p for p in group.positions if not only_pooled or p == group.clean.pooled]
            active, width = group.active(self.block), 1 if only_pooled else group.width
            first = group.start + (group.pooled if only_pooled else 0)
            rows += [offset + lane * width + position - first for lane in active for position in positions]
            donors.append(group.donor.rows[group.text_index[active]][:, positions].flatten())
            if group.heads is not None:
                heads += [group.heads[lane] for lane in active for _ in positions]
            offset += count * width
        here, there = torch.tensor(rows, dtype=torch.long, device=self.pass_.device), torch.cat(donors)
        if not heads:
            return (here,), (there,)
        which = torch.tensor(heads, dtype=torch.long, device=self.pass_.device)
        return (here, which), (there, which)

    @cached_property
    def fresh(self) -> Fresh | None:
        """The rows whose queries, keys and values are computed; None for all."""
        if self.computed == self.counts:
            return None
        rows = self._rows(self.counts, self.computed)
        return Fresh(rows, self._rows(self.computed, self.computed, pooled=True) if self.only_pooled else None)

    @cached_property
    def queries(self) -> Int[Tensor, " query"] | None:
        """The rows whose output is computed; None for all."""
        return self._rows(self.counts, self.counts, pooled=True) if self.only_pooled else None

    def _rows(self, there: Sequence[int], chosen: Sequence[int], pooled: bool = False) -> Int[Tensor, " row"]:
        """Numbers of the unpatched rows and those of each group's first lanes, or of their rows that are read out.

        there: how many lanes of each group the rows are of.
        """
        parts = [torch.arange(self.pass_.n_unpatched)]
        offset = self.pass_.n_unpatched
        for group, count, some in zip(self.pass_.lanes, there, chosen, strict=True):
            rows = torch.arange(offset, offset + some * group.width)
            parts.append(rows.unflatten(0, (some, group.width))[:, group.pooled] if pooled and some else rows)
            offset += count * group.width
        return torch.cat(parts).to(self.pass_.device)

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "queries head d_head"]:
        """Unpatched texts attend to their own rows, each lane to itself and the positions before it."""
        unpatched, n = self.pass_.unpatched, self.pass_.n_unpatched
        if n:
            known = QKV(q[:n], k[:n], v[:n])
            if self.pass_.keep:
                unpatched.qkv.append(QKV(*(part.clone() for part in known)))
            out = list(unpatched.attend(attention, q, k, v))
        else:
            known, out = unpatched.qkv[self.block], []
            k, v = torch.cat([known.k, k]), torch.cat([known.v, v])
        at_query, at_key = n, len(known.k)
        for group, count, computed in zip(self.pass_.lanes, self.counts, self.computed, strict=True):
            if not count:
                continue
            size = computed * group.width
            # where the keys of every lane stand: unpatched rows, but for the lanes that have run already
            keys = (group.patched_rows if self.pass_.site.hook == "hook_resid_pre" else group.rows)[:count].clone()
            first = group.pooled if self.only_pooled else 0
            entering = keys[computed:, group.start + first : group.start + first + 1 if self.only_pooled else None]
            own = torch.arange(at_key, at_key + size, device=keys.device)
            keys[:computed, group.start :] = own.unflatten(0, (computed, group.width))
            n_queries = computed if self.only_pooled else size
            queries = torch.cat([q[at_query : at_query + n_queries], take(known.q, entering.flatten())])
            mask = group.pooled_mask if self.only_pooled else group.mask
            if mask is not None and mask.ndim > 2:
                mask = mask[:count]
            z = attention.mix(
                queries.unflatten(0, (count, -1)), take(k, keys), take(v, keys), mask, group.start + first
            )
            out.append(z.flatten(0, 1))
            at_query, at_key = at_query + n_queries, at_key + size
        return torch.cat(out)

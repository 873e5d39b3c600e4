"""How a pass resumes: which rows are run when hidden states are patched, and what they attend to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..sites import Site
from ..towers.block import Attention, Fresh
from .clean_cache import QKV, SharedRun, Unpatched, on, take
from .shared_prefix import Bundles, count_equals

Index = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Lanes:
    """Sequences that resume from one row of one unpatched run and are patched at the same positions.

    Lane i is a patched run of text ``texts[i]``: its unpatched states enter the pass before block ``first[i]``, the
    first where it is patched, and ``until[i]`` is the block after the last one. Lanes are ordered by ``first``.
    ``heads[i]`` is the patched head (all lanes have one, or none). ``start`` is the first row that is run. In a causal
    tower the rows before the patch cannot change, and patched rows which no changed row comes before go on as in the
    donor's run: the keys and values of all rows before ``start`` are those of the run ``before``.

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
        return self.clean.length - self.start

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
    def rows(self) -> Int[np.ndarray, "lane pos"]:
        """The unpatched rows that a lane's own are before it is patched, and those of ``before``."""
        rows = self.clean.rows[self.texts]
        rows[:, : self.start] = self.before.rows[self.texts, : self.start]
        return rows

    @cached_property
    def patched_rows(self) -> Int[np.ndarray, "lane pos"]:
        """The same with the donor's rows at the patched positions."""
        rows, positions = self.rows.copy(), list(self.positions)
        rows[:, positions] = self.donor.rows[self.texts][:, positions]
        return rows

    @cached_property
    def mask(self) -> Bool[Tensor, "*lane width pos"] | None:
        """Which positions each lane's rows may attend to; None for all."""
        mask = self.clean.mask
        if mask is None:
            return None
        mask = mask[..., self.start :, :] if mask.shape[-2] > 1 else mask
        if mask.ndim > 2:
            mask = mask[self.texts]
        return None if bool(mask.all()) else mask

    @cached_property
    def pooled_mask(self) -> Bool[Tensor, "*lane one pos"] | None:
        """Which positions the row that is read out may attend to; None for all."""
        if self.mask is None or self.mask.shape[-2] == 1:
            return self.mask
        mask = self.mask[..., self.pooled : self.pooled + 1, :]
        return None if bool(mask.all()) else mask

    @cached_property
    def ranks(self) -> Int[np.ndarray, "two lane"]:
        """Each lane's text, numbered as they appear, and how many lanes of this text there are before it."""
        return count_equals(self.texts)

    @property
    def shares_rows(self) -> bool:
        """Whether lanes of one text attend to the same rows before ``start``, under one mask."""
        return self.start > 0 and (self.mask is None or self.mask.ndim == 2)

    @cached_property
    def allowed(self) -> Bool[np.ndarray, "width pos"]:
        """``mask`` where all lanes have the same, written out."""
        allowed = np.ones((self.width, self.clean.length), dtype=bool)
        return allowed if self.mask is None else allowed & self.mask.cpu().numpy()

    def mask_of(
        self, bundles: Bundles, only_pooled: bool, device: torch.device
    ) -> Bool[Tensor, "*lane query key"] | None:
        """What the queries of its first lanes may attend to, or of bundles of them; None for all."""
        if bundles.size > 1:
            own = self.allowed[self.pooled, None] if only_pooled else self.allowed
            return on(device, bundles.mask(own, self.start))
        mask = self.pooled_mask if only_pooled else self.mask
        return mask[: bundles.n_lanes] if mask is not None and mask.ndim > 2 else mask


class Pass:
    """One pass down the blocks: unpatched rows, unless an earlier pass has run them, and lanes that resume from them.

    All rows stand in one flat batch [row, d_model]: the unpatched ones, then lanes in the order in which they enter, so
    that a row keeps its number from block to block.

    site: where lanes are patched. If that is not queries, keys or values, those of a lane's first block are known: the
    unpatched rows', and where the block's input is patched the donor's. reads_one: the last block computes of each lane
    only the row that is read out, in the order of the lanes. keep: later passes resume from the same rows.
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
        self.rows = [np.empty((len(group.texts), group.width), dtype=np.int64) for group in lanes]
        self.layouts: list[Layout] = []
        n_rows = self.n_unpatched
        for block in range(n_blocks):
            layout = Layout(self, block, n_rows, reads_one and block == n_blocks - 1)
            self.layouts.append(layout)
            n_rows = layout.n_rows

    def enter(self) -> Float[Tensor, "row d_model"]:
        """The rows that stand before all lanes in every block."""
        return self.unpatched.resid[0][: self.n_unpatched]

    def leave(self, x: Float[Tensor, "row d_model"]) -> None:
        """Keep the unpatched states that come out of a block."""
        if self.n_unpatched:
            self.unpatched.resid.append(x[: self.n_unpatched].clone())  # no view: it would keep the lanes' rows too

    def by_lanes(self, x: Float[Tensor, "row d_model"]) -> list[Float[Tensor, "lane width d_model"]]:
        """The lanes of each group, of a block that has run all rows."""
        return [take(x, on(self.device, rows)) for rows in self.rows]


class Layout:
    """What one block does: which rows enter, which are computed, replaced and attended to.

    n_before: rows of the block before.
    """

    def __init__(self, pass_: Pass, block: int, n_before: int, only_pooled: bool) -> None:
        self.pass_, self.block, self.n_before, self.only_pooled = pass_, block, n_before, only_pooled
        self.counts = [group.joined(block) for group in pass_.lanes]
        before = [group.joined(block - 1) if block else 0 for group in pass_.lanes]
        # lanes whose queries, keys and values are computed
        self.computed = before if pass_.known else self.counts
        entering = [np.empty(0, dtype=np.int64)]
        self.n_rows = n_before
        for group, rows, old, count in zip(pass_.lanes, pass_.rows, before, self.counts, strict=True):
            size = (count - old) * group.width
            rows[old:count] = np.arange(self.n_rows, self.n_rows + size).reshape(-1, group.width)
            entering.append(group.rows[old:count, group.start :].ravel())
            self.n_rows += size
        self._entering = np.concatenate(entering)

    def enter(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "more_rows d"]:
        """The flat batch of the block before, and the unpatched states of the lanes that enter at this one."""
        if not len(self._entering):
            return x
        return torch.cat([x, take(self.pass_.unpatched.resid[self.block], on(self.pass_.device, self._entering))])

    @cached_property
    def patched(self) -> tuple[Index, Index]:
        """What is replaced in this block, and by what: in the activation of this pass, and in the unpatched one.

        Both are numbers of rows, and heads where heads are replaced; lane after lane.
        """
        only_pooled = self.only_pooled and self.pass_.site.of_queries  # one row for each lane, the one that is read out
        here, there, heads = ([np.empty(0, dtype=np.int64)] for _ in range(3))
        offset = self.pass_.n_unpatched
        for group, rows, count in zip(self.pass_.lanes, self.pass_.rows, self.counts, strict=True):
            positions = [p for p in group.positions if not only_pooled or p == group.clean.pooled]
            active = group.active(self.block)
            own = offset + np.arange(count)[:, None] if only_pooled else rows
            columns = [0 if only_pooled else position - group.start for position in positions]
            here.append(own[active][:, columns].ravel())
            there.append(group.donor.rows[group.texts][active][:, positions].ravel())
            if group.heads is not None:
                heads.append(np.repeat(np.array(group.heads)[active], len(positions)))
            offset += count
        sides = on(self.pass_.device, np.concatenate(here)), on(self.pass_.device, np.concatenate(there))
        if len(heads) == 1:
            return (sides[0],), (sides[1],)
        which = on(self.pass_.device, np.concatenate(heads))
        return (sides[0], which), (sides[1], which)

    @property
    def fresh(self) -> Fresh | None:
        """The rows whose queries, keys and values are computed; None for all."""
        if not self.pass_.known:
            return None
        return Fresh(slice(self.n_before), self._ends(self.computed) if self.only_pooled else None)

    @property
    def queries(self) -> Int[Tensor, " query"] | None:
        """The rows whose output is computed; None for all."""
        return self._ends(self.counts) if self.only_pooled else None

    def _ends(self, counts: Sequence[int]) -> Int[Tensor, " row"]:
        """The unpatched rows, and the ones that are read out of so many lanes of each group."""
        lanes = zip(self.pass_.lanes, self.pass_.rows, counts, strict=True)
        ends = [rows[:count, group.pooled] for group, rows, count in lanes]
        return on(self.pass_.device, np.concatenate([np.arange(self.pass_.n_unpatched), *ends]))

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "query head d_head"]:
        """Unpatched texts attend to their own rows, each lane to itself and the positions before it."""
        unpatched, n, device = self.pass_.unpatched, self.pass_.n_unpatched, self.pass_.device
        out: list[Tensor] = []
        if n:
            if self.pass_.keep:
                unpatched.qkv.append(QKV(q[:n].clone(), k[:n].clone(), v[:n].clone()))
            out += unpatched.attend(attention, q, k, v)
        else:  # the known rows stand before the others here too
            q, k, v = (torch.cat(pair) for pair in zip(unpatched.qkv[self.block], (q, k, v), strict=True))
        if not self.pass_.lanes:
            return torch.cat(out)
        bundles, queries, keys = self._lookups(unpatched.n_rows - n, attention.relative is None)
        sizes = [[own.size for own in index] for index in (queries, keys, keys)]
        places = [on(device, np.concatenate([at.ravel() for at in index])) for index in (queries, keys)]
        parts = take(q, places[0]), take(k, places[1]), take(v, places[1])
        by_group = zip(*(part.split(own) for part, own in zip(parts, sizes, strict=True)), strict=True)
        for group, own, rows in zip(self.pass_.lanes, bundles, by_group, strict=True):
            if own.n_lanes:
                first = group.start + (group.pooled if self.only_pooled else 0)
                mask = group.mask_of(own, self.only_pooled, device)
                own_q, own_k, own_v = (part.unflatten(0, (len(own.slots), -1)) for part in rows)
                out.append(attention.mix(own_q, own_k, own_v, mask, first).flatten(0, 1))
        return self._in_order(torch.cat(out), bundles)

    def _lookups(
        self, shift: int, together: bool
    ) -> tuple[list[Bundles], list[Int[np.ndarray, "bundle query"]], list[Int[np.ndarray, "bundle key"]]]:
        """Which lanes of each group attend together, and where their queries and keys stand.

        These are unpatched rows, but for the lanes that run already. shift: how much further down than in the flat
        batch the lanes' rows stand. together: lanes of one text may share the rows before them.
        """
        bundles, queries, keys = [], [], []
        offset = self.pass_.unpatched.n_rows
        for group, rows, count, computed in zip(
            self.pass_.lanes, self.pass_.rows, self.counts, self.computed, strict=True
        ):
            known = group.patched_rows if self.pass_.site.hook == "hook_resid_pre" else group.rows
            stand = known[:count].copy()
            stand[:computed, group.start :] = rows[:computed] + shift
            if self.only_pooled:  # of which there are no other queries
                asked = known[:count, group.start + group.pooled, None].copy()
                asked[:computed, 0] = np.arange(offset, offset + computed)
                offset += computed
            else:
                asked = stand[:, group.start :]
            own = Bundles.of(group.ranks[:, :count], group.width, together and group.shares_rows)
            bundles.append(own)
            queries.append(own.rows(asked))
            keys.append(own.keys(stand, group.start))
        return bundles, queries, keys

    def _in_order(
        self, z: Float[Tensor, "query head d_head"], bundles: Sequence[Bundles]
    ) -> Float[Tensor, "query head d_head"]:
        """Unpatched rows and bundles, as the rows of the flat batch (of the last block: lane after lane)."""
        offset = at = self.pass_.n_unpatched
        order = np.arange(at + sum(self.counts) if self.only_pooled else self.n_rows)
        for group, rows, own in zip(self.pass_.lanes, self.pass_.rows, bundles, strict=True):
            m = 1 if self.only_pooled else group.width
            here = np.arange(at, at + own.n_lanes) if self.only_pooled else rows[: own.n_lanes].ravel()
            order[here] = (offset + own.place[:, None] * m + np.arange(m)).ravel()
            at, offset = at + own.n_lanes, offset + own.slots.size * m
        if len(order) == len(z) and bool((np.diff(order) == 1).all()):
            return z
        return take(z, on(self.pass_.device, order))

"""A resumed pass: one pass down the blocks in which patched sequences enter where they are first patched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..sites import Site
from ..towers.block import Attention, Block, Fresh
from ..towers.tower import Tower
from .clean_cache import QKV, CleanCache, on, take
from .patched_sequences import PatchedSequences

Index = tuple[Tensor, ...]


def resume(tower: Tower, pass_: ResumedPass) -> Float[Tensor, "sequence embed"]:
    """Run one pass down the blocks for every layer, position and head that is patched in it.

    Before each block the clean states of the sequences that are first patched there are added to the flat batch; the
    engine replaces their rows at the block's hook point (:attr:`BlockLayout.patched`). Where one position is read out,
    the last block computes only that row of each sequence. If the pass also computes the clean cache, the texts'
    embeddings are stored in the cache.

    Returns:
        The embeddings of all patched sequences (not normalised), in their order.
    """
    x, cache = pass_.clean_states(), pass_.cache
    for block, layout in zip(tower.blocks, pass_.layouts, strict=True):
        assert isinstance(block, Block)
        x = layout.add_entering(x)
        if not len(x):  # nothing is patched so far, as at layer 0 of pairs that differ in one token
            continue
        x = block.body(block.hook_resid_pre(x), layout.attend, layout.queries, layout.fresh)
        pass_.store_clean(x)
    runs = cache.runs if pass_.n_clean else []
    clean, patched = x[: pass_.n_clean], x[pass_.n_clean :]
    if tower.spec.reads_one:
        ends = torch.cat([run.index[:, run.pooled] for run in runs]) if runs else slice(0)
        embeddings = tower.readout(torch.cat([clean[ends], patched]))
    else:
        embeddings = torch.cat(
            [
                *(tower.read(clean[run.index], None, run.counted) for run in runs),
                *(tower.read(states, None) for states in pass_.states_by_part(x)),
            ]
        )
    if not runs:
        return embeddings
    cache.embedding = embeddings[: cache.n_texts]
    return embeddings[cache.n_texts :]


class ResumedPass:
    """What one pass runs: the clean cache, unless an earlier pass has computed it, and patched sequences.

    All rows stand in one flat batch [row, d_model]: the clean ones, then those of the sequences in the order in which
    they enter, so that a row keeps its number from block to block.

    parts: patched sequences, in groups that resume from the same position. site: where they are patched. If that is
    not queries, keys or values, those of a sequence's first block are known: the clean rows', and where the block's
    input is patched the donor's, unless it is given states that no clean row has. reads_one: the last block computes
    only the row that is read out of each sequence, in the order of the sequences. keep: later passes resume from the
    same cache, so it needs queries, keys and values.
    """

    def __init__(
        self,
        cache: CleanCache,
        parts: Sequence[PatchedSequences],
        *,
        site: Site,
        n_blocks: int,
        reads_one: bool,
        keep: bool = False,
    ) -> None:
        self.cache, self.parts, self.site, self.keep = cache, parts, site, keep
        self.n_clean = cache.n_rows if cache.embedding is None else 0
        mixed = cache.given is not None or cache.projection is not None  # states that no clean row has
        self.known = site.name not in ("q", "k", "v") and not (mixed and site.hook == "hook_resid_pre")
        self.device = cache.resid[0].device
        self.rows = [np.empty((len(part), part.width), dtype=np.int64) for part in parts]
        self.layouts: list[BlockLayout] = []
        n_rows = self.n_clean
        for block in range(n_blocks):
            layout = BlockLayout(self, block, n_rows, reads_one and block == n_blocks - 1)
            self.layouts.append(layout)
            n_rows = layout.n_rows

    def clean_states(self) -> Float[Tensor, "row d_model"]:
        """Layer 0 of the clean rows, if this pass computes them."""
        return self.cache.resid[0][: self.n_clean]

    def store_clean(self, x: Float[Tensor, "row d_model"]) -> None:
        """Put the clean states after a block into the cache."""
        if self.n_clean:
            self.cache.resid.append(x[: self.n_clean].clone())  # a view would keep the patched rows in memory too

    def states_by_part(self, x: Float[Tensor, "row d_model"]) -> list[Float[Tensor, "sequence width d_model"]]:
        """The states of each part's sequences, after a block that ran all rows."""
        return [take(x, on(self.device, rows)) for rows in self.rows]


class BlockLayout:
    """What one block of a resumed pass does: which rows enter, are computed, are replaced and are attended to.

    n_before: rows after the block before. only_pooled: the block computes only the rows that are read out.
    """

    def __init__(self, pass_: ResumedPass, block: int, n_before: int, only_pooled: bool) -> None:
        self.pass_, self.block, self.n_before, self.only_pooled = pass_, block, n_before, only_pooled
        self.counts = [part.entered(block) for part in pass_.parts]
        before = [part.entered(block - 1) if block else 0 for part in pass_.parts]
        # sequences whose queries, keys and values are computed
        self.computed = before if pass_.known else self.counts
        entering = [np.empty(0, dtype=np.int64)]
        self.n_rows = n_before
        for part, rows, old, count in zip(pass_.parts, pass_.rows, before, self.counts, strict=True):
            size = (count - old) * part.width
            rows[old:count] = np.arange(self.n_rows, self.n_rows + size).reshape(-1, part.width)
            entering.append(part.clean_rows[old:count, part.start :].ravel())
            self.n_rows += size
        self._entering = np.concatenate(entering)

    def add_entering(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "more_rows d"]:
        """The flat batch after the block before, and the clean states of the sequences that enter at this one."""
        if not len(self._entering):
            return x
        return torch.cat([x, take(self.pass_.cache.resid[self.block], on(self.pass_.device, self._entering))])

    @property
    def patched(self) -> tuple[Index, Index]:
        """Which entries are replaced in this block: in the activation of this pass, and by which clean entries.

        Both are numbers of rows, and heads where heads are replaced; part after part.
        """
        only_pooled = self.only_pooled and self.pass_.site.of_queries  # one row per sequence, the one that is read out
        here, there, heads = ([np.empty(0, dtype=np.int64)] for _ in range(3))
        offset = self.pass_.n_clean
        for part, rows, count in zip(self.pass_.parts, self.pass_.rows, self.counts, strict=True):
            patches = part.patches(self.block)
            if only_pooled:
                patches = patches.at(part.clean.pooled)
                here.append(offset + patches.sequence)
            else:
                here.append(rows[patches.sequence, patches.position - part.start])
            there.append(part.donor.rows[np.array(part.texts)[patches.sequence], patches.position])
            if patches.head is not None:
                heads.append(patches.head)
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
        return Fresh(slice(self.n_before), self._read_out(self.computed) if self.only_pooled else None)

    @property
    def queries(self) -> Int[Tensor, " query"] | None:
        """The rows whose output is computed; None for all."""
        return self._read_out(self.counts) if self.only_pooled else None

    def _read_out(self, counts: Sequence[int]) -> Int[Tensor, " row"]:
        """The clean rows, and the row that is read out of each of the first so many sequences of each part."""
        parts = zip(self.pass_.parts, self.pass_.rows, counts, strict=True)
        ends = [rows[:count, part.pooled] for part, rows, count in parts]
        return on(self.pass_.device, np.concatenate([np.arange(self.pass_.n_clean), *ends]))

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "query head d_head"]:
        """Attention of each clean text over its rows, and of each sequence over its rows and those before them."""
        cache, n = self.pass_.cache, self.pass_.n_clean
        out: list[Tensor] = []
        if n:
            if self.pass_.keep:
                cache.qkv.append(QKV(q[:n].clone(), k[:n].clone(), v[:n].clone()))
            out += cache.attend(attention, q, k, v)
        else:  # the clean rows stand before the others here too
            q, k, v = (torch.cat(pair) for pair in zip(cache.qkv[self.block], (q, k, v), strict=True))
        if not self.pass_.parts:
            return torch.cat(out)
        queries, keys = self._lookups(cache.n_rows - n)
        sizes = [[index.size for index in side] for side in (queries, keys, keys)]
        places = [on(self.pass_.device, np.concatenate([index.ravel() for index in side])) for side in (queries, keys)]
        gathered = take(q, places[0]), take(k, places[1]), take(v, places[1])
        by_part = zip(*(rows.split(size) for rows, size in zip(gathered, sizes, strict=True)), strict=True)
        for part, count, rows in zip(self.pass_.parts, self.counts, by_part, strict=True):
            if count:
                start = part.start + (part.pooled if self.only_pooled else 0)
                part_q, part_k, part_v = (side.unflatten(0, (count, -1)) for side in rows)
                mask = part.mask_of(self.block, count, self.only_pooled)
                out.append(attention.mix(part_q, part_k, part_v, mask, start).flatten(0, 1))
        return self._in_order(torch.cat(out))

    def _lookups(
        self, shift: int
    ) -> tuple[list[Int[np.ndarray, "sequence query"]], list[Int[np.ndarray, "sequence pos"]]]:
        """Where each sequence's queries and keys stand: clean rows, but for the sequences that are computed already.

        shift: how much further down than in the flat batch the sequences' rows stand.
        """
        queries, keys = [], []
        offset = self.pass_.cache.n_rows
        for part, rows, count, computed in zip(
            self.pass_.parts, self.pass_.rows, self.counts, self.computed, strict=True
        ):
            known = part.donor_rows if self.pass_.site.hook == "hook_resid_pre" else part.clean_rows
            stand = known[:count].copy()
            stand[:computed, part.start :] = rows[:computed] + shift
            if self.only_pooled:  # there are no other queries
                asked = known[:count, part.start + part.pooled, None].copy()
                asked[:computed, 0] = np.arange(offset, offset + computed)
                offset += computed
            else:
                asked = stand[:, part.start :]
            queries.append(asked)
            keys.append(stand)
        return queries, keys

    def _in_order(self, z: Float[Tensor, "query head d_head"]) -> Float[Tensor, "query head d_head"]:
        """Attention's outputs, which are computed part by part, in the order of the flat batch.

        The last block of a tower that reads one position has its outputs in the order of the parts already.
        """
        if self.only_pooled:
            return z
        order, offset = np.arange(self.n_rows), self.pass_.n_clean
        for rows, count in zip(self.pass_.rows, self.counts, strict=True):
            size = count * rows.shape[1]
            order[rows[:count].ravel()] = np.arange(offset, offset + size)
            offset += size
        return z if bool((np.diff(order) == 1).all()) else take(z, on(self.pass_.device, order))

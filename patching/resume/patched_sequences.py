"""Patched sequences: runs with patches, which resume from one position and run side by side."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from .clean_cache import CachedRun


class Patches(NamedTuple):
    """What is replaced in one block: of which sequence, at which position, and in which head where heads are."""

    sequence: Int[np.ndarray, " patch"]
    position: Int[np.ndarray, " patch"]
    head: Int[np.ndarray, " patch"] | None = None

    def at(self, position: int | None) -> Patches:
        """Those at one position."""
        here = self.position == position
        return Patches(self.sequence[here], self.position[here], None if self.head is None else self.head[here])


@dataclass(frozen=True, eq=False)
class PatchedSequences:
    """Patched sequences of texts of one length that resume from one position.

    Sequence i is a run of text ``texts[i]``: its clean states enter the pass before block ``first[i]``, the first block
    where it is patched. Sequences are ordered by ``first``. Positions before ``start`` are not run: in a causal tower
    they cannot change, and where the first differing token is patched, its row goes on as in the donor's run. Their
    keys and values are those of the run ``before``.

    clean: the base run. donor: where the replacing states come from, aligned to ``clean``.
    """

    clean: CachedRun
    donor: CachedRun
    before: CachedRun
    start: int
    texts: list[int]
    first: list[int]

    def patches(self, block: int) -> Patches:
        """What is replaced in this block."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def width(self) -> int:
        """Rows that are run for each sequence."""
        return self.clean.length - self.start

    @property
    def n_rows(self) -> int:
        """Rows in the last block: what the pass costs at its widest."""
        return self.width * len(self)

    @property
    def pooled(self) -> int:
        """The position that is read out, counted from ``start``."""
        assert self.clean.pooled is not None
        return self.clean.pooled - self.start

    def entered(self, block: int) -> int:
        """How many sequences are in the pass when this block runs."""
        return bisect_right(self.first, block)

    @cached_property
    def clean_rows(self) -> Int[np.ndarray, "sequence pos"]:
        """For each position the clean row that stands there until the sequence enters: before ``start``, for good."""
        rows = self.clean.rows[self.texts]
        rows[:, : self.start] = self.before.rows[self.texts, : self.start]
        return rows

    @cached_property
    def donor_rows(self) -> Int[np.ndarray, "sequence pos"]:
        """``clean_rows`` with the donor's rows where each sequence is patched in its first block."""
        rows, donor = self.clean_rows.copy(), self.donor.rows[self.texts]
        first = np.array(self.first)
        for block in np.unique(first):
            patches = self.patches(int(block))
            new = first[patches.sequence] == block
            where = patches.sequence[new], patches.position[new]
            rows[where] = donor[where]
        return rows

    @cached_property
    def mask(self) -> Bool[Tensor, "*sequence width pos"] | None:
        """Which positions each query may attend to; None for all."""
        mask = self.clean.mask
        if mask is None:
            return None
        mask = mask[..., self.start :, :] if mask.shape[-2] > 1 else mask
        if mask.ndim > 2:
            mask = mask[self.texts]
        return None if bool(mask.all()) else mask

    @cached_property
    def pooled_mask(self) -> Bool[Tensor, "*sequence one pos"] | None:
        """Which positions the query that is read out may attend to; None for all."""
        if self.mask is None or self.mask.shape[-2] == 1:
            return self.mask
        mask = self.mask[..., self.pooled : self.pooled + 1, :]
        return None if bool(mask.all()) else mask

    def mask_of(self, block: int, count: int, only_pooled: bool) -> Bool[Tensor, "*sequence query key"] | None:
        """The mask of the first ``count`` sequences in a block: of all their queries, or of those that are read out."""
        mask = self.pooled_mask if only_pooled else self.mask
        return mask[:count] if mask is not None and mask.ndim > 2 else mask


@dataclass(frozen=True, eq=False)
class SinglePatches(PatchedSequences):
    """Sequences with one patch each, all at the same positions.

    until: for each the block after the last one where it is patched. heads: the patched head (all sequences have one,
    or none). cells: which cell of the map (pair, layer, column) each sequence computes.
    """

    positions: tuple[int, ...]
    until: list[int]
    cells: Int[np.ndarray, "sequence 3"]
    heads: list[int] | None = None

    def patches(self, block: int) -> Patches:
        active = [sequence for sequence in range(self.entered(block)) if self.until[sequence] > block]
        n = len(self.positions)
        heads = None if self.heads is None else np.repeat(np.array(self.heads, dtype=np.int64)[active], n)
        positions = np.tile(np.array(self.positions, dtype=np.int64), len(active))
        return Patches(np.repeat(np.array(active, dtype=np.int64), n), positions, heads)


@dataclass(frozen=True, eq=False)
class JointPatches(PatchedSequences):
    """Sequences with any number of patches each.

    by_block: what is replaced, by number of the block.
    """

    by_block: dict[int, Patches]

    def patches(self, block: int) -> Patches:
        nothing = np.empty(0, dtype=np.int64)
        return self.by_block.get(block, Patches(nothing, nothing))

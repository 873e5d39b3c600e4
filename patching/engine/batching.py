"""Which pairs run together: batches of one shape a group, of as many rows as the machine likes and memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...errors import LengthMismatchError, SiteError
from ..resume.shared_prefix import BUNDLE_ROWS
from ..sites import Column, Site, Sweep, check_column
from ..towers.block import Block
from ..towers.tower import Tower
from .alignment import Alignment

# Rows of one GEMM at which a CPU core is busy, whatever part of them a block still lacks (perf/).
TARGET_ROWS = 3072
CLEAN_ROWS = 512  # and of the unpatched passes of one batch
WORKING_MEMORY = 512 * 2**20  # bytes that the passes of one batch may hold, beside the weights and the results

Key = tuple[int, ...]


@dataclass(frozen=True)
class RowLimits:
    """The most rows of the unpatched passes of one batch, and of one resumed pass; a single pair always runs.

    >>> import tracescribe as ts
    >>> tower = ts.load("phantom").text
    >>> RowLimits.within(tower, Sweep(), WORKING_MEMORY)
    RowLimits(clean=512, lanes=3072)
    >>> RowLimits.within(tower, Sweep(), 2**20).lanes < 3072
    True
    """

    clean: int
    lanes: int

    @classmethod
    def within(cls, tower: Tower, sweep: Sweep, memory: int) -> RowLimits:
        """The limits of a tower under a budget of bytes, half for the unpatched passes and half for the resumed ones.

        An unpatched row is kept as L + 1 states, L queries, keys and values, and L activations of the site where that
        is not the residual stream; and as many float32 embeddings as the map has layers. A resumed row holds, in its
        widest block, its state, the normed state, queries, keys, values, the two sub-layers' outputs with their sums;
        and the MLP's hidden layer twice, or the keys and values that it attends to: its own, and its share of the rows
        before it, which rows that attend together share.
        """
        d, depth, size = tower.d_model, tower.n_layers, tower.dtype.itemsize
        first = tower.blocks[0]
        hidden = first.mlp.up.weight.shape[0] if isinstance(first, Block) else 4 * d
        states = (5 if sweep.site.residual is None else 4) * depth + 1
        clean = size * d * states + 4 * d * (depth + 1)
        alone = not isinstance(first, Block) or first.attn.relative is not None
        together = 1 if alone else max(1, min(BUNDLE_ROWS, depth - 1))  # a text has a lane for every layer
        keys = 1 + (tower.spec.context_length / together if tower.causal else 0)
        lane = int(size * (12 * d + 2 * max(hidden, keys * d)))
        return cls(*(max(1, min(most, memory // 2 // row)) for most, row in ((CLEAN_ROWS, clean), (TARGET_ROWS, lane))))


@dataclass(frozen=True, eq=False)
class Prepared:
    """Pairs checked and divided: what :meth:`PatchingEngine.run` needs to run any unit of them.

    units: the pairs of each batch by number. What a unit's numbers are, to the last bit, depends on who is in it, so
        that units are run whole; they depend on the pairs and options alone, not on what else is known already.
    """

    base: Sequence[Any]
    donor: Sequence[Any]
    columns: Sequence[Sequence[Column]]
    alignments: Sequence[Alignment] | None
    sweep: Sweep
    path: Literal["resume", "generic"]
    limits: RowLimits
    keys: Sequence[Key]
    units: list[list[int]]

    def groups(self, unit: Sequence[int]) -> list[list[int]]:
        """The pairs of a unit whose rows have one shape, so that nothing is ever padded."""
        groups: dict[Key, list[int]] = {}
        for i in unit:
            groups.setdefault(self.keys[i], []).append(i)
        return list(groups.values())


def shape_keys(
    tower: Tower,
    base: Sequence[Any],
    donor: Sequence[Any],
    columns: Sequence[Sequence[Column]],
    alignments: Sequence[Alignment] | None,
    site: Site,
) -> list[Key]:
    """For each pair what must be equal in a group: lengths and readout positions of both rows, number of columns.

    Raises:
        LengthMismatchError: a pair's rows do not fit each other, or its alignment.
        SiteError: a column that its row or the site does not have.
    """
    if len({column.head is None for own in columns for column in own}) > 1:
        raise SiteError("some columns name a head and others do not: patch them in two calls")
    keys = []
    for i, (item, other) in enumerate(zip(base, donor, strict=True)):
        shape, theirs = tower.shape_of(item), tower.shape_of(other)
        if alignments is None and theirs != shape:
            raise LengthMismatchError(
                f"text pair {i} has rows of {shape[0]} and {theirs[0]} tokens, read at positions "
                f"{[shape[1], theirs[1]]}: patching needs equal lengths and one readout position"
            )
        if alignments is not None and len(alignments[i].sources) != shape[0]:
            raise LengthMismatchError(
                f"pair {i} has {shape[0]} positions, but its alignment {len(alignments[i].sources)}"
            )
        for column in columns[i]:
            check_column(column, shape[0], site, tower.n_heads or 0)
        keys.append((*(-1 if part is None else part for part in (*shape, *theirs)), len(columns[i])))
    return keys


def divide(keys: Sequence[Key], batch_size: int | Literal["auto"], clean_rows: int) -> list[list[int]]:
    """Batches of pairs, those of one length side by side.

    >>> divide([(7, 6, 7, 6, 7), (9, 8, 9, 8, 9), (7, 6, 7, 6, 7)], "auto", clean_rows=28)
    [[0, 2], [1]]
    """
    order = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    units: list[list[int]] = []
    rows = 0
    for i in order:
        full = not units or (rows >= clean_rows if batch_size == "auto" else len(units[-1]) >= batch_size)
        if full:
            units.append([])
            rows = 0
        units[-1].append(i)
        rows += keys[i][0] + keys[i][2]
    return units


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 matrices in float32: no TF32 or bfloat16 in their place, whatever the process has allowed.

    TF32 keeps 10 bits of each factor; differences of cosines near the floor would be noise.
    """
    if not hasattr(torch.backends.mkldnn, "matmul"):  # before torch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends: Any = torch.backends
    switches = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul]
    found = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, found, strict=True):
            switch.fp32_precision = precision

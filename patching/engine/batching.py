"""Which pairs run together: shards of pairs with similar lengths, divided into buckets of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ...errors import LengthMismatchError, SiteError
from ..sites import Column, Site, Sweep, check_column
from ..towers.block import Block
from ..towers.tower import Tower
from .alignment import Alignment

if TYPE_CHECKING:
    from .given import GivenStates

# Rows of one matrix product at which a CPU core is busy, whatever part of them a block still lacks (perf/).
TARGET_ROWS = 3072
CLEAN_ROWS = 512  # and rows of the clean runs of one shard
WORKING_MEMORY = 512 * 2**20  # bytes that the passes of one shard may hold, beside the weights and the results

Key = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Pairs that are checked and divided: what :meth:`PatchingEngine.run` needs to run any shard of them.

    shards: the numbers of the pairs that are run and stored together. The last bits of a shard's results depend on its
        composition, so shards are always run as they are; they depend on the pairs and options alone, not on what has
        been computed before.
    given: states that go in instead of the donor's. projection: onto the directions of the state that are replaced.
    """

    base: Sequence[Any]
    donor: Sequence[Any]
    columns: Sequence[Sequence[Column]]
    alignments: Sequence[Alignment] | None
    sweep: Sweep
    path: Literal["resume", "generic"]
    memory: int
    keys: Sequence[Key]
    shards: list[list[int]]
    given: GivenStates | None = None
    projection: Tensor | None = None

    def buckets(self, shard: Sequence[int]) -> list[list[int]]:
        """The pairs of a shard by shape, so that nothing is ever padded."""
        buckets: dict[Key, list[int]] = {}
        for i in shard:
            buckets.setdefault(self.keys[i], []).append(i)
        return list(buckets.values())


def clean_rows(tower: Tower, sweep: Sweep, memory: int) -> int:
    """The most rows of the clean runs of one shard under half of a budget of bytes; a single pair always runs.

    A clean row is kept as L + 1 states, L queries, keys and values, and L activations of the site where that is not the
    residual stream (of neurons, as wide as the hidden layer); and as many float32 embeddings as the map has layers.

    >>> import tracescribe as ts
    >>> tower = ts.load("phantom").text
    >>> clean_rows(tower, Sweep(), WORKING_MEMORY), clean_rows(tower, Sweep(), 2**20)
    (512, 48)
    """
    d, depth = tower.d_model, tower.n_layers
    at_site = tower.n_neurons or d if sweep.site.parts == "neuron" else d if sweep.site.residual is None else 0
    kept = d * (4 * depth + 1) + at_site * depth
    return max(1, min(CLEAN_ROWS, memory // 2 // (tower.dtype.itemsize * kept + 4 * d * (depth + 1))))


def patched_rows(tower: Tower, length: int, memory: int) -> int:
    """The most rows of patched sequences in one pass under half of a budget of bytes; a single sequence always runs.

    A row holds, in its widest block, its state, the normed state, queries, keys, values, the two sub-layers' outputs
    with their sums; and the MLP's hidden layer twice, or the keys and values that it attends to: in a causal tower, at
    worst, those of all positions for one row.

    >>> import tracescribe as ts
    >>> tower = ts.load("phantom").text
    >>> patched_rows(tower, 8, WORKING_MEMORY), patched_rows(tower, 8, 2**20)
    (3072, 73)
    """
    d, block = tower.d_model, tower.blocks[0]
    hidden = block.mlp.up.weight.shape[0] if isinstance(block, Block) else 4 * d
    keys = length if tower.causal else 1
    return max(1, min(TARGET_ROWS, memory // 2 // (tower.dtype.itemsize * (12 * d + 2 * max(hidden, keys * d)))))


def shape_keys(
    tower: Tower,
    base: Sequence[Any],
    donor: Sequence[Any],
    columns: Sequence[Sequence[Column]],
    alignments: Sequence[Alignment] | None,
    site: Site,
    *,
    given: bool = False,
) -> list[Key]:
    """For each pair what must be equal in a bucket: lengths and readout positions of both texts, number of columns.

    Raises:
        LengthMismatchError: a pair's texts do not fit each other, or its alignment.
        SiteError: a column that its text or the site does not have.
    """
    if len({column.head is None for of_pair in columns for column in of_pair}) > 1:
        raise SiteError("some columns name a head and others do not: patch them in two calls")
    keys, n_parts = [], (tower.n_neurons if site.parts == "neuron" else tower.n_heads) or 0
    for i, (item, other) in enumerate(zip(base, donor, strict=True)):
        shape, theirs = tower.shape_of(item), tower.shape_of(other)
        if alignments is None and not given and theirs != shape:
            raise LengthMismatchError(
                f"text pair {i} has rows of {shape[0]} and {theirs[0]} tokens, read at positions "
                f"{[shape[1], theirs[1]]}: patching needs equal lengths and one readout position"
            )
        if alignments is not None and len(alignments[i].sources) != shape[0]:
            raise LengthMismatchError(
                f"pair {i} has {shape[0]} positions, but its alignment {len(alignments[i].sources)}"
            )
        for column in columns[i]:
            check_column(column, shape[0], site, n_parts)
        keys.append((*(-1 if part is None else part for part in (*shape, *theirs)), len(columns[i])))
    return keys


def divide(keys: Sequence[Key], batch_size: int | Literal["auto"], most_clean_rows: int) -> list[list[int]]:
    """Shards of pairs, those of one length side by side.

    >>> divide([(7, 6, 7, 6, 7), (9, 8, 9, 8, 9), (7, 6, 7, 6, 7)], "auto", most_clean_rows=28)
    [[0, 2], [1]]
    """
    order = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    shards: list[list[int]] = []
    rows = 0
    for i in order:
        full = not shards or (rows >= most_clean_rows if batch_size == "auto" else len(shards[-1]) >= batch_size)
        if full:
            shards.append([])
            rows = 0
        shards[-1].append(i)
        rows += keys[i][0] + keys[i][2]
    return shards

"""Buckets: pairs of one shape with their clean runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import SiteError
from ..resume.clean_cache import CachedRun, CleanCache, Run
from ..resume.clean_run import run_clean
from ..resume.known_cells import DONOR, known_cells
from ..sites import Column, Site, Sweep
from ..towers.tower import Tower, normalise
from .batching import Prepared

Cells = Sequence[tuple[int, int]]  # (pair, column), of one layer


class Bucket:
    """Pairs whose inputs have one shape, with their clean runs; the donor's states are aligned to the base's positions.

    members: numbers of the pairs. inputs: of the base run. columns: by pair.
    """

    def __init__(
        self, members: list[int], inputs: Tensor, base: Run, donor: Run, columns: list[Sequence[Column]]
    ) -> None:
        self.members, self.inputs, self.base, self.donor, self.columns = members, inputs, base, donor, columns
        self._unaligned = donor
        self.sources: Int[Tensor, "batch pos"] | None = None
        self.given = False
        self.projection: Tensor | None = None
        self._known: np.ndarray | None = None

    @property
    def donor_embedding(self) -> Float[Tensor, "batch embed"]:
        """Embeddings of the donor runs before alignment (not normalised)."""
        return self._unaligned.embedding

    def give(self, states: Run) -> None:
        """Put given states in, instead of the donor's."""
        self.donor, self.given = states, True

    def align(self, sources: Int[Tensor, "batch pos"], moved: Run | None = None) -> None:
        """Align the donor's activations to the base's positions; positions without a counterpart leave their columns.

        moved: the donor's run with its tokens at other places.
        """
        self.donor = (moved or self.donor).aligned(sources)
        self.sources = sources
        self.columns = [
            [Column(tuple(p for p in column.positions if at[p] >= 0), column.head) for column in columns]
            for at, columns in zip(sources.tolist(), self.columns, strict=True)
        ]

    @property
    def possible(self) -> Bool[Tensor, "batch column"]:
        """Columns with a position that can be replaced."""
        return torch.tensor(
            [[bool(column.positions) for column in columns] for columns in self.columns], device=self.inputs.device
        )

    def of_pair(self, at: int) -> tuple[Run, Run, Int[Tensor, "one pos"] | None]:
        """The runs of one pair that go into its cells, base and donor, and the donor's aligned positions."""
        sources = None if self.sources is None else self.sources[at : at + 1]
        return self.base.one(at), self.donor.one(at), sources

    def blank(self, cells: Tensor) -> Tensor:
        """NaN in the columns that are not possible."""
        return cells if self.sources is None else cells.masked_fill(~self.possible[:, None, :, None], torch.nan)

    @property
    def length(self) -> int:
        """Positions of the base's texts."""
        return self.base.length

    def known(self, tower: Tower, sweep: Sweep) -> Int[np.ndarray, "batch layer column"]:
        """RUN, BASE or DONOR for each cell."""
        if self._known is None:
            member = torch.zeros(len(self.members), len(self.columns[0]), self.length, dtype=torch.bool)
            for pair, columns in enumerate(self.columns):
                for number, column in enumerate(columns):
                    member[pair, number, list(column.positions)] = True
            member = member.to(self.inputs.device)
            known = known_cells(
                tower,
                sweep,
                self.base,
                self.donor,
                member,
                self.sources,
                given=self.given,
                partial=self.projection is not None,
            )
            self._known = known.cpu().numpy()
        return self._known

    def known_embeddings(self, tower: Tower, sweep: Sweep) -> Float[Tensor, "batch layer column embed"]:
        """The embeddings of known cells; all others hold the base's until they are run."""
        if self.given:
            shape = (-1, *self.known(tower, sweep).shape[1:], -1)
            return normalise(self.base.embedding)[:, None, None].expand(shape).clone()
        base, donor = (normalise(run.embedding) for run in (self.base, self.donor))
        from_donor = torch.tensor(self.known(tower, sweep) == DONOR, device=base.device)
        return self.blank(torch.where(from_donor[..., None], donor[:, None, None], base[:, None, None]))

    def index(self, cells: Cells, site: Site) -> tuple[Any, ...]:
        """Index of the replaced entries in an activation whose rows are ``cells``: (row, position[, head])."""
        rows: list[int] = []
        positions: list[int] = []
        heads: list[int | None] = []
        for row, (pair, column) in enumerate(cells):
            chosen = self.columns[pair][column]
            rows += [row] * len(chosen.positions)
            positions += chosen.positions
            heads += [chosen.head] * len(chosen.positions)
        device = self.inputs.device
        at, position = (
            torch.tensor(rows, dtype=torch.long, device=device),
            torch.tensor(positions, dtype=torch.long, device=device),
        )
        one_each: Any = slice(None) if not heads or heads[0] is None else torch.tensor(heads, device=device)
        if site.name == "pattern":  # [row, head, query, key]
            return at, one_each, position
        return (at, position, one_each) if site.parts is not None else (at, position)


def cached_buckets(tower: Tower, prepared: Prepared, shard: Sequence[int]) -> tuple[list[Bucket], CleanCache]:
    """The buckets of a shard over one clean cache, which the first resumed pass will fill."""
    members = prepared.buckets(shard)
    inputs = [_inputs(tower, prepared, pairs) for pairs in members]
    cache = CleanCache.over(tower, [batch for batches in inputs for batch in batches])
    runs = iter(cache.runs)
    buckets = [
        _bucket(prepared, pairs, batches[0][0], [next(runs) for _ in batches])
        for pairs, batches in zip(members, inputs, strict=True)
    ]
    cache.projection = prepared.projection
    if prepared.given is not None:
        cache.given = CleanCache()
        for bucket in buckets:
            row, base = prepared.base[bucket.members[0]], bucket.base
            assert isinstance(base, CachedRun)
            bucket.give(prepared.given.cached(tower, row, prepared.sweep.site, base, cache.given))
    return buckets, cache


def clean_buckets(tower: Tower, prepared: Prepared, shard: Sequence[int]) -> list[Bucket]:
    """The buckets of a shard, with a full clean pass for each side of each."""
    site = prepared.sweep.site
    keep = site.hook if site.residual is None else None
    buckets = []
    for members in prepared.buckets(shard):
        batches = _inputs(tower, prepared, members)
        runs = [run_clean(tower, inputs, keep, places) for inputs, places in batches]
        bucket = _bucket(prepared, members, batches[0][0], runs)
        if prepared.given is not None:
            row = prepared.base[members[0]]
            bucket.give(prepared.given.expanded(tower, row, site, runs[0]))
        buckets.append(bucket)
    return buckets


def _inputs(tower: Tower, prepared: Prepared, members: Sequence[int]) -> list[tuple[Tensor, Tensor | None]]:
    """Inputs and places of the clean runs: base, donor, and the donor at other places if it is to stand there."""
    ours, theirs = (tower.collate([side[i] for i in members]) for side in (prepared.base, prepared.donor))
    batches: list[tuple[Tensor, Tensor | None]] = [(ours, None), (theirs, None)]
    alignments = [prepared.alignments[i] for i in members] if prepared.alignments is not None else []
    if any(alignment.donor_positions is not None for alignment in alignments):
        if not tower.movable:
            raise SiteError(
                "this tower does not add its positions in layer 0, so that tokens cannot be run at other places: "
                "align with position_policy='shift'"
            )
        unmoved = tuple(range(theirs.shape[1]))
        places = torch.tensor([alignment.donor_positions or unmoved for alignment in alignments], device=theirs.device)
        batches.append((theirs, places))
    return batches


def _bucket(prepared: Prepared, members: list[int], inputs: Tensor, runs: Sequence[Run]) -> Bucket:
    """runs: of base and donor, and of the donor at other places."""
    base, donor, *moved = runs
    bucket = Bucket(members, inputs, base, donor, [prepared.columns[i] for i in members])
    bucket.projection = prepared.projection
    if prepared.alignments is not None:
        sources = [prepared.alignments[i].sources for i in members]
        bucket.align(torch.tensor(sources, device=inputs.device), *moved)
    return bucket

"""Pairs on their way through the engine: groups of one shape with their unpatched runs, and jobs of lanes to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import SiteError
from ..resume.clean_cache import Run, SharedRun, Unpatched
from ..resume.known_cells import DONOR, RUN, structural_cells
from ..resume.passes import Lanes
from ..sites import Column, Site, Sweep
from ..towers.tower import Tower, normalise
from .batching import Prepared

Cells = Sequence[tuple[int, int]]  # (pair, column), of one layer


class Group:
    """Pairs whose rows have one shape, with their unpatched runs; the donor's states are in the base row's frame."""

    def __init__(
        self, members: list[int], inputs: Tensor, base: Run, donor: Run, columns: list[Sequence[Column]]
    ) -> None:
        self.members, self.inputs, self.base, self.donor, self.columns = members, inputs, base, donor, columns
        self._unaligned = donor
        self.sources: Int[Tensor, "batch pos"] | None = None
        self._known: np.ndarray | None = None

    @property
    def donor_embedding(self) -> Float[Tensor, "batch embed"]:
        """Embeddings of the donors where they stand (not normalised)."""
        return self._unaligned.embedding

    def align(self, sources: Int[Tensor, "batch pos"], moved: Run | None = None) -> None:
        """Put the donor's activations in the base's frame; positions without a counterpart leave their columns.

        moved: the donor's run with its tokens at other places.
        """
        self.donor = (moved or self.donor).in_frame(sources)
        self.sources = sources
        self.columns = [
            [Column(tuple(p for p in column.positions if own[p] >= 0), column.head) for column in columns]
            for own, columns in zip(sources.tolist(), self.columns, strict=True)
        ]

    @property
    def possible(self) -> Bool[Tensor, "batch column"]:
        """Columns with a position that something can be put into."""
        return torch.tensor([[bool(c.positions) for c in own] for own in self.columns], device=self.inputs.device)

    def blank(self, cells: Tensor) -> Tensor:
        """NaN in the columns that are not possible."""
        return cells if self.sources is None else cells.masked_fill(~self.possible[:, None, :, None], torch.nan)

    @property
    def length(self) -> int:
        """Positions of the base's rows."""
        return self.base.length

    def known(self, tower: Tower, sweep: Sweep) -> np.ndarray:
        """RUN, BASE or DONOR by [pair, layer, column]."""
        if self._known is None:
            member = torch.zeros(len(self.members), len(self.columns[0]), self.length, dtype=torch.bool)
            for pair, columns in enumerate(self.columns):
                for number, column in enumerate(columns):
                    member[pair, number, list(column.positions)] = True
            member = member.to(self.inputs.device)
            self._known = structural_cells(tower, sweep, self.base, self.donor, member, self.sources).cpu().numpy()
        return self._known

    def known_cells(self, tower: Tower, sweep: Sweep) -> Float[Tensor, "batch layer column embed"]:
        """The cells that are the base's or the donor's embedding by construction; others hold the base's for now."""
        clean, other = (normalise(run.embedding) for run in (self.base, self.donor))
        donors = torch.tensor(self.known(tower, sweep) == DONOR, device=clean.device)
        return self.blank(torch.where(donors[..., None], other[:, None, None], clean[:, None, None]))

    def entry(
        self, tower: Tower, site: Site, pair: int, positions: tuple[int, ...]
    ) -> tuple[tuple[int, ...], int, bool]:
        """Where a run that is patched at these positions resumes.

        Returns:
            The positions that are still to be patched there, the first row that is run, and whether the rows before it
            go on as in the donor's run: where a state is replaced and none before it differs from the donor's.
        """
        if not tower.causal:
            return positions, 0, False
        if site.hook != "hook_resid_pre" or self.sources is not None:
            return positions, min(positions), False
        start = int(self._first_difference[pair])  # states before it are the donor's already
        while start in positions:
            start += 1
        left = tuple(position for position in positions if position > start)
        if start > self._first_difference[pair]:
            return left, start, True
        return left, min(left), False

    @cached_property
    def _first_difference(self) -> np.ndarray:
        differs = (self.base.resid[0] != self.donor.resid[0]).any(dim=-1)
        return differs.int().argmax(dim=1).cpu().numpy()

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
        return (at, position, one_each) if site.by_head else (at, position)


@dataclass(frozen=True, eq=False)
class Job:
    """Lanes to be run, and the cells (pair, layer, column) of a group that their embeddings belong to."""

    group: int
    lanes: Lanes
    cells: Int[Tensor, "lane 3"]


def begin(tower: Tower, prepared: Prepared, unit: Sequence[int]) -> tuple[list[Group], Unpatched]:
    """The pairs of a unit, with their unpatched rows still to be run by the first resumed pass."""
    members = prepared.groups(unit)
    inputs = [_inputs(tower, prepared, own) for own in members]
    unpatched = tower.begin([batch for own in inputs for batch in own])
    runs = iter(unpatched.runs)
    groups = [
        _group(prepared, own, batches[0][0], [next(runs) for _ in batches])
        for own, batches in zip(members, inputs, strict=True)
    ]
    return groups, unpatched


def run_whole(tower: Tower, prepared: Prepared, unit: Sequence[int]) -> list[Group]:
    """The pairs of a unit, with their unpatched rows run by passes of their own."""
    site = prepared.sweep.site
    keep = site.hook if site.residual is None else None
    groups = []
    for members in prepared.groups(unit):
        batches = _inputs(tower, prepared, members)
        runs = [tower.run_clean(rows, keep, places) for rows, places in batches]
        groups.append(_group(prepared, members, batches[0][0], runs))
    return groups


def _inputs(tower: Tower, prepared: Prepared, members: Sequence[int]) -> list[tuple[Tensor, Tensor | None]]:
    """Inputs and places of the unpatched runs: base, donor, and the donor at other places if it is to stand there."""
    ours, theirs = (tower.collate([side[i] for i in members]) for side in (prepared.base, prepared.donor))
    batches: list[tuple[Tensor, Tensor | None]] = [(ours, None), (theirs, None)]
    alignments = [prepared.alignments[i] for i in members] if prepared.alignments is not None else []
    if any(alignment.donor_positions is not None for alignment in alignments):
        if not tower.movable:
            raise SiteError(
                "this tower does not add its positions in layer 0, so that tokens cannot be run at other places: "
                "align with position_policy='shift'"
            )
        own = tuple(range(theirs.shape[1]))
        places = torch.tensor([alignment.donor_positions or own for alignment in alignments], device=theirs.device)
        batches.append((theirs, places))
    return batches


def _group(prepared: Prepared, members: list[int], inputs: Tensor, runs: Sequence[Run]) -> Group:
    """runs: of base and donor, and of the donor at other places."""
    base, donor, *moved = runs
    group = Group(members, inputs, base, donor, [prepared.columns[i] for i in members])
    if prepared.alignments is not None:
        sources = [prepared.alignments[i].sources for i in members]
        group.align(torch.tensor(sources, device=inputs.device), *moved)
    return group


def evenly(jobs: Sequence[Job], n_unpatched: int, most_rows: int) -> list[list[Job]]:
    """Jobs by passes of about as many rows, ``most_rows`` or so at most; the first has the unpatched rows too."""
    left = n_unpatched + sum(job.lanes.n_rows for job in jobs)
    passes: list[list[Job]] = [[]]
    rows, room = n_unpatched, left / -(-left // most_rows)
    for job in jobs:
        size = job.lanes.n_rows
        if rows and (rows + size > most_rows or rows + size / 2 > room):
            passes.append([])
            left -= rows
            rows, room = 0, left / -(-left // most_rows)
        passes[-1].append(job)
        rows += size
    return passes


def divide_lanes(
    tower: Tower, sweep: Sweep, groups: Sequence[Group], most_rows: int
) -> tuple[list[Job], list[tuple[int, tuple[int, int, int]]]]:
    """The cells of resumable groups that are not known by construction, as lanes of at most ``most_rows`` rows.

    Returns:
        The lanes that are patched at the same positions together; and (group, (pair, layer, column)) of those that
        cannot be resumed, since no block takes the state that they replace.
    """
    jobs: list[Job] = []
    whole: list[tuple[int, tuple[int, int, int]]] = []
    n_blocks, site = tower.n_layers, sweep.site
    for number, group in enumerate(groups):
        base, donor = group.base, group.donor
        assert isinstance(base, SharedRun) and isinstance(donor, SharedRun)
        alike: dict[tuple[tuple[int, ...], int, bool], list[tuple[int, int, int, int]]] = {}
        for pair, layer, column in np.argwhere(group.known(tower, sweep) == RUN).tolist():
            window, positions = sweep.layers(layer, n_blocks), group.columns[pair][column].positions
            last_state = site.first_layer == 0 and window.stop > n_blocks  # no block of a resumed pass takes it
            if last_state and (base.pooled is None or base.pooled in positions):  # and it is read
                whole.append((number, (pair, layer, column)))
            else:
                where = group.entry(tower, site, pair, positions)
                alike.setdefault(where, []).append((pair, window.start, layer, column))
        for (positions, start, follows), members in alike.items():
            room = max(1, most_rows // (group.length - start))
            members.sort()  # by text, so that a part of the lanes needs few of them
            for at in range(0, len(members), room):
                part = sorted(members[at : at + room], key=lambda member: member[1])
                heads = [group.columns[pair][column].head for pair, _, _, column in part]
                lanes = Lanes(
                    clean=base,
                    donor=donor,
                    before=donor if follows else base,
                    positions=positions,
                    start=start,
                    texts=[pair for pair, _, _, _ in part],
                    first=[first for _, first, _, _ in part],
                    until=[sweep.layers(layer, n_blocks).stop for _, _, layer, _ in part],
                    heads=None if heads[0] is None else [head for head in heads if head is not None],
                )
                cells = torch.tensor([(pair, layer, column) for pair, _, layer, column in part])
                jobs.append(Job(number, lanes, cells.to(group.inputs.device)))
    return jobs, whole


def state_at(run: Run | Unpatched, block: int, hook: str) -> Tensor:
    """The activation at a hook point of an unpatched run."""
    if hook == "hook_resid_pre":
        return run.resid[block]
    return run.resid[block + 1] if hook == "hook_resid_post" else run.site[block]

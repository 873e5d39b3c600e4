"""Pairs on their way through the engine: groups of one shape with their unpatched runs, and jobs of lanes to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .resuming import CleanRun, Lanes
from .sites import Column, Site, Sweep
from .structure import structural_cells
from .tower import Tower


class Group:
    """Pairs whose rows have one shape, with their unpatched runs; the donor's states are in the base row's frame."""

    def __init__(
        self, members: list[int], inputs: Tensor, base: CleanRun, donor: CleanRun, columns: list[Sequence[Column]]
    ) -> None:
        self.members, self.inputs, self.base, self.donor, self.columns = members, inputs, base, donor, columns
        self.donor_embedding = donor.embedding
        self.sources: Int[Tensor, "batch pos"] | None = None
        self._known: np.ndarray | None = None

    def align(self, sources: Int[Tensor, "batch pos"]) -> None:
        """Put the donor's activations in the base's frame; positions without a counterpart leave their columns."""
        self.donor = _in_frame(self.donor, sources)
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
        return self.base.resid[0].shape[1]

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

    def donor_state(self, block: int, hook: str) -> Tensor:
        """The donor's activation at a hook point."""
        return _state(self.donor, block, hook)

    def index(self, pairs: list[int], column: int, site: Site) -> tuple[Any, ...]:
        """Index of the replaced entries in an activation whose rows are ``pairs``: (row, position[, head])."""
        rows: list[int] = []
        positions: list[int] = []
        heads: list[int | None] = []
        for row, pair in enumerate(pairs):
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
    """Lanes to be run, and the cells (pair, layer, column) that their embeddings belong to."""

    lanes: Lanes
    donor: CleanRun
    cells: Tensor
    index: Int[Tensor, "lane 3"]

    def states(self, sweep: Sweep, block: int, only_pooled: bool) -> Tensor:
        """The donor's activations that go into one block, in the order of ``Layout.patched``."""
        lanes, state = self.lanes, _state(self.donor, block, sweep.site.hook)
        active = lanes.active(block)
        positions = list(lanes.positions)
        if only_pooled:
            positions = [position for position in positions if position == lanes.clean.pooled]
        texts = [lanes.texts[lane] for lane in active for _ in positions]
        index: tuple[list[int], ...] = (texts, positions * len(active))
        if lanes.heads is not None:
            index = (*index, [lanes.heads[lane] for lane in active for _ in positions])
        return state[tuple(torch.tensor(part, dtype=torch.long, device=state.device) for part in index)]


def _state(run: CleanRun, block: int, hook: str) -> Tensor:
    """The activation at a hook point of an unpatched run."""
    if hook == "hook_resid_pre":
        return run.resid[block]
    return run.resid[block + 1] if hook == "hook_resid_post" else run.site[block]


def _in_frame(run: CleanRun, sources: Int[Tensor, "batch pos"]) -> CleanRun:
    """A run's activations at the positions that belong to another row's; where none does (-1), those of position 0."""
    rows = torch.arange(len(sources), device=sources.device)[:, None]
    at = sources.clamp_min(0)
    # where the donor is read out, in the base's frame: -1 where that is not one place in every row
    ends = None if run.pooled is None else (sources == run.pooled).nonzero()[:, 1].unique()
    return CleanRun(
        [state[rows, at] for state in run.resid],
        run.kv,
        [state[rows, at] for state in run.site],
        None if ends is None else int(ends[0]) if len(ends) == 1 else -1,
        run.mask,
        run.embedding,
    )

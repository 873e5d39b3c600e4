"""Given states: zeros, or means over a pool of texts, that replace those of a base run instead of a donor's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import SiteError
from ..resume.clean_cache import CachedRun, CleanCache
from ..resume.clean_run import CleanRun, run_clean
from ..sites import Site
from ..towers.tower import Tower

ROWS = 64  # texts of a pool that run together


class GivenStates:
    """The states that replace those of every text with as many positions: zero ablation and mean ablation.

    pool: rows as :meth:`PatchingEngine.prepare` takes them; a state becomes the mean, position by position, over those
        of the same shape as the base text. None: zeros.
    """

    def __init__(self, pool: Sequence[Any] | None = None) -> None:
        self.pool = None if pool is None else list(pool)
        self._known: dict[Any, CleanRun] = {}

    @property
    def name(self) -> str:
        """As users write it."""
        return "zero" if self.pool is None else "mean"

    def key(self, tower: Tower, row: Any) -> str:
        """What decides the states that go into the run of this row, for the keys of the cache."""
        if self.pool is None:
            return self.name
        rows = json.dumps([[int(one) for one in member] for member in self._members(tower, tower.shape_of(row))])
        return f"{self.name} {hashlib.sha256(rows.encode()).hexdigest()}"

    def of(self, tower: Tower, row: Any, site: Site) -> CleanRun:
        """The states for texts of the shape of ``row``, as a run of one text.

        Raises:
            SiteError: the pool has no text of this shape.
        """
        shape = tower.shape_of(row)
        known = self._known.get((shape, site.name))
        if known is None:
            rows = [row] if self.pool is None else self._members(tower, shape)
            if not rows:
                raise SiteError(f"the pool has no text of {shape[0]} tokens, so that there is no mean to replace by")
            known = self._known[shape, site.name] = _mean(tower, rows, site, zero=self.pool is None)
        return known

    def cached(self, tower: Tower, row: Any, site: Site, base: CachedRun, table: CleanCache) -> CachedRun:
        """The states as a run beside ``base``, whose rows stand in ``table``, after those that are there."""
        run = self.of(tower, row, site)
        start = len(table.resid[0]) if table.resid else 0
        table.resid = _appended(table.resid, run.resid)
        table.site = _appended(table.site, run.site)
        rows = np.tile(start + np.arange(run.length), (len(base.rows), 1))
        nothing = np.empty(0, dtype=np.int64)
        return CachedRun(table, rows, slice(0, 0), base.pooled, mask=None, counted=None, new=nothing)

    def expanded(self, tower: Tower, row: Any, site: Site, base: CleanRun) -> CleanRun:
        """The states as a run beside ``base``, of as many texts."""
        run, n = self.of(tower, row, site), len(base.resid[0])
        resid, kept = ([state.expand(n, *state.shape[1:]) for state in side] for side in (run.resid, run.site))
        return CleanRun(resid, kept, base.pooled, base.embedding)

    def _members(self, tower: Tower, shape: tuple[int, int | None]) -> list[Any]:
        assert self.pool is not None
        return [row for row in self.pool if tower.shape_of(row) == shape]


def _mean(tower: Tower, rows: Sequence[Any], site: Site, *, zero: bool) -> CleanRun:
    """Means over the runs of rows of one shape, summed in float64, or zeros of the same shapes."""
    keep = site.hook if site.residual is None else None
    sums: tuple[list[Tensor], list[Tensor]] | None = None
    dtypes: tuple[list[torch.dtype], list[torch.dtype]] = ([], [])
    for at in range(0, len(rows), ROWS):
        run = run_clean(tower, tower.collate(rows[at : at + ROWS]), keep)
        parts = [[state.double().sum(dim=0, keepdim=True) for state in side] for side in (run.resid, run.site)]
        dtypes = ([state.dtype for state in run.resid], [state.dtype for state in run.site])
        if sums is None:
            sums = (parts[0], parts[1])
        else:
            sums = tuple([a + b for a, b in zip(*both, strict=True)] for both in zip(sums, parts, strict=True))  # type: ignore[assignment]
    assert sums is not None
    factor = 0.0 if zero else 1 / len(rows)
    resid, kept = (
        [(state * factor).to(dtype) for state, dtype in zip(*both, strict=True)]
        for both in zip(sums, dtypes, strict=True)
    )
    return CleanRun(resid, kept, None, run.embedding[:1])


def _appended(flat: list[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Flat tables with the positions of one text more."""
    rows = [state[0] for state in states]
    return [torch.cat(pair) for pair in zip(flat, rows, strict=True)] if flat else rows

"""The clean cache: states, queries, keys and values of all texts of a batch without a patch, each row computed once.

A row is the state of one token of one text. All rows stand in one flat batch [row, d_model], so that texts of any
length share matrix products without padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..towers.block import Attention
from ..towers.tower import Tower
from .clean_run import CleanRun, pooled_after_alignment, pooled_position

Tokens = Sequence[Sequence[tuple[int, int]]]  # by text, (token, place) of each position


class QKV(NamedTuple):
    """Queries, keys and values of one block, flat."""

    q: Float[Tensor, "row head d_head"]
    k: Float[Tensor, "row head d_head"]
    v: Float[Tensor, "row head d_head"]


class CleanCache:
    """The clean rows of a batch, which a resumed pass fills block by block.

    In a causal tower texts with equal beginnings have the same states until they differ, so these rows are shared.

    resid: states of layers 0, 1, ... qkv: by block, before positions rotate them. site: activations of the patched site
    by block. embedding: of all texts (not normalised), after the first pass. given: a table of states that replace
    those of the texts, where they are not another text's. projection: onto what is replaced of each state.
    """

    def __init__(self) -> None:
        self.runs: list[CachedRun] = []
        self.resid: list[Float[Tensor, "row d_model"]] = []
        self.qkv: list[QKV] = []
        self.site: list[Tensor] = []
        self.embedding: Float[Tensor, "text embed"] | None = None
        self.given: CleanCache | None = None
        self.projection: Tensor | None = None
        self.n_rows = self.n_texts = 0
        self._tree: dict[tuple[int, int, int], int] = {}  # (row before it, token, place): row

    @classmethod
    def over(cls, tower: Tower, batches: Sequence[tuple[Tensor, Tensor | None]]) -> CleanCache:
        """The cache of these texts, with layer 0 only; one run for each batch of (inputs, places).

        The inputs of a batch have one length and one pooled position; places: see :meth:`Tower.embed`.
        """
        cache = cls()
        for inputs, places in batches:
            tokens: Tokens | None = None
            if tower.causal:
                at = itertools.repeat(range(inputs.shape[1])) if places is None else places.tolist()
                tokens = [list(zip(*text, strict=True)) for text in zip(inputs.tolist(), at, strict=False)]
            x, mask = tower.embed(inputs, places), tower.attention_mask(inputs)
            cache.add(x, tokens, pooled_position(tower, inputs), mask, tower.counted(inputs))
        return cache

    def add(
        self,
        x: Float[Tensor, "text pos d_model"],
        tokens: Tokens | None,
        pooled: int | None,
        mask: Bool[Tensor, "*text pos pos"] | None,
        counted: Bool[Tensor, "text pos"] | None,
    ) -> CachedRun:
        """More texts, of one length, with layer 0 ``x``; ``tokens`` where texts with equal beginnings share rows."""
        n_texts, length = x.shape[:2]
        if tokens is None:
            new = list(range(n_texts * length))
            rows = [self.n_rows + at for at in new]
        else:
            rows, new = self._share(tokens)
        run = CachedRun(
            cache=self,
            rows=np.array(rows, dtype=np.int64).reshape(n_texts, length),
            texts=slice(self.n_texts, self.n_texts + n_texts),
            pooled=pooled,
            mask=mask,
            counted=counted,
            new=np.array(new, dtype=np.int64),
        )
        self.resid = [torch.cat([*self.resid, take(x.flatten(0, 1), on(x.device, run.new))])]
        self.n_rows += len(new)
        self.n_texts += n_texts
        self.runs.append(run)
        return run

    def _share(self, tokens: Tokens) -> tuple[list[int], list[int]]:
        """The row of every position, and the positions whose rows are new."""
        rows: list[int] = []
        new: list[int] = []
        for text in tokens:
            before = -1
            for token, place in text:
                next_row = self.n_rows + len(new)
                before = self._tree.setdefault((before, token, place), next_row)
                if before == next_row:
                    new.append(len(rows))
                rows.append(before)
        return rows, new

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Iterator[Float[Tensor, "row head d"]]:
        """Attention of every text over its rows; yields the outputs of the new rows of each run, in their order."""
        for run in self.runs:
            if len(run.new):
                rows = run.index
                mask = run.mask if run.mask is None or run.mask.shape[-2] == 1 else run.mask[..., run.start :, :]
                z = attention.mix(take(q, rows[:, run.start :]), take(k, rows), take(v, rows), mask, run.start)
                yield take(z.flatten(0, 1), run.queries)


@dataclass(frozen=True, eq=False)
class CachedRun:
    """The clean run of some texts of one length, as a view of the cache; it has the fields of :class:`CleanRun`.

    rows: the row of each position. new: the (flat) positions whose rows are computed for these texts; all others are
    shared with earlier texts. counted: positions that enter a mean; None for all.
    """

    cache: CleanCache
    rows: Int[np.ndarray, "text pos"]
    texts: slice
    pooled: int | None
    mask: Bool[Tensor, "*text #key key"] | None  # before positions are aligned to another run's
    counted: Bool[Tensor, "text key"] | None
    new: Int[np.ndarray, " row"]

    @property
    def length(self) -> int:
        """Positions of each text."""
        return self.rows.shape[1]

    @cached_property
    def index(self) -> Int[Tensor, "text pos"]:
        """``rows`` on the tower's device."""
        return on(self.cache.resid[0].device, self.rows)

    @cached_property
    def start(self) -> int:
        """The first position, over all texts, that has a new row."""
        return int((self.new % self.length).min(initial=self.length))

    @cached_property
    def queries(self) -> Int[Tensor, " row"]:
        """The new rows, as numbers among the (text, position) from ``start`` on."""
        text, position = np.divmod(self.new, self.length)
        return on(self.cache.resid[0].device, text * (self.length - self.start) + position - self.start)

    @property
    def resid(self) -> _Gathered:
        """States of the layers so far."""
        return _Gathered(self.cache.resid, self.index)

    @property
    def site(self) -> _Gathered:
        """Activations of the patched site, by block."""
        return _Gathered(self.cache.site, self.index)

    @property
    def embedding(self) -> Float[Tensor, "text embed"]:
        """Embeddings (not normalised), after the first pass."""
        assert self.cache.embedding is not None
        return self.cache.embedding[self.texts]

    def one(self, text: int) -> Self:
        """See :meth:`CleanRun.one`; no rows are computed for it."""
        here, at = slice(text, text + 1), self.texts.start + text
        nothing = np.empty(0, dtype=np.int64)
        return replace(self, rows=self.rows[here], texts=slice(at, at + 1), mask=None, counted=None, new=nothing)

    def aligned(self, sources: Int[Tensor, "text pos"]) -> Self:
        """See :meth:`CleanRun.aligned`."""
        rows = np.take_along_axis(self.rows, sources.clamp_min(0).cpu().numpy(), axis=1)
        pooled = pooled_after_alignment(self.pooled, sources)
        return replace(self, rows=rows, pooled=pooled, mask=None, counted=None)  # these are of the run as it was


Run = CleanRun | CachedRun


class _Gathered:
    """Flat activations as ``[text, pos, ...]``, gathered when they are read."""

    def __init__(self, flat: Sequence[Tensor], rows: Int[Tensor, "text pos"]) -> None:
        self._flat, self._rows = flat, rows

    def __len__(self) -> int:
        return len(self._flat)

    def __getitem__(self, at: int) -> Tensor:
        return take(self._flat[at], self._rows)


def state_at(run: Run | CleanCache, block: int, hook: str) -> Tensor:
    """The activation of a clean run at a hook point of a block."""
    if hook == "hook_resid_pre":
        return run.resid[block]
    return run.resid[block + 1] if hook == "hook_resid_post" else run.site[block]


def on(device: torch.device, numbers: Int[np.ndarray, "*shape"]) -> Int[Tensor, "*shape"]:
    """Row numbers, which are computed by numpy, as a tensor on the tower's device."""
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device)


def take(flat: Float[Tensor, "row *rest"], rows: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape_rest"]:
    """``flat[rows]``, by the kernel that copies complete rows: three times as fast."""
    return flat.flatten(1).index_select(0, rows.flatten()).view(*rows.shape, *flat.shape[1:])

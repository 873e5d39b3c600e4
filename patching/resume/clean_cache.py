"""Unpatched runs: a pass of its own over texts of one length, or all texts of a batch with shared rows run once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..towers.block import Attention

Tokens = Sequence[Sequence[tuple[int, int]]]  # by text, (token, place) of each position


class QKV(NamedTuple):
    """Queries, keys and values of one block, flat."""

    q: Float[Tensor, "row head d_head"]
    k: Float[Tensor, "row head d_head"]
    v: Float[Tensor, "row head d_head"]


@dataclass(frozen=True, eq=False)
class CleanRun:
    """An unpatched pass of its own over rows of one length.

    resid: states of layers 0..L. site: activations of the patched site by block, where that is not the residual stream.
    pooled: the position that is read out, the same in every row; None where the readout is over all of them.
    """

    resid: Sequence[Float[Tensor, "text pos d_model"]]
    site: Sequence[Tensor]
    pooled: int | None
    embedding: Float[Tensor, "text embed"]

    @property
    def length(self) -> int:
        """Positions of each text."""
        return self.resid[0].shape[1]

    def in_frame(self, sources: Int[Tensor, "text pos"]) -> Self:
        """The activations at the positions that belong to another row's; where none does (-1), those of position 0."""
        at, texts = sources.clamp_min(0), torch.arange(len(sources), device=sources.device)[:, None]
        resid, site = ([state[texts, at] for state in states] for states in (self.resid, self.site))
        return replace(self, resid=resid, site=site, pooled=_end_in_frame(self.pooled, sources))


class Unpatched:
    """The unpatched rows of a batch, and what a pass makes of them block by block (:meth:`Tower.resume`).

    In a causal tower texts that begin alike have the same states until they part, so that these rows are run once.

    resid: states of layers 0, 1, ... qkv: by block, before positions turn them. site: activations of the patched site
    by block. embedding: of all texts, once the pass is through.
    """

    def __init__(self) -> None:
        self.runs: list[SharedRun] = []
        self.resid: list[Float[Tensor, "row d_model"]] = []
        self.qkv: list[QKV] = []
        self.site: list[Tensor] = []
        self.embedding: Float[Tensor, "text embed"] | None = None
        self.n_rows = self.n_texts = 0
        self._tree: dict[tuple[int, int, int], int] = {}  # (row before it, token, place): row

    def add(
        self,
        x: Float[Tensor, "text pos d_model"],
        tokens: Tokens | None,
        pooled: int | None,
        mask: Bool[Tensor, "*text pos pos"] | None,
        counted: Bool[Tensor, "text pos"] | None,
    ) -> SharedRun:
        """More texts, of one length, whose layer 0 is ``x``; ``tokens`` where texts that begin alike share rows."""
        n_texts, length = x.shape[:2]
        if tokens is None:
            own = list(range(n_texts * length))
            rows = [self.n_rows + at for at in own]
        else:
            rows, own = self._share(tokens)
        run = SharedRun(
            source=self,
            rows=np.array(rows, dtype=np.int64).reshape(n_texts, length),
            texts=slice(self.n_texts, self.n_texts + n_texts),
            pooled=pooled,
            mask=mask,
            counted=counted,
            own=np.array(own, dtype=np.int64),
        )
        self.resid = [torch.cat([*self.resid, take(x.flatten(0, 1), on(x.device, run.own))])]
        self.n_rows += len(own)
        self.n_texts += n_texts
        self.runs.append(run)
        return run

    def _share(self, tokens: Tokens) -> tuple[list[int], list[int]]:
        """The row of every position, and the positions whose rows are new."""
        rows: list[int] = []
        own: list[int] = []
        for text in tokens:
            before = -1
            for token, place in text:
                new = self.n_rows + len(own)
                before = self._tree.setdefault((before, token, place), new)
                if before == new:
                    own.append(len(rows))
                rows.append(before)
        return rows, own

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Iterator[Float[Tensor, "row head d"]]:
        """Every text attends to its own rows; the rows that are run, in their order."""
        for run in self.runs:
            if len(run.own):
                rows = run.index
                mask = run.mask if run.mask is None or run.mask.shape[-2] == 1 else run.mask[..., run.start :, :]
                z = attention.mix(take(q, rows[:, run.start :]), take(k, rows), take(v, rows), mask, run.start)
                yield take(z.flatten(0, 1), run.new)


@dataclass(frozen=True, eq=False)
class SharedRun:
    """The unpatched run of some texts of one length, as a view of a batch's rows; the fields of :class:`CleanRun`.

    rows: the row of each position. own: the (flat) positions whose rows are run for these texts, as others are known
    from earlier ones. counted: positions that enter a mean; None for all.
    """

    source: Unpatched
    rows: Int[np.ndarray, "text pos"]
    texts: slice
    pooled: int | None
    mask: Bool[Tensor, "*text pos pos"] | None
    counted: Bool[Tensor, "text pos"] | None
    own: Int[np.ndarray, " row"]

    @property
    def length(self) -> int:
        """Positions of each text."""
        return self.rows.shape[1]

    @cached_property
    def index(self) -> Int[Tensor, "text pos"]:
        """``rows`` on the tower's device."""
        return on(self.source.resid[0].device, self.rows)

    @cached_property
    def start(self) -> int:
        """The first position in any text whose row is run for it."""
        return int((self.own % self.length).min(initial=self.length))

    @cached_property
    def new(self) -> Int[Tensor, " row"]:
        """The rows that are run for these texts, among (text, position) from ``start`` on."""
        text, position = np.divmod(self.own, self.length)
        return on(self.source.resid[0].device, text * (self.length - self.start) + position - self.start)

    @property
    def resid(self) -> _Gathered:
        """States of the layers so far."""
        return _Gathered(self.source.resid, self.index)

    @property
    def site(self) -> _Gathered:
        """Activations of the patched site, by block."""
        return _Gathered(self.source.site, self.index)

    @property
    def embedding(self) -> Float[Tensor, "text embed"]:
        """Embeddings (not normalised), once the pass is through."""
        assert self.source.embedding is not None
        return self.source.embedding[self.texts]

    def in_frame(self, sources: Int[Tensor, "text pos"]) -> Self:
        """The rows at the positions that belong to another row's; where none does (-1), that of position 0."""
        rows = np.take_along_axis(self.rows, sources.clamp_min(0).cpu().numpy(), axis=1)
        return replace(self, rows=rows, pooled=_end_in_frame(self.pooled, sources))


Run = CleanRun | SharedRun


class _Gathered:
    """Flat activations as ``[text, pos, ...]``, brought together when they are asked for."""

    def __init__(self, flat: Sequence[Tensor], rows: Int[Tensor, "text pos"]) -> None:
        self._flat, self._rows = flat, rows

    def __len__(self) -> int:
        return len(self._flat)

    def __getitem__(self, at: int) -> Tensor:
        return take(self._flat[at], self._rows)


def on(device: torch.device, numbers: Int[np.ndarray, "*shape"]) -> Int[Tensor, "*shape"]:
    """Row numbers, which are worked out beside the tower, where its activations are."""
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device)


def take(flat: Float[Tensor, "row *rest"], rows: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape *rest"]:
    """``flat[rows]``, by the kernel that copies whole rows: three times as fast."""
    return flat.flatten(1).index_select(0, rows.flatten()).view(*rows.shape, *flat.shape[1:])


def _end_in_frame(pooled: int | None, sources: Int[Tensor, "text pos"]) -> int | None:
    """Where a row is read out, in another row's frame: -1 where that is not one place in every text."""
    if pooled is None:
        return None
    ends = (sources == pooled).nonzero()[:, 1].unique()
    return int(ends[0]) if len(ends) == 1 else -1

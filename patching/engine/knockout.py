"""Knock-out of attention: queries that may not attend to some keys, in one layer or a window of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import PatchDidNotFireError, SiteError
from ..resume.clean_cache import CachedRun, CleanCache
from ..resume.cut_sequences import CutSequences
from ..resume.resumed_pass import ResumedPass, resume
from ..resume.schedule import divide_into_passes
from ..sites import EDGES, Column, Sweep
from ..towers.block import Block
from ..towers.tower import Tower, normalise
from .buckets import Bucket, Cells
from .engine import PatchingEngine, PatchPath
from .resumed import Watch

Edges = Int[np.ndarray, "_ 2"]  # (query, key)


class KnockOutEngine(PatchingEngine):
    """Cuts attention edges of the base run: a query may not attend to a key (Geva et al. 2023, arXiv 2304.14767).

    The key is masked before the softmax, so that the query's attention to all other keys is divided anew. A column of
    site "edges" names the keys (its positions), the queries, and a head (all heads if None). A query is never left
    without a key: where a cut would take all of them, its own stays. The donor run serves for its embedding only.

    No state is replaced, so that nnsight has no part in it: what is cut is the mask. In a resumed pass each sequence
    has a mask of its own in the layers where it is cut. The generic path masks a full pass, reads the pattern, and
    proves that the edges have no weight; a sample of the resumed cells is compared with it.

    >>> import tracescribe as ts
    >>> from tracescribe.patching import Column, Sweep, site_named
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> from_end = [Column((key,), queries=(7,)) for key in range(8)]  # the end token may not read one of the tokens
    >>> found = KnockOutEngine(text).patch([base], [donor], sweep=Sweep(site_named("edges")), columns=[from_end])
    >>> list(found.patched.shape)  # 1 pair, blocks 1..8, 8 keys, 64 dimensions
    [1, 8, 8, 64]
    """

    def _path(self, sweep: Sweep, path: PatchPath) -> Literal["resume", "generic"]:
        if sweep.site is not EDGES:
            raise SiteError(f"attention is cut at site 'edges', not at {sweep.site.name!r}")
        return self._resolved(sweep, path)

    def _resumed(
        self,
        buckets: Sequence[Bucket],
        cache: CleanCache,
        sweep: Sweep,
        most_rows: int,
        watch: Watch | None = None,
    ) -> list[Float[Tensor, "batch layer column embed"]]:
        """Every cell of every bucket; the first pass fills the cache."""
        tower = self.tower
        parts = [part for bucket in buckets for part in _sequences(tower, sweep, bucket, most_rows)]
        passes = divide_into_passes(parts, cache.n_rows, most_rows)
        results = []
        for some in passes:
            keep = some is not passes[-1]
            pass_ = ResumedPass(
                cache, some, site=EDGES, n_blocks=tower.n_layers, reads_one=tower.spec.reads_one, keep=keep
            )
            results.append(resume(tower, pass_))
        embeddings = iter(normalise(torch.cat(results)).split([len(part) for part in parts]))
        found = []
        for bucket in buckets:
            shape = (len(bucket.members), EDGES.n_layers(tower.n_layers), len(bucket.columns[0]), -1)
            cells = normalise(bucket.base.embedding)[:, None, None].expand(shape).clone()
            for part in parts:
                if part.clean is bucket.base:
                    cells[torch.from_numpy(part.cells).to(cells.device).unbind(dim=1)] = next(embeddings)
            found.append(cells)
            if watch is not None:
                watch(bucket.members, cells)
        return found

    def _again(self, bucket: Bucket, sweep: Sweep, at: int, cells: Cells) -> Float[Tensor, "cell embed"]:
        """One full pass for many pairs and columns of one layer, without the blocks before it."""
        tower, layers = self.tower, sweep.layers(at, self.tower.n_layers)
        texts = torch.tensor([pair for pair, _ in cells], device=bucket.inputs.device)
        inputs, n = bucket.inputs[texts], bucket.length
        mask = tower.attention_mask(inputs)
        allowed = _allowed(mask, len(cells), n)
        cut = np.zeros((len(cells), tower.n_heads or 1, n, n), dtype=bool)
        for row, (pair, column) in enumerate(cells):
            chosen = bucket.columns[pair][column]
            edges = edges_of(chosen, allowed[row])
            cut[row, slice(None) if chosen.head is None else chosen.head, edges[:, 0], edges[:, 1]] = True
        without = torch.from_numpy(cut).to(inputs.device)
        kept = ~without if mask is None else mask & ~without
        states = {layer: bucket.base.resid[layer][texts] for layer in range(layers.start + 1)}
        for number in range(layers.start, tower.n_layers):
            block = tower.blocks[number]
            assert isinstance(block, Block)
            if number in layers:
                with _watched(block, without):
                    states[number + 1] = block(states[number], kept)
            else:
                states[number + 1] = block(states[number], mask)
        return tower.read_states(states, inputs)


def edges_of(column: Column, allowed: Bool[np.ndarray, "query key"]) -> Edges:
    """The edges that a column cuts: those that there are, and of no query all of them.

    >>> causal = np.tri(3, dtype=bool)
    >>> edges_of(Column((0, 1, 2), queries=(0, 2)), causal).tolist()  # token 0 sees itself alone, and 2 keeps itself
    [[2, 0], [2, 1]]
    """
    found: list[tuple[int, int]] = []
    for query in column.queries or ():
        seen = np.flatnonzero(allowed[query]).tolist()
        keys = [key for key in seen if key in column.positions]
        if len(keys) == len(seen) and keys:
            keys.remove(query if query in keys else keys[-1])
        found += [(query, key) for key in keys]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _sequences(tower: Tower, sweep: Sweep, bucket: Bucket, most_rows: int) -> list[CutSequences]:
    """The cells of a bucket that have to be run; all others equal the base run."""
    base, n_blocks = bucket.base, tower.n_layers
    assert isinstance(base, CachedRun)
    allowed = _allowed(base.mask, len(bucket.members), bucket.length)
    alike: dict[int, list[tuple[range, tuple[int, int, int], Edges, int | None]]] = {}
    for pair, columns in enumerate(bucket.columns):
        for number, column in enumerate(columns):
            edges = edges_of(column, allowed[pair])
            if tower.causal and base.pooled is not None:
                edges = edges[edges[:, 0] <= base.pooled]  # nothing reads later tokens
            if not len(edges):
                continue
            start = int(edges[:, 0].min()) if tower.causal else 0
            for layer in range(EDGES.n_layers(n_blocks)):
                layers = sweep.layers(layer, n_blocks)
                unread = layers.start == n_blocks - 1 and base.pooled is not None
                if unread and not (edges[:, 0] == base.pooled).any():
                    continue
                alike.setdefault(start, []).append((layers, (pair, layer, number), edges, column.head))
    parts = []
    for start, members in alike.items():
        room = max(1, most_rows // (bucket.length - start))
        for at in range(0, len(members), room):
            some = sorted(members[at : at + room], key=lambda member: member[0].start)
            parts.append(
                CutSequences(
                    clean=base,
                    donor=base,
                    before=base,
                    start=start,
                    texts=[cell[0] for _, cell, _, _ in some],
                    first=[layers.start for layers, *_ in some],
                    until=[layers.stop for layers, *_ in some],
                    cells=np.array([cell for _, cell, _, _ in some]),
                    edges=[edges for _, _, edges, _ in some],
                    heads=[head for *_, head in some],
                    n_heads=tower.n_heads or 1,
                )
            )
    return parts


def _allowed(mask: Tensor | None, n: int, length: int) -> Bool[np.ndarray, "n query key"]:
    """Which keys each query attends to, by text."""
    if mask is None:
        return np.ones((n, length, length), dtype=bool)
    return mask.reshape(-1, *mask.shape[-2:]).expand(n, length, length).cpu().numpy()


@contextmanager
def _watched(block: Block, without: Bool[Tensor, "cell head query key"]) -> Iterator[None]:
    """Compute the block's attention pattern as a tensor, and prove that the edges have no weight.

    Raises:
        PatchDidNotFireError: one has.
    """
    seen: list[Tensor] = []
    keep: Callable[..., None] = lambda module, args, output: seen.append(output)  # noqa: E731
    handle = block.attn.hook_pattern.register_forward_hook(keep)
    block.attn.explicit = True
    try:
        yield
    finally:
        block.attn.explicit = False
        handle.remove()
    if len(seen) != 1 or bool((seen[0].masked_select(without) != 0).any()):
        raise PatchDidNotFireError("attention that should be cut has weight; no result is returned")

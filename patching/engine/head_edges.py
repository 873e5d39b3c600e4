"""Path patching from head to head: what a head's output does through one later head's queries, keys and values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...cards import short_repr
from ...errors import NonFiniteError, SiteError, TowerMismatchError
from ..resume.clean_cache import CachedRun, CleanCache
from ..resume.clean_run import CleanRun, run_clean
from ..resume.patched_sequences import JointPatches, Patches
from ..sites import Sweep, site_named
from ..torch_state import neutral_state
from ..towers.block import Block
from ..towers.spec import TOLERANCE
from ..towers.tower import Tower, normalise
from .batching import WORKING_MEMORY, Prepared, patched_rows
from .buckets import Bucket, cached_buckets, clean_buckets
from .engine import PatchingEngine, PatchPath
from .resumed import run_passes

INPUTS = ("q", "k", "v")
_KEPT = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "hook_attn_out", "hook_mlp_out")
Edge = tuple[int, int, int, int]  # sender's block and head, receiver's block and head; blocks from 0


@dataclass(frozen=True, eq=False)
class HeadEdgeEmbeddings:
    """L2-normalised embeddings of one pair: of both clean runs, and with each edge patched.

    patched: NaN where the receiver's block is not behind the sender's. path: "resume" or "generic".
    """

    base: Float[Tensor, " embed"]
    donor: Float[Tensor, " embed"]
    patched: Float[Tensor, "layer head receiver_layer receiver_head embed"]
    path: str

    __repr__ = short_repr


class HeadEdgeEngine(PatchingEngine):
    """Patches edges between heads (path patching; Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al. 2023).

    For an edge from head h of block l to head h' of a later block l': the donor's output of h is put in at all
    positions, while all other heads and all MLPs between the two blocks are held at the base run's. What arrives at
    block l' is the base's state, changed by what h itself writes. Head h' takes its queries, keys and values (or those
    of ``inputs``) from there; every other head of l' keeps the base's, and from l' on everything is computed anew.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> [(number, found)] = HeadEdgeEngine(text).between_heads([base], [donor])
    >>> list(found.patched.shape)  # from 8 blocks × 4 heads to 8 blocks × 4 heads
    [8, 4, 8, 4, 64]
    """

    def between_heads(
        self,
        base: Sequence[Any],
        donor: Sequence[Any],
        *,
        inputs: Collection[str] = INPUTS,
        path: PatchPath = "auto",
        batch_size: int | Literal["auto"] = "auto",
        checks: int = 2,
        seed: int = 0,
    ) -> Iterator[tuple[int, HeadEdgeEmbeddings]]:
        """The embeddings of every pair under every edge, pair by pair.

        Args:
            base, donor, path, checks, seed: as in :meth:`PatchingEngine.patch`.
            inputs: which inputs of the receiver take the changed state, of "q", "k" and "v".
            batch_size: pairs that run together; "auto" by memory.

        Raises:
            SiteError: the tower's blocks are not taken apart, or there is no such input.
            LengthMismatchError: a pair's rows have different lengths or are read out at different positions.
            PatchDidNotFireError, TowerMismatchError, NonFiniteError, TorchStateError: see :meth:`PatchingEngine.run`.
        """
        wanted = tuple(name for name in INPUTS if name in inputs)
        if not wanted or set(inputs) - set(INPUTS):
            raise SiteError(f"a head's inputs are 'q', 'k' and 'v', not {sorted(map(str, inputs))}")
        sweep = Sweep(site_named("z"))
        self._path(sweep, path)
        if self.tower.n_layers < 2:
            raise SiteError("this tower has a single block, so that no head reads what another one wrote")
        if batch_size == "auto":
            longest = max((self.tower.shape_of(item)[0] for item in base), default=1)
            n_senders = self.tower.n_layers * (self.tower.n_heads or 1)
            of_pair = 4 * n_senders * (longest * self.tower.d_model * self.tower.n_layers + n_senders * 1024)
            batch_size = max(1, WORKING_MEMORY // of_pair)
        prepared = self.prepare(base, donor, sweep=sweep, path=path, batch_size=batch_size)
        self._spell_out(sweep)
        for number, shard in enumerate(prepared.shards):
            with neutral_state(self.tower):
                found = self._edges(prepared, shard, wanted, checks, np.random.default_rng([seed, number]))
            yield from found

    def _edges(
        self, prepared: Prepared, shard: Sequence[int], inputs: tuple[str, ...], checks: int, rng: np.random.Generator
    ) -> list[tuple[int, HeadEdgeEmbeddings]]:
        tower = self.tower
        longest = max(prepared.keys[i][0] for i in shard)
        most_rows = patched_rows(tower, longest, prepared.memory)
        found: list[tuple[int, HeadEdgeEmbeddings]] = []
        for members in prepared.buckets(shard):
            if prepared.path == "resume":
                [bucket], cache = cached_buckets(tower, prepared, members)
            else:
                [bucket], cache = clean_buckets(tower, prepared, members), None
            arriving = _Arriving.at(tower, bucket.inputs, tower.collate([prepared.donor[i] for i in members]), inputs)
            edges = [
                (pair, edge) for pair in range(len(members)) for edge in all_edges(tower.n_layers, tower.n_heads or 1)
            ]
            if cache is None:
                patched = _generic(tower, bucket, arriving, edges, most_rows)
            else:
                patched = self._fast(bucket, cache, arriving, edges, most_rows)
                for pick in rng.permutation(len(edges))[:checks].tolist():
                    again = _generic(tower, bucket, arriving, [edges[pick]], most_rows)[0]
                    worst = float((again - patched[pick]).abs().max())
                    if not worst <= TOLERANCE[tower.dtype]:
                        raise TowerMismatchError(
                            f"self-check failed for the edge {edges[pick][1]}: the resumed pass and the full pass "
                            f"differ by {worst:.1e} (allowed {TOLERANCE[tower.dtype]:.0e}); no result is returned"
                        )
            if not torch.isfinite(patched).all():
                raise NonFiniteError("a patched text embedding is NaN or infinite: check the text tower's weights")
            n_heads = tower.n_heads or 1
            shape = (len(members), tower.n_layers, n_heads, tower.n_layers, n_heads, patched.shape[-1])
            cells = patched.new_full(shape, torch.nan)
            index = torch.tensor([(pair, *edge) for pair, edge in edges], device=cells.device).reshape(-1, 5)
            cells[index.unbind(dim=1)] = patched
            ends = normalise(bucket.base.embedding), normalise(bucket.donor_embedding)
            found += [
                (member, HeadEdgeEmbeddings(ends[0][at], ends[1][at], cells[at], prepared.path))
                for at, member in enumerate(members)
            ]
        return found

    def _fast(
        self,
        bucket: Bucket,
        cache: CleanCache,
        arriving: _Arriving,
        edges: Sequence[tuple[int, Edge]],
        most_rows: int,
    ) -> Float[Tensor, "edge embed"]:
        """Edges as sequences in which the receiver's output is replaced, resumed from the first differing position."""
        tower, base, n_heads = self.tower, bucket.base, self.tower.n_heads or 1
        assert isinstance(base, CachedRun)
        length = bucket.length
        # a table of states per block: rows (text, sender, position), of which a sequence takes its text's and sender's
        table = CleanCache()
        table.site = [z.flatten(0, 2) for z in arriving.outputs]
        cache.given = table
        first = (base.resid[0] != bucket.donor.resid[0]).any(dim=-1).int().argmax(dim=1).tolist()
        alike: dict[tuple[int, int], list[int]] = {}
        for number, (pair, edge) in enumerate(edges):
            alike.setdefault((first[pair] if tower.causal else 0, edge[2]), []).append(number)
        parts, order = [], []
        for (start, block), numbers in alike.items():
            room = max(1, most_rows // (length - start))
            n_senders = block * n_heads
            for at in range(0, len(numbers), room):
                some = numbers[at : at + room]
                texts = [edges[number][0] for number in some]
                senders = [edges[number][1][0] * n_heads + edges[number][1][1] for number in some]
                rows = (np.array(texts) * n_senders + np.array(senders))[:, None] * length + np.arange(length)
                mask = base.mask[texts] if base.mask is not None and base.mask.ndim > 2 else base.mask
                counted = None if base.counted is None else base.counted[texts]
                clean = replace(base, rows=base.rows[texts], mask=mask, counted=counted)
                positions = np.arange(start, length)
                patches = Patches(
                    np.repeat(np.arange(len(some)), len(positions)),
                    np.tile(positions, len(some)),
                    np.repeat(np.array([edges[number][1][3] for number in some]), len(positions)),
                )
                parts.append(
                    JointPatches(
                        clean=clean,
                        donor=replace(clean, rows=rows),
                        before=clean,
                        start=start,
                        texts=list(range(len(some))),
                        first=[block] * len(some),
                        by_block={block: patches},
                    )
                )
                order += some
        found = torch.cat(list(run_passes(self._model, tower, parts, cache, site_named("z"), most_rows)))
        return found[torch.from_numpy(np.argsort(np.array(order))).to(found.device)]


def all_edges(n_blocks: int, n_heads: int) -> list[Edge]:
    """Every pair of heads of which the second is in a later block.

    >>> all_edges(3, 1)
    [(0, 0, 1, 0), (0, 0, 2, 0), (1, 0, 2, 0)]
    """
    heads = range(n_heads)
    return [
        (sender, head, receiver, other)
        for sender in range(n_blocks)
        for head in heads
        for receiver in range(sender + 1, n_blocks)
        for other in heads
    ]


@dataclass(frozen=True, eq=False)
class _Arriving:
    """What the receivers' heads put out when a sender's contribution to their inputs is the donor's.

    outputs: by receiver's block, z of every head; senders are the heads of all earlier blocks. base: z of the base run.
    """

    outputs: list[Float[Tensor, "text _ pos head d_head"]]
    base: list[Float[Tensor, "text pos head d_head"]]

    @classmethod
    def at(cls, tower: Tower, ours: Tensor, theirs: Tensor, inputs: tuple[str, ...]) -> _Arriving:
        kept = {hook: run_clean(tower, ours, hook) for hook in _KEPT}
        donor = run_clean(tower, theirs, "attn.hook_z")
        mask, n_heads = tower.attention_mask(ours), tower.n_heads or 1
        base_z = list(kept["attn.hook_z"].site)
        # the states of all senders so far, as they arrive at the next block: [text, sender, pos, d]
        states: Tensor | None = None
        outputs: list[Tensor] = []
        for number, block in enumerate(tower.blocks):
            assert isinstance(block, Block)
            x = kept["attn.hook_z"].resid[number]
            attn, mlp = (kept[hook].site[number][:, None] for hook in ("hook_attn_out", "hook_mlp_out"))
            if states is None:
                outputs.append(base_z[number].new_empty(len(x), 0, *base_z[number].shape[1:]))
            else:
                outputs.append(_received(block, states, kept, number, mask, inputs))
                states = _held(block, states, attn, mlp)
            z = base_z[number][:, None].repeat(1, n_heads, 1, 1, 1)
            for head in range(n_heads):
                z[:, head, :, head] = donor.site[number][:, :, head]
            asked = x if block.post_norm else block.ln_1(x)
            written = block.scale_attn(block.attn.write(z, asked[:, None]))
            sent = _held(block, x[:, None], written, mlp)
            states = sent if states is None else torch.cat([states, sent], dim=1)
        return cls(outputs, base_z)


def _held(block: Block, x: Tensor, attn: Tensor, mlp: Tensor) -> Float[Tensor, "text sender pos d"]:
    """The state after a block whose two halves add given amounts."""
    after_1, after_2 = (block.ln_1, block.ln_2) if block.post_norm else (nn.Identity(), nn.Identity())
    return after_2(after_1(x + attn) + mlp)


def _received(
    block: Block,
    states: Float[Tensor, "text sender pos d"],
    kept: dict[str, CleanRun],
    number: int,
    mask: Tensor | None,
    inputs: tuple[str, ...],
) -> Float[Tensor, "text sender pos head d_head"]:
    """z of every head of a block whose inputs come from changed states."""
    attention, (n, n_senders) = block.attn, states.shape[:2]
    changed = attention.qkv(states if block.post_norm else block.ln_1(states))
    rows = []
    for name, new in zip(INPUTS, changed, strict=True):
        base = kept[f"attn.hook_{name}"].site[number]  # text, pos, head, d_head
        if name in inputs:
            rows.append(new.unflatten(-1, (attention.n_heads, -1)).flatten(0, 1))
        else:
            rows.append(base[:, None].expand(n, n_senders, *base.shape[1:]).flatten(0, 1))
    if mask is not None and mask.ndim > 2:
        mask = mask.repeat_interleave(n_senders, dim=0)
    q, k, v = rows
    return attention.mix(q, k, v, mask).unflatten(0, (n, n_senders))


@contextmanager
def _putting(block: nn.Module, z: Float[Tensor, "sequence pos head d_head"]) -> Iterator[None]:
    """Replace what a block's heads found."""
    assert isinstance(block, Block)
    handle = block.attn.hook_z.register_forward_hook(lambda module, args, output: z)
    try:
        yield
    finally:
        handle.remove()


def _generic(
    tower: Tower, bucket: Bucket, arriving: _Arriving, edges: Sequence[tuple[int, Edge]], most_rows: int
) -> Float[Tensor, "edge embed"]:
    """Full passes from the receiver's block on, in plain torch."""
    size, n_heads = max(1, most_rows // bucket.length), tower.n_heads or 1
    by_block: dict[int, list[int]] = {}
    for number, (_, edge) in enumerate(edges):
        by_block.setdefault(edge[2], []).append(number)
    found: dict[int, Tensor] = {}
    for first, numbers in by_block.items():
        for at in range(0, len(numbers), size):
            some = numbers[at : at + size]
            texts = torch.tensor([edges[number][0] for number in some], device=bucket.inputs.device)
            z = arriving.base[first][texts].clone()
            for row, number in enumerate(some):
                pair, (layer, head, _, receiver) = edges[number]
                z[row, :, receiver] = arriving.outputs[first][pair, layer * n_heads + head, :, receiver]
            inputs = bucket.inputs[texts]
            mask, states = tower.attention_mask(inputs), [bucket.base.resid[at][texts] for at in range(first + 1)]
            with _putting(tower.blocks[first], z):
                for block in tower.blocks[first:]:
                    states.append(block(states[-1], mask))
            found |= dict(zip(some, normalise(tower.read_states(states, inputs)), strict=True))
    return torch.stack([found[number] for number in range(len(edges))])

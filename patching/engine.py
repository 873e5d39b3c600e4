"""The patching engine: every (layer, position) of a batch of text pairs, exactly, with nnsight doing each replacement.

Two paths give the same numbers. *Resume* exploits what a patch cannot change: in a causal tower a patch at (l, p)
leaves every row before p and every layer up to l as they were, so one pass down the blocks from row p serves all
layers of that position (:meth:`TextTower.resume`); cells that are the clean or the donor run by construction are
filled in. *Generic* runs every cell through the whole tower, skipping only the blocks before l.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import LengthMismatchError, NonFiniteError, PatchDidNotFireError, TowerMismatchError
from .block import KeyValues
from .tower import CleanRun, TextTower, normalise
from .verification import TOLERANCE

logger = logging.getLogger(__name__)

Direction = Literal["foil->correct", "correct->foil"]
PatchPath = Literal["resume", "generic"]

# Rows of one GEMM at which a CPU core is busy and the activations of a block still fit its cache (perf/).
TARGET_ROWS = 1536


@dataclass(frozen=True, eq=False)
class PatchedEmbeddings:
    """Text embeddings under every patch; they do not depend on any image.

    All are L2-normalised. ``patched[i, l, p]`` is text pair i's base text with the state of layer l (0 = embedding
    output) at position p replaced by the donor's; NaN at positions beyond the pair's tokens.
    """

    base: Float[Tensor, "text_pair embed"]
    donor: Float[Tensor, "text_pair embed"]
    patched: Float[Tensor, "text_pair layer pos embed"]
    path: PatchPath


class PatchingEngine:
    """Replaces residual-stream states of base texts by those of donor texts, at every layer and position.

    The engine wraps a twin of the tower (same parameters, own hook points), so the tower it is given stays as it is.
    Use one engine a thread.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> result = PatchingEngine(text).patch([base], [donor])
    >>> list(result.patched.shape)  # 1 pair, layers 0..8, [SOT] there is no|severe op acity . [EOT], 64 dimensions
    [1, 9, 8, 64]
    """

    def __init__(self, tower: TextTower, *, dtype: torch.dtype | None = None) -> None:
        from nnsight import NNsight

        self.tower = tower.twin(dtype)
        self._model: Any = NNsight(self.tower)

    def patch(
        self,
        base: Sequence[Sequence[int]],
        donor: Sequence[Sequence[int]],
        *,
        path: PatchPath = "resume",
        batch_size: int | Literal["auto"] = "auto",
        checks: int = 2,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> PatchedEmbeddings:
        """Patch every pair of token id rows (as :meth:`TextTower.rows` gives them).

        Args:
            base: the texts whose forward pass is patched.
            donor: the texts whose states are put in; row i as long as base row i.
            path: "resume" (default) or "generic".
            batch_size: text pairs a batch; "auto" keeps the rows of one matrix product near the machine's best.
            checks: with "resume", this many cells of each batch, chosen by ``seed``, are run again by the generic
                path and must agree.
            progress: called with the number of finished text pairs after each batch.

        Raises:
            LengthMismatchError: a pair's rows have different lengths or are read out at different positions.
            PatchDidNotFireError: a hook point did not hold the donor's state.
            TowerMismatchError: a checked cell disagrees with the generic path.
            NonFiniteError: an embedding is NaN or infinite.
        """
        n_layers, longest = self.tower.n_layers, max(map(len, base), default=0)
        rng = np.random.default_rng(seed)
        out: PatchedEmbeddings | None = None
        done = 0
        for indices, base_ids, donor_ids in self._batches(base, donor, batch_size):
            with torch.no_grad():
                clean, other = self._run_clean(base_ids, donor_ids)
                part = self._run(base_ids, donor_ids, clean, other, path)
                if path == "resume":
                    self._check(part, base_ids, clean, other, checks, rng)
            if out is None:
                embed = part.base.shape[-1]
                out = PatchedEmbeddings(
                    base=part.base.new_empty(len(base), embed),
                    donor=part.base.new_empty(len(base), embed),
                    patched=part.base.new_full((len(base), n_layers + 1, longest, embed), torch.nan),
                    path=path,
                )
            if not torch.isfinite(part.patched).all():
                raise NonFiniteError("a patched text embedding is NaN or infinite: check the text tower's weights")
            out.base[indices], out.donor[indices] = part.base, part.donor
            out.patched[indices, :, : base_ids.shape[1]] = part.patched
            done += len(indices)
            if progress:
                progress(done)
        if out is None:
            raise ValueError("there is no text pair to patch")
        return out

    # batches --------------------------------------------------------------------------------------------------------

    def _batches(
        self, base: Sequence[Sequence[int]], donor: Sequence[Sequence[int]], batch_size: int | Literal["auto"]
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Batches of pairs of one length and one pooled position, so that nothing is ever padded."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (ids, others) in enumerate(zip(base, donor, strict=True)):
            both = torch.tensor([ids, others]) if len(ids) == len(others) else None
            pooled = None if both is None else self.tower.pooled_positions(both).tolist()
            if pooled is None or pooled[0] != pooled[1]:
                raise LengthMismatchError(
                    f"text pair {i} has rows of {len(ids)} and {len(others)} tokens, read at positions {pooled}: "
                    f"patching needs equal lengths and one readout position"
                )
            groups.setdefault((len(ids), pooled[0]), []).append(i)
        for (length, _), members in groups.items():
            size = batch_size if batch_size != "auto" else self._auto_batch_size(base, donor, members, length)
            for at in range(0, len(members), size):
                part = members[at : at + size]
                yield (
                    part,
                    torch.tensor([list(base[i]) for i in part], device=self.tower.device),
                    torch.tensor([list(donor[i]) for i in part], device=self.tower.device),
                )

    def _auto_batch_size(
        self, base: Sequence[Sequence[int]], donor: Sequence[Sequence[int]], members: list[int], length: int
    ) -> int:
        changed = length
        if self.tower.causal:
            first = [next((p for p in range(length) if base[i][p] != donor[i][p]), length - 1) for i in members]
            changed = length - min(first)
        return max(1, TARGET_ROWS // (self.tower.n_layers * changed))

    # the two paths --------------------------------------------------------------------------------------------------

    def _run_clean(self, base: Int[Tensor, "batch pos"], donor: Int[Tensor, "batch pos"]) -> tuple[CleanRun, CleanRun]:
        """The unpatched runs of both sides, as one batch: every weight is read from memory once."""
        both = self.tower.run_clean(torch.cat([base, donor]))
        return _part(both, slice(len(base))), _part(both, slice(len(base), None))

    def _run(
        self,
        base: Int[Tensor, "batch pos"],
        donor: Int[Tensor, "batch pos"],
        clean: CleanRun,
        other: CleanRun,
        path: PatchPath,
    ) -> PatchedEmbeddings:
        shape = (len(base), self.tower.n_layers + 1, base.shape[1], clean.embedding.shape[-1])
        cells = clean.embedding.new_empty(shape)
        if path == "resume":
            known = structural_cells(self.tower, base, donor, clean.pooled)
            cells[known == BASE] = clean.embedding[:, None, None].expand(shape)[known == BASE]
            cells[known == DONOR] = other.embedding[:, None, None].expand(shape)[known == DONOR]
            for position in range(base.shape[1]):
                joins = [(known[:, layer, position] == RUN).nonzero()[:, 0] for layer in range(self.tower.n_layers)]
                if any(len(pairs) for pairs in joins):
                    embeddings = self._resume(clean, other, position, joins)
                    for layer, part in enumerate(embeddings.split([len(pairs) for pairs in joins])):
                        cells[joins[layer], layer, position] = part
        else:
            pairs = torch.arange(len(base), device=base.device)
            for layer in range(self.tower.n_layers + 1):
                for position in range(base.shape[1]):
                    positions = torch.full_like(pairs, position)
                    cells[:, layer, position] = self._generic(base, clean, other, layer, pairs, positions)
        return PatchedEmbeddings(normalise(clean.embedding), normalise(other.embedding), normalise(cells), path)

    def _resume(self, clean: CleanRun, donor: CleanRun, position: int, joins: list[Tensor]) -> Tensor:
        """One pass that patches ``position`` of the pairs ``joins[l]`` at each layer l."""
        import nnsight

        row = position if not self.tower.causal else 0
        states = [donor.resid[layer][pairs, position] for layer, pairs in enumerate(joins)]
        with self._model.trace(clean, position, joins, fn="resume") as tracer:
            for layer, state in enumerate(states):
                if len(state):
                    self._model.blocks[layer].hook_resid_pre.output[-len(state) :, row] = state
            result = nnsight.save(tracer.result)
        embeddings, held = result
        for layer, (found, wanted) in enumerate(zip(held, states, strict=True)):
            self._prove(found, wanted, layer, position)
        return embeddings

    def _generic(
        self, ids: Tensor, clean: CleanRun, donor: CleanRun, layer: int, pairs: Tensor, positions: Tensor
    ) -> Tensor:
        """Patch one layer of many (pair, position) rows in a whole forward pass that skips the blocks before it."""
        import nnsight

        rows = torch.arange(len(pairs), device=ids.device)
        state = donor.resid[layer][pairs, positions]
        before = clean.resid[layer][pairs]
        n_skipped = min(layer, self.tower.n_layers - 1)
        if layer == self.tower.n_layers:
            before = clean.resid[layer - 1][pairs]
        with self._model.trace(ids[pairs]) as tracer:
            for block in range(n_skipped):
                self._model.blocks[block].skip(before)
            if layer < self.tower.n_layers:
                self._model.blocks[layer].hook_resid_pre.output[rows, positions] = state
                held = nnsight.save(self._model.blocks[layer].hook_resid_pre.output[rows, positions])
            else:
                self._model.blocks[layer - 1].hook_resid_post.output[rows, positions] = state
                held = nnsight.save(self._model.blocks[layer - 1].hook_resid_post.output[rows, positions])
            result = nnsight.save(tracer.result)
        self._prove(held, state, layer, int(positions[0]))
        return result

    # proofs ---------------------------------------------------------------------------------------------------------

    def _prove(self, found: Tensor, wanted: Tensor, layer: int, position: int) -> None:
        if not torch.equal(found, wanted):
            raise PatchDidNotFireError(
                f"the patch at layer {layer}, position {position} did not fire: the hook point held "
                f"{'another state' if found.shape == wanted.shape else f'shape {list(found.shape)}'} instead of the "
                f"donor's; no result is returned"
            )

    def _check(
        self,
        part: PatchedEmbeddings,
        base: Tensor,
        clean: CleanRun,
        other: CleanRun,
        checks: int,
        rng: np.random.Generator,
    ) -> None:
        """Run a few cells again by the generic path, filled-in cells and resumed ones alike."""
        tolerance = TOLERANCE[self.tower.dtype]
        for _ in range(checks):
            pair, layer, position = (int(rng.integers(size)) for size in part.patched.shape[:3])
            at = torch.tensor([pair], device=base.device)
            again = normalise(self._generic(base, clean, other, layer, at, torch.full_like(at, position)))[0]
            worst = float((again - part.patched[pair, layer, position]).abs().max())
            if not worst <= tolerance:
                raise TowerMismatchError(
                    f"self-check failed at layer {layer}, position {position}: the resumed pass and the whole pass "
                    f"differ by {worst:.1e} (allowed {tolerance:.0e}); no result is returned"
                )


def _part(run: CleanRun, rows: slice) -> CleanRun:
    """Some rows of a clean run, as views."""
    return CleanRun(
        resid=[states[rows] for states in run.resid],
        kv=[KeyValues(kv.k[rows], kv.v[rows]) for kv in run.kv],
        pooled=run.pooled,
        embedding=run.embedding[rows],
    )


RUN, BASE, DONOR = 0, 1, 2


def structural_cells(
    tower: TextTower, base: Int[Tensor, "batch pos"], donor: Int[Tensor, "batch pos"], pooled: int
) -> Int[Tensor, "batch layer pos"]:
    """Which cells need no run: BASE or DONOR where the patched embedding is that run's by construction, else RUN.

    Layer 0 differs only where the tokens do, so a patch elsewhere changes nothing, and one at the only differing token
    gives the donor run. The readout sees only the pooled row of layer L. In a causal tower the states before the first
    differing token are equal, and no position after the pooled one reaches it.

    >>> import torch
    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = map(torch.tensor, zip(text.rows(["no opacity", "severe opacity"])))
    >>> structural_cells(text, base, donor, pooled=4)[0, [0, 1, 8]]  # [SOT] no|severe op acity [EOT]; 1 base, 2 donor
    tensor([[1, 2, 1, 1, 1],
            [1, 0, 0, 0, 0],
            [1, 1, 1, 1, 2]])
    """
    differs: Bool[Tensor, "batch pos"] = base != donor
    batch, length = base.shape
    known = torch.full((batch, tower.n_layers + 1, length), RUN, device=base.device)
    known[:, 0] = torch.where(differs, RUN, BASE)
    known[:, 0][differs & (differs.sum(dim=1, keepdim=True) == 1)] = DONOR
    known[:, -1] = BASE
    known[:, -1, pooled] = DONOR
    if tower.causal:
        same_so_far = differs.cumsum(dim=1) == 0
        known.masked_fill_(same_so_far[:, None], BASE)
        known[:, :, pooled + 1 :] = BASE
    return known

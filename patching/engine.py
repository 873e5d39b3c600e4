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
from .resuming import CleanRun, Layout, Site
from .tower import TextTower, normalise
from .verification import TOLERANCE

logger = logging.getLogger(__name__)

Direction = Literal["foil->correct", "correct->foil"]
PatchPath = Literal["resume", "generic"]

# Rows of one GEMM at which a CPU core is busy and the activations of a block still fit its cache (perf/).
TARGET_ROWS = 1536
CLEAN_ROWS = 512  # and of the unpatched passes of one batch


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
        for batch in self._batches(base, donor, batch_size):
            with torch.no_grad():
                runs = [self._run_clean(*ids) for _, *ids in batch]
                found = self._resume_all(runs) if path == "resume" else [self._run_all(run) for run in runs]
                if path == "resume":
                    self._check(runs, found, checks, rng)
            for (indices, ids, _), run, cells in zip(batch, runs, found, strict=True):
                if out is None:
                    embed = cells.shape[-1]
                    out = PatchedEmbeddings(
                        base=cells.new_empty(len(base), embed),
                        donor=cells.new_empty(len(base), embed),
                        patched=cells.new_full((len(base), n_layers + 1, longest, embed), torch.nan),
                        path=path,
                    )
                if not torch.isfinite(cells).all():
                    raise NonFiniteError("a patched text embedding is NaN or infinite: check the text tower's weights")
                out.base[indices], out.donor[indices] = normalise(run.clean.embedding), normalise(run.other.embedding)
                out.patched[indices, :, : ids.shape[1]] = cells
                done += len(indices)
            if progress:
                progress(done)
        if out is None:
            raise ValueError("there is no text pair to patch")
        return out

    # batches --------------------------------------------------------------------------------------------------------

    def _batches(
        self, base: Sequence[Sequence[int]], donor: Sequence[Sequence[int]], batch_size: int | Literal["auto"]
    ) -> Iterator[list[tuple[list[int], Tensor, Tensor]]]:
        """Batches of pairs, in groups of one length and one pooled position, so that nothing is ever padded."""
        order: list[tuple[tuple[int, int], int]] = []
        for i, (ids, others) in enumerate(zip(base, donor, strict=True)):
            both = torch.tensor([ids, others]) if len(ids) == len(others) else None
            pooled = None if both is None else self.tower.pooled_positions(both).tolist()
            if pooled is None or pooled[0] != pooled[1]:
                raise LengthMismatchError(
                    f"text pair {i} has rows of {len(ids)} and {len(others)} tokens, read at positions {pooled}: "
                    f"patching needs equal lengths and one readout position"
                )
            order.append(((len(ids), pooled[0]), i))
        order.sort()  # pairs of one length side by side
        at = 0
        while at < len(order):
            size, rows = 0, 0
            while at + size < len(order) and (size < batch_size if batch_size != "auto" else rows < CLEAN_ROWS):
                rows += 2 * order[at + size][0][0]
                size += 1
            groups: dict[tuple[int, int], list[int]] = {}
            for key, i in order[at : at + size]:
                groups.setdefault(key, []).append(i)
            yield [
                (
                    members,
                    torch.tensor([list(base[i]) for i in members], device=self.tower.device),
                    torch.tensor([list(donor[i]) for i in members], device=self.tower.device),
                )
                for members in groups.values()
            ]
            at += size

    def _run_clean(self, base: Int[Tensor, "batch pos"], donor: Int[Tensor, "batch pos"]) -> _Group:
        """The unpatched runs of both sides, as one batch: every weight is read from memory once."""
        both = self.tower.run_clean(torch.cat([base, donor]))
        return _Group(base, donor, both.part(slice(len(base))), both.part(slice(len(base), None)))

    # the two paths --------------------------------------------------------------------------------------------------

    def _resume_all(self, groups: list[_Group]) -> list[Float[Tensor, "batch layer pos embed"]]:
        """Every cell of every group: filled in where it is known, resumed elsewhere, in passes of about TARGET_ROWS."""
        found, jobs = [], []
        for group in groups:
            known = structural_cells(self.tower, group.base, group.donor, group.clean.pooled)
            clean, other = normalise(group.clean.embedding), normalise(group.other.embedding)
            cells = torch.where((known == DONOR)[..., None], other[:, None, None], clean[:, None, None])
            found.append(cells)
            for position in range(group.base.shape[1]):
                joins = [(known[:, layer, position] == RUN).nonzero()[:, 0] for layer in range(self.tower.n_layers)]
                if any(map(len, joins)):
                    jobs.append((self.tower.site(group.clean, position, joins), group.other, cells))
        while jobs:
            size, rows = 0, 0
            while size < len(jobs) and (size == 0 or rows + jobs[size][0].n_rows <= TARGET_ROWS):
                rows += jobs[size][0].n_rows
                size += 1
            self._resume(jobs[:size])
            jobs = jobs[size:]
        return found

    def _resume(self, jobs: Sequence[tuple[Site, CleanRun, Tensor]]) -> None:
        """One pass over many sites; writes the embeddings into each site's cells."""
        import nnsight

        sites = [site for site, _, _ in jobs]
        rows = [Layout(sites, layer).patched() for layer in range(self.tower.n_layers)]
        states = [
            torch.cat([donor.resid[layer][site.joins[layer], site.position] for site, donor, _ in jobs])
            for layer in range(self.tower.n_layers)
        ]
        with self._model.trace(sites, fn="resume") as tracer:
            for layer, state in enumerate(states):
                if len(state):
                    self._model.blocks[layer].hook_resid_pre.output[rows[layer]] = state
            result = nnsight.save(tracer.result)
        embeddings, held = result
        for layer, (state, wanted) in enumerate(zip(held, states, strict=True)):
            self._prove(state, wanted, f"layer {layer}, position {', '.join(str(site.position) for site in sites)}")
        parts = iter(normalise(embeddings).split([len(texts) for site in sites for texts in site.joins]))
        for site, _, cells in jobs:
            for layer, texts in enumerate(site.joins):
                cells[texts, layer, site.position] = next(parts)

    def _run_all(self, group: _Group) -> Float[Tensor, "batch layer pos embed"]:
        """Every cell of a group in whole passes; nothing is filled in."""
        texts = torch.arange(len(group.base), device=group.base.device)
        layers = [
            torch.stack(
                [
                    normalise(self._generic(group, layer, texts, torch.full_like(texts, position)))
                    for position in range(group.base.shape[1])
                ],
                dim=1,
            )
            for layer in range(self.tower.n_layers + 1)
        ]
        return torch.stack(layers, dim=1)

    def _generic(self, group: _Group, layer: int, pairs: Tensor, positions: Tensor) -> Float[Tensor, "rows embed"]:
        """Patch one layer of many (pair, position) rows in a whole forward pass that skips the blocks before it."""
        import nnsight

        ids, clean, donor = group.base, group.clean, group.other
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
        self._prove(held, state, f"layer {layer}, position {positions.tolist()}")
        return result

    # proofs ---------------------------------------------------------------------------------------------------------

    def _prove(self, found: Tensor, wanted: Tensor, where: str) -> None:
        if not torch.equal(found, wanted):
            raise PatchDidNotFireError(
                f"the patch at {where} did not fire: the hook point held "
                f"{'another state' if found.shape == wanted.shape else f'shape {list(found.shape)}'} instead of the "
                f"donor's; no result is returned"
            )

    def _check(self, groups: list[_Group], found: list[Tensor], checks: int, rng: np.random.Generator) -> None:
        """Run a few cells again by the generic path, filled-in cells and resumed ones alike."""
        tolerance = TOLERANCE[self.tower.dtype]
        for _ in range(checks):
            which = int(rng.integers(len(groups)))
            pair, layer, position = (int(rng.integers(size)) for size in found[which].shape[:3])
            at = torch.tensor([pair], device=self.tower.device)
            again = normalise(self._generic(groups[which], layer, at, torch.full_like(at, position)))[0]
            worst = float((again - found[which][pair, layer, position]).abs().max())
            if not worst <= tolerance:
                raise TowerMismatchError(
                    f"self-check failed at layer {layer}, position {position}: the resumed pass and the whole pass "
                    f"differ by {worst:.1e} (allowed {tolerance:.0e}); no result is returned"
                )


@dataclass(frozen=True, eq=False)
class _Group:
    """Pairs of one length and one pooled position, with their unpatched runs."""

    base: Int[Tensor, "batch pos"]
    donor: Int[Tensor, "batch pos"]
    clean: CleanRun
    other: CleanRun


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

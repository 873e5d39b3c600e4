"""The patching engine: every cell of a sweep over layers and positions, exactly, with nnsight doing each replacement.

Two paths give the same numbers. *Resume* exploits what a patch cannot change: in a causal tower a patch at (l, p)
leaves every row before p and every layer up to l as they were, so one pass down the blocks from row p serves all
layers of that position (:meth:`Tower.resume`); cells that are the clean or the donor run by construction are filled
in. *Generic* runs every cell through the whole tower, skipping only the blocks before l; towers whose blocks are not
taken apart, or that read out several layers, have only this one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import LengthMismatchError, NonFiniteError, PatchDidNotFireError, SiteError, TowerMismatchError
from .alignment import Alignment
from .block import Block
from .groups import Group, Job
from .resuming import Lanes, Layout
from .sites import Column, Sweep, check_column, each_position
from .structure import DONOR, RUN
from .tower import Tower, normalise
from .verification import TOLERANCE

logger = logging.getLogger(__name__)

Direction = Literal["foil->correct", "correct->foil", "negated->affirmative"]
PatchPath = Literal["auto", "resume", "generic"]

# Rows of one GEMM at which a CPU core is busy and the activations of a block still fit its cache (perf/).
TARGET_ROWS = 1536
CLEAN_ROWS = 512  # and of the unpatched passes of one batch


@dataclass(frozen=True, eq=False)
class PatchedEmbeddings:
    """Embeddings under every patch; for texts they do not depend on any image.

    All are L2-normalised. ``patched[i, l, c]`` is base text i with layer l of the site replaced by the donor's at the
    positions of column c; NaN where pair i has no such column.
    """

    base: Float[Tensor, "text_pair embed"]
    donor: Float[Tensor, "text_pair embed"]
    patched: Float[Tensor, "text_pair layer column embed"]
    path: PatchPath


class PatchingEngine:
    """Replaces activations of base inputs by those of donor inputs, at every layer and position.

    The engine wraps a twin of the tower (same parameters, own hook points), so the tower it is given stays as it is.
    Use one engine a thread.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> result = PatchingEngine(text).patch([base], [donor])
    >>> list(result.patched.shape)  # 1 pair, layers 0..8, [SOT] there is no|severe op acity . [EOT], 64 dimensions
    [1, 9, 8, 64]
    """

    def __init__(self, tower: Tower, *, dtype: torch.dtype | None = None) -> None:
        from nnsight import NNsight

        self.tower = tower.twin(dtype)
        self._model: Any = NNsight(self.tower)

    def patch(
        self,
        base: Sequence[Any],
        donor: Sequence[Any],
        *,
        sweep: Sweep | None = None,
        columns: Sequence[Sequence[Column]] | None = None,
        alignments: Sequence[Alignment] | None = None,
        path: PatchPath = "auto",
        batch_size: int | Literal["auto"] = "auto",
        checks: int = 2,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> PatchedEmbeddings:
        """Patch every pair of inputs (token id rows as :meth:`TextTower.rows` gives them, or images).

        Args:
            base: the inputs whose forward pass is patched.
            donor: the inputs whose activations are put in.
            sweep: the site, and how many layers are replaced together; by default the residual stream, layer by layer.
            columns: for each pair, which positions (and which head) are replaced together; by default each position.
            alignments: which donor position belongs to which base position; by default the same one, and then both rows
                must be as long as each other. A column whose positions have no counterpart is NaN.
            path: "auto" (default) resumes where the tower allows it; "resume"; "generic".
            batch_size: pairs a batch; "auto" keeps the rows of one matrix product near the machine's best.
            checks: with "resume", this many cells of each batch, chosen by ``seed``, are run again by the generic
                path and must agree.
            progress: called with the number of finished pairs after each batch.

        Raises:
            LengthMismatchError: a pair's rows have different lengths or are read out at different positions.
            SiteError: the tower does not have this site, position or head, or cannot resume.
            PatchDidNotFireError: a hook point did not hold the donor's activation.
            TowerMismatchError: a checked cell disagrees with the generic path.
            NonFiniteError: an embedding is NaN or infinite.
        """
        sweep = sweep or Sweep()
        path = self._path(sweep, path)
        shapes = [self.tower.shape_of(item) for item in base]
        columns = columns or each_position([length for length, _ in shapes])
        widest = max(map(len, columns), default=0)
        rng = np.random.default_rng(seed)
        out: PatchedEmbeddings | None = None
        done = 0
        for batch in self._batches(base, donor, shapes, columns, alignments, sweep, batch_size):
            with torch.no_grad():
                groups = [self._group(base, donor, members, columns, alignments, sweep) for members in batch]
                found = [self._cells(group, sweep, path) for group in groups]
                if path == "resume":
                    self._resume_all(groups, found, sweep)
                    self._check(groups, found, sweep, checks, rng)
            for group, cells in zip(groups, found, strict=True):
                if out is None:
                    embed = cells.shape[-1]
                    out = PatchedEmbeddings(
                        base=cells.new_empty(len(base), embed),
                        donor=cells.new_empty(len(base), embed),
                        patched=cells.new_full((len(base), cells.shape[1], widest, embed), torch.nan),
                        path=path,
                    )
                if not (torch.isfinite(cells) | ~group.possible[:, None, :, None]).all():
                    raise NonFiniteError("a patched text embedding is NaN or infinite: check the text tower's weights")
                out.base[group.members] = normalise(group.base.embedding)
                out.donor[group.members] = normalise(group.donor_embedding)
                out.patched[group.members, :, : cells.shape[2]] = cells
                done += len(group.members)
            if progress:
                progress(done)
        if out is None:
            raise ValueError("there is no text pair to patch")
        return out

    def _path(self, sweep: Sweep, path: PatchPath) -> PatchPath:
        site = sweep.site
        if site.name not in ("resid", "resid_pre", "resid_post") and self.tower.opaque:
            raise SiteError(
                f"site {site.name!r} lies inside blocks, and this tower's blocks ({type(self.tower.blocks[0]).__name__}"
                f") are run as a whole: patch the residual stream, site='resid'"
            )
        for block in self.tower.blocks:
            if isinstance(block, Block):
                block.attn.explicit = site.name == "pattern"
        resumable = self.tower.resumable and site.name != "pattern"
        if path == "resume" and not resumable:
            raise SiteError(
                f"path='resume' needs a tower whose blocks are taken apart and that reads only its last layer, and any "
                f"site but 'pattern' (here: site {site.name!r}, readout of layers {self.tower.readout_layers}): use "
                f"path='auto'"
            )
        return ("resume" if resumable else "generic") if path == "auto" else path

    # batches --------------------------------------------------------------------------------------------------------

    def _batches(
        self,
        base: Sequence[Any],
        donor: Sequence[Any],
        shapes: Sequence[tuple[int, int | None]],
        columns: Sequence[Sequence[Column]],
        alignments: Sequence[Alignment] | None,
        sweep: Sweep,
        batch_size: int | Literal["auto"],
    ) -> Iterator[list[list[int]]]:
        """Batches of pairs, in groups whose rows have one shape, so that nothing is ever padded."""
        if len({column.head is None for own in columns for column in own}) > 1:
            raise SiteError("some columns name a head and others do not: patch them in two calls")
        order: list[tuple[tuple[int, ...], int]] = []
        for i, (shape, item) in enumerate(zip(shapes, donor, strict=True)):
            other = self.tower.shape_of(item)
            if alignments is None and other != shape:
                raise LengthMismatchError(
                    f"text pair {i} has rows of {shape[0]} and {other[0]} tokens, read at positions "
                    f"{[shape[1], other[1]]}: patching needs equal lengths and one readout position"
                )
            if alignments is not None and len(alignments[i].sources) != shape[0]:
                raise LengthMismatchError(
                    f"pair {i} has {shape[0]} positions, but its alignment {len(alignments[i].sources)}"
                )
            for column in columns[i]:
                check_column(column, shape[0], sweep.site, self.tower.n_heads or 0)
            key = tuple(-1 if part is None else part for part in (*shape, *other))
            order.append(((*key, len(columns[i])), i))
        order.sort()  # pairs of one length side by side
        at = 0
        while at < len(order):
            size, rows = 0, 0
            while at + size < len(order) and (size < batch_size if batch_size != "auto" else rows < CLEAN_ROWS):
                rows += order[at + size][0][0] + order[at + size][0][2]
                size += 1
            groups: dict[tuple[int, ...], list[int]] = {}
            for key, i in order[at : at + size]:
                groups.setdefault(key, []).append(i)
            yield list(groups.values())
            at += size

    def _group(
        self,
        base: Sequence[Any],
        donor: Sequence[Any],
        members: list[int],
        columns: Sequence[Sequence[Column]],
        alignments: Sequence[Alignment] | None,
        sweep: Sweep,
    ) -> Group:
        """The unpatched runs of both sides; rows of one shape as one batch, so that weights are read once."""
        ours, theirs = (self.tower.collate([side[i] for i in members]) for side in (base, donor))
        keep = sweep.site.hook if sweep.site.residual is None else None
        n, own = len(members), [columns[i] for i in members]
        if ours.shape == theirs.shape:
            both = self.tower.run_clean(torch.cat([ours, theirs]), keep)
            clean, other = both.part(slice(n)), both.part(slice(n, None))
        else:
            clean, other = self.tower.run_clean(ours, keep), self.tower.run_clean(theirs, keep)
        if alignments is None:
            return Group(members, ours, clean, other, own)
        return self._aligned(Group(members, ours, clean, other, own), theirs, [alignments[i] for i in members], keep)

    def _aligned(self, group: Group, donors: Tensor, alignments: Sequence[Alignment], keep: str | None) -> Group:
        """The group with the donor's activations at the base's positions."""
        if any(alignment.donor_positions is not None for alignment in alignments):
            if not self.tower.movable:
                raise SiteError(
                    "this tower does not add its positions in layer 0, so that tokens cannot be run at other places: "
                    "align with position_policy='shift'"
                )
            own = tuple(range(donors.shape[1]))
            places = torch.tensor([alignment.donor_positions or own for alignment in alignments], device=donors.device)
            group.donor = self.tower.run_clean(donors, keep, places)
        group.align(torch.tensor([alignment.sources for alignment in alignments], device=donors.device))
        return group

    # the two paths --------------------------------------------------------------------------------------------------

    def _cells(self, group: Group, sweep: Sweep, path: PatchPath) -> Float[Tensor, "batch layer column embed"]:
        """Every cell of a group: by whole passes, or (to be resumed) only what is known by construction."""
        if path == "resume":
            clean, other = normalise(group.base.embedding), normalise(group.donor.embedding)
            donors = torch.tensor(group.known(self.tower, sweep) == DONOR, device=clean.device)
            return group.blank(torch.where(donors[..., None], other[:, None, None], clean[:, None, None]))
        pairs = list(range(len(group.members)))
        layers = [
            torch.stack(
                [normalise(self._whole(group, sweep, at, pairs, column)) for column in range(len(group.columns[0]))],
                dim=1,
            )
            for at in range(sweep.site.n_layers(self.tower.n_layers))
        ]
        return group.blank(torch.stack(layers, dim=1))

    def _resume_all(self, groups: Sequence[Group], found: Sequence[Tensor], sweep: Sweep) -> None:
        """Every cell that is not known by construction, in passes of about TARGET_ROWS rows."""
        jobs = [job for group, cells in zip(groups, found, strict=True) for job in self._jobs(group, cells, sweep)]
        while jobs:
            size, rows = 0, 0
            while size < len(jobs) and (size == 0 or rows + jobs[size].lanes.n_rows <= TARGET_ROWS):
                rows += jobs[size].lanes.n_rows
                size += 1
            self._resume(jobs[:size], sweep)
            jobs = jobs[size:]

    def _jobs(self, group: Group, cells: Tensor, sweep: Sweep) -> Iterator[Job]:
        """The lanes of a group: those that are patched at the same positions together."""
        n_blocks = self.tower.n_layers
        alike: dict[tuple[int, ...], list[tuple[int, int, int, int]]] = {}
        for pair, layer, column in np.argwhere(group.known(self.tower, sweep) == RUN).tolist():
            first = sweep.layers(layer, n_blocks).start
            if sweep.site.first_layer == 0 and first == n_blocks:  # the last state alone, where a mean is read
                cells[pair, layer, column] = normalise(self._whole(group, sweep, layer, [pair], column))[0]
            else:
                positions = group.columns[pair][column].positions
                alike.setdefault(positions, []).append((pair, first, layer, column))
        for positions, members in alike.items():
            start = min(positions) if self.tower.causal else 0
            room = max(1, TARGET_ROWS // (group.length - start))
            members.sort()  # by text, so that a part of the lanes needs few of them
            for at in range(0, len(members), room):
                part = sorted(members[at : at + room], key=lambda member: member[1])
                heads = [group.columns[pair][column].head for pair, _, _, column in part]
                lanes = Lanes(
                    clean=group.base,
                    positions=positions,
                    start=start,
                    texts=[pair for pair, _, _, _ in part],
                    first=[first for _, first, _, _ in part],
                    until=[sweep.layers(layer, n_blocks).stop for _, _, layer, _ in part],
                    heads=None if heads[0] is None else [head for head in heads if head is not None],
                )
                index = torch.tensor([(pair, layer, column) for pair, _, layer, column in part], device=cells.device)
                yield Job(lanes, group.donor, cells, index)

    def _resume(self, jobs: Sequence[Job], sweep: Sweep) -> None:
        """One pass over many lanes; writes the embeddings into each job's cells."""
        import nnsight

        lanes = [job.lanes for job in jobs]
        plans = []
        for block in range(self.tower.n_layers):
            only_pooled = sweep.site.of_queries and block == self.tower.n_layers - 1 and self.tower.spec.reads_one
            index = Layout(lanes, block).patched(only_pooled)
            if len(index[0]):
                wanted = torch.cat([job.states(sweep, block, only_pooled) for job in jobs])
                plans.append((block, index, wanted))
        held: list[Tensor] = []
        with self._model.trace(lanes, fn="resume") as tracer:
            for block, index, wanted in plans:
                point = _point(self._model.blocks[block], sweep.site.hook)
                point.output[index] = wanted
                held.append(nnsight.save(point.output[index]))
            result = nnsight.save(tracer.result)
        for (block, _, wanted), state in zip(plans, held, strict=True):
            where = ", ".join(sorted({str(position) for group in lanes for position in group.positions}))
            self._prove(state, wanted, f"block {block} ({sweep.site.hook}), positions {where}")
        for job, embeddings in zip(jobs, normalise(result).split([len(job.lanes.texts) for job in jobs]), strict=True):
            job.cells[job.index.unbind(dim=1)] = embeddings

    def _whole(self, group: Group, sweep: Sweep, at: int, pairs: list[int], column: int) -> Float[Tensor, "pair embed"]:
        """Patch one layer and column of many pairs in a whole forward pass that skips the blocks before it."""
        import nnsight

        n_blocks = self.tower.n_layers
        events = sweep.events(at, n_blocks)
        index = group.index(pairs, column, sweep.site)
        chosen = torch.tensor(pairs, device=group.inputs.device)
        first = events[0][0]
        last_state = events[0][1] == "hook_resid_post" and sweep.site.hook == "hook_resid_pre"  # all blocks are skipped
        wanted = [group.donor_state(block, hook)[(chosen[index[0]], *index[1:])] for block, hook in events]
        before = [group.base.resid[block + 1][chosen] for block in range(n_blocks)]
        if last_state:
            before[-1][index] = wanted[0]
        held: list[Tensor] = []
        with self._model.trace(group.inputs[chosen]) as tracer:
            for block in range(n_blocks if last_state else first):
                self._model.blocks[block].skip(before[block])
            if last_state:
                held.append(nnsight.save(self._model.blocks[n_blocks - 1].output[index]))
            else:
                for (block, hook), state in zip(events, wanted, strict=True):
                    point = _point(self._model.blocks[block], hook)
                    point.output[index] = state
                    held.append(nnsight.save(point.output[index]))
            result = nnsight.save(tracer.result)
        for (block, hook), state, donors in zip(events, held, wanted, strict=True):
            self._prove(state, donors, f"block {block} ({hook}), positions {group.columns[pairs[0]][column].positions}")
        return result

    # proofs ---------------------------------------------------------------------------------------------------------

    def _prove(self, found: Tensor, wanted: Tensor, where: str) -> None:
        if not torch.equal(found, wanted):
            raise PatchDidNotFireError(
                f"the patch at {where} did not fire: the hook point held "
                f"{'another state' if found.shape == wanted.shape else f'shape {list(found.shape)}'} instead of the "
                f"donor's; no result is returned"
            )

    def _check(
        self, groups: Sequence[Group], found: Sequence[Tensor], sweep: Sweep, checks: int, rng: np.random.Generator
    ) -> None:
        """Run a few cells again by the generic path, filled-in cells and resumed ones alike."""
        tolerance = TOLERANCE[self.tower.dtype]
        for _ in range(checks):
            which = int(rng.integers(len(groups)))
            pair, layer, column = (int(rng.integers(size)) for size in found[which].shape[:3])
            if not groups[which].possible[pair, column]:
                continue
            again = normalise(self._whole(groups[which], sweep, layer, [pair], column))[0]
            worst = float((again - found[which][pair, layer, column]).abs().max())
            if not worst <= tolerance:
                raise TowerMismatchError(
                    f"self-check failed at layer {layer + sweep.site.first_layer}, positions "
                    f"{groups[which].columns[pair][column].positions}: the resumed pass and the whole pass differ by "
                    f"{worst:.1e} (allowed {tolerance:.0e}); no result is returned"
                )


def _point(block: Any, hook: str) -> Any:
    """nnsight's view of a hook point inside a block."""
    for name in hook.split("."):
        block = getattr(block, name)
    return block

"""The patching engine: every cell of a sweep over layers and positions, exactly, with nnsight doing each replacement.

Two paths give the same numbers. *Resume* exploits what a patch cannot change: in a causal tower a patch at (l, p)
leaves every row before p and every layer up to l as they were, so one pass down the blocks from row p serves all
layers of that position (:meth:`Tower.resume`); cells that are the clean or the donor run by construction are filled
in. *Generic* runs every cell through the whole tower, skipping only the blocks before l; towers whose blocks are not
taken apart, or that read out several layers, have only this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import NonFiniteError, PatchDidNotFireError, SiteError, TowerMismatchError
from ..resume.clean_cache import Unpatched
from ..resume.passes import Pass
from ..sites import Column, Sweep, each_position
from ..towers.block import Block
from ..towers.spec import TOLERANCE
from ..towers.tower import Tower, normalise
from .alignment import Alignment
from .batching import WORKING_MEMORY, Prepared, RowLimits, divide, full_float32, shape_keys
from .groups import Cells, Group, Job, begin, divide_lanes, evenly, run_whole, state_at

Direction = Literal["foil->correct", "correct->foil", "negated->affirmative"]
PatchPath = Literal["auto", "resume", "generic"]


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


@dataclass(frozen=True, eq=False)
class PatchedBatch(PatchedEmbeddings):
    """The embeddings of one batch: row i is pair ``members[i]`` of the call; as many columns as its pairs have."""

    members: list[int]


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
        checks: int = 2,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
        **options: Any,
    ) -> PatchedEmbeddings:
        """Patch every pair of inputs and keep all results; see :meth:`prepare` for the options and what they raise.

        Args:
            base, donor: see :meth:`prepare`.
            checks, seed: see :meth:`run`.
            progress: called with the number of finished pairs after each batch.
        """
        prepared = self.prepare(base, donor, **options)
        widest = max(map(len, prepared.columns), default=0)
        out: PatchedEmbeddings | None = None
        done = 0
        for batch in self.stream(prepared, checks=checks, seed=seed):
            cells = batch.patched
            if out is None:
                embed = cells.shape[-1]
                out = PatchedEmbeddings(
                    base=cells.new_empty(len(base), embed),
                    donor=cells.new_empty(len(base), embed),
                    patched=cells.new_full((len(base), cells.shape[1], widest, embed), torch.nan),
                    path=prepared.path,
                )
            out.base[batch.members], out.donor[batch.members] = batch.base, batch.donor
            out.patched[batch.members, :, : cells.shape[2]] = cells
            done += len(batch.members)
            if progress:
                progress(done)
        if out is None:
            raise ValueError("there is no text pair to patch")
        return out

    def prepare(
        self,
        base: Sequence[Any],
        donor: Sequence[Any],
        *,
        sweep: Sweep | None = None,
        columns: Sequence[Sequence[Column]] | None = None,
        alignments: Sequence[Alignment] | None = None,
        path: PatchPath = "auto",
        batch_size: int | Literal["auto"] = "auto",
        memory: int = WORKING_MEMORY,
    ) -> Prepared:
        """Check the pairs and divide them into batches; nothing is run yet.

        Args:
            base: the inputs whose forward pass is patched: token id rows as :meth:`TextTower.rows` gives them, images.
            donor: the inputs whose activations are put in.
            sweep: the site, and how many layers are replaced together; by default the residual stream, layer by layer.
            columns: for each pair, which positions (and which head) are replaced together; by default each position.
            alignments: which donor position belongs to which base position; by default the same one, and then both rows
                must be as long as each other. A column whose positions have no counterpart is NaN.
            path: "auto" (default) resumes where the tower allows it; "resume"; "generic".
            batch_size: pairs a batch; "auto" keeps the rows of one matrix product near the machine's best.
            memory: bytes that the activations of one batch may take (estimated; beside weights and results); batches
                of "auto" get smaller for it, resumed passes always.

        Raises:
            LengthMismatchError: a pair's rows have different lengths or are read out at different positions.
            SiteError: the tower does not have this site, position or head, or cannot resume.
        """
        sweep = sweep or Sweep()
        resolved = self._path(sweep, path)
        columns = columns or each_position([self.tower.shape_of(item)[0] for item in base])
        keys = shape_keys(self.tower, base, donor, columns, alignments, sweep.site)
        limits = RowLimits.within(self.tower, sweep, memory)
        units = divide(keys, batch_size, limits.clean)
        return Prepared(base, donor, columns, alignments, sweep, resolved, limits, keys, units)

    def stream(self, prepared: Prepared, *, checks: int = 2, seed: int = 0) -> Iterator[PatchedBatch]:
        """The results batch by batch, so that memory is bounded whatever the number of pairs; see :meth:`run`.

        >>> import tracescribe as ts
        >>> text = ts.load("phantom").text
        >>> base, donor = text.rows(["no edema", "no opacity"]), text.rows(["mild edema", "mild opacity"])
        >>> engine = PatchingEngine(text)
        >>> [batch.members for batch in engine.stream(engine.prepare(base, donor, batch_size=1))]
        [[0], [1]]
        """
        for number, unit in enumerate(prepared.units):
            yield self.run(prepared, unit, checks=checks, seed=seed + number)

    def run(self, prepared: Prepared, unit: Sequence[int], *, checks: int = 2, seed: int = 0) -> PatchedBatch:
        """Patch the pairs of one unit.

        Args:
            checks: with "resume", this many cells of the batch, chosen by ``seed``, are run again by the generic path
                and must agree.

        Raises:
            PatchDidNotFireError: a hook point did not hold the donor's activation.
            TowerMismatchError: a checked cell disagrees with the generic path.
            NonFiniteError: an embedding is NaN or infinite.
        """
        sweep = prepared.sweep
        self._spell_out(sweep)
        with torch.no_grad(), full_float32():
            if prepared.path == "resume":
                groups, unpatched = begin(self.tower, prepared, unit)
                found = self._resume_all(groups, unpatched, sweep, prepared.limits.lanes)
                self._check(groups, found, sweep, checks, np.random.default_rng(seed))
            else:
                groups = run_whole(self.tower, prepared, unit)
                found = [self._cells(group, sweep, prepared.limits.lanes) for group in groups]
        pairs = zip(groups, found, strict=True)
        if not all(bool((torch.isfinite(cells) | ~group.possible[:, None, :, None]).all()) for group, cells in pairs):
            raise NonFiniteError("a patched text embedding is NaN or infinite: check the text tower's weights")
        widest = max(cells.shape[2] for cells in found)
        padded = [nn.functional.pad(c, (0, 0, 0, widest - c.shape[2]), value=torch.nan) for c in found]
        return PatchedBatch(
            members=[member for group in groups for member in group.members],
            base=torch.cat([normalise(group.base.embedding) for group in groups]),
            donor=torch.cat([normalise(group.donor_embedding) for group in groups]),
            patched=torch.cat(padded),
            path=prepared.path,
        )

    def _path(self, sweep: Sweep, path: PatchPath) -> Literal["resume", "generic"]:
        site = sweep.site
        if site.name not in ("resid", "resid_pre", "resid_post") and self.tower.opaque:
            raise SiteError(
                f"site {site.name!r} lies inside blocks, and this tower's blocks ({type(self.tower.blocks[0]).__name__}"
                f") are run as a whole: patch the residual stream, site='resid'"
            )
        resumable = self.tower.resumable and site.name != "pattern"
        if path == "resume" and not resumable:
            raise SiteError(
                f"path='resume' needs a tower whose blocks are taken apart and that reads only its last layer, and any "
                f"site but 'pattern' (here: site {site.name!r}, readout of layers {self.tower.readout_layers}): use "
                f"path='auto'"
            )
        return "resume" if resumable and path != "generic" else "generic"

    def _spell_out(self, sweep: Sweep) -> None:
        """Compute attention patterns as tensors where they are the site; torch's fused kernel has none."""
        for block in self.tower.blocks:
            if isinstance(block, Block):
                block.attn.explicit = sweep.site.name == "pattern"

    # the two paths --------------------------------------------------------------------------------------------------

    def _cells(self, group: Group, sweep: Sweep, most_rows: int) -> Float[Tensor, "batch layer column embed"]:
        """Every cell of a group by whole passes."""
        return self._by_layer(group, sweep, most_rows, self._whole)

    def _by_layer(
        self, group: Group, sweep: Sweep, most_rows: int, run: Callable[[Group, Sweep, int, Cells], Tensor]
    ) -> Float[Tensor, "batch layer column embed"]:
        """The cells of each layer in passes of at most ``most_rows`` rows."""
        cells = [(pair, column) for pair in range(len(group.members)) for column in range(len(group.columns[0]))]
        size = max(1, most_rows // group.length)
        layers = []
        for at in range(sweep.site.n_layers(self.tower.n_layers)):
            parts = [run(group, sweep, at, cells[first : first + size]) for first in range(0, len(cells), size)]
            layers.append(normalise(torch.cat(parts)).unflatten(0, (len(group.members), -1)))
        return group.blank(torch.stack(layers, dim=1))

    def _resume_all(
        self, groups: Sequence[Group], unpatched: Unpatched, sweep: Sweep, most_rows: int
    ) -> list[Float[Tensor, "batch layer column embed"]]:
        """Every cell of every group, in passes of about ``most_rows`` rows; the first runs what is unpatched."""
        jobs, whole = divide_lanes(self.tower, sweep, groups, most_rows)
        passes = evenly(jobs, unpatched.n_rows, most_rows)
        results = [self._resume(part, unpatched, sweep, part is not passes[-1]) for part in passes]
        found = [group.known_cells(self.tower, sweep) for group in groups]
        embeddings = normalise(torch.cat(results)).split([len(job.lanes.texts) for job in jobs])
        for job, own in zip(jobs, embeddings, strict=True):
            found[job.group][job.cells.unbind(dim=1)] = own
        for number, (pair, layer, column) in whole:
            own = normalise(self._whole(groups[number], sweep, layer, [(pair, column)]))
            found[number][pair, layer, column] = own[0]
        return found

    def _resume(
        self, jobs: Sequence[Job], unpatched: Unpatched, sweep: Sweep, keep: bool
    ) -> Float[Tensor, "lane embed"]:
        """One pass over many lanes, and over what is unpatched if that has not been run yet."""
        import nnsight

        site, lanes = sweep.site, [job.lanes for job in jobs]
        tower = self.tower
        pass_ = Pass(unpatched, lanes, site=site, n_blocks=tower.n_layers, reads_one=tower.spec.reads_one, keep=keep)
        first = pass_.n_unpatched > 0
        record = first and site.residual is None
        blocks = [block for block, layout in enumerate(pass_.layouts) if record or len(layout.patched[0][0])]
        proofs: list[tuple[int, Tensor, Tensor]] = []
        with self._model.trace(pass_, fn="resume") as tracer:
            for block in blocks:
                point = _point(self._model.blocks[block], site.hook)
                states = point.output if first else state_at(unpatched, block, site.hook)
                if record:
                    unpatched.site.append(states[: pass_.n_unpatched].clone())
                here, there = pass_.layouts[block].patched
                wanted = states[there]
                point.output[here] = wanted
                proofs.append((block, point.output[here], wanted))
            result = nnsight.save(tracer.result)
        for block, state, wanted in proofs:
            where = ", ".join(sorted({str(position) for group in lanes for position in group.positions}))
            self._prove(state, wanted, f"block {block} ({site.hook}), positions {where}")
        return result

    def _whole(self, group: Group, sweep: Sweep, at: int, cells: Cells) -> Float[Tensor, "cell embed"]:
        """Patch cells of one layer in a whole forward pass that skips the blocks before it."""
        import nnsight

        n_blocks = self.tower.n_layers
        events = sweep.events(at, n_blocks)
        index = group.index(cells, sweep.site)
        chosen = torch.tensor([pair for pair, _ in cells], device=group.inputs.device)
        first = events[0][0]
        last_state = events[0][1] == "hook_resid_post" and sweep.site.hook == "hook_resid_pre"  # all blocks are skipped
        wanted = [state_at(group.donor, block, hook)[(chosen[index[0]], *index[1:])] for block, hook in events]
        before = [group.base.resid[block + 1][chosen] for block in range(n_blocks if last_state else first)]
        if last_state:
            before[-1][index] = wanted[0]
        held: list[Tensor] = []
        with self._model.trace(group.inputs[chosen]) as tracer:
            for block, state in enumerate(before):
                self._model.blocks[block].skip(state)
            if last_state:
                held.append(nnsight.save(self._model.blocks[n_blocks - 1].output[index]))
            else:
                for (block, hook), state in zip(events, wanted, strict=True):
                    point = _point(self._model.blocks[block], hook)
                    point.output[index] = state
                    held.append(nnsight.save(point.output[index]))
            result = nnsight.save(tracer.result)
        for (block, hook), state, donors in zip(events, held, wanted, strict=True):
            positions = sorted({p for pair, column in cells for p in group.columns[pair][column].positions})
            self._prove(state, donors, f"block {block} ({hook}), positions {positions}")
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
        """Run a few cells again by the generic path, filled-in cells and resumed ones alike; two of a layer a pass."""
        tolerance = TOLERANCE[self.tower.dtype]
        for left in range(checks, 0, -2):
            number = int(rng.integers(len(groups)))
            group, own = groups[number], found[number]
            n_pairs, n_layers, n_columns, _ = own.shape
            layer = int(rng.integers(n_layers))
            cells = [(int(rng.integers(n_pairs)), int(rng.integers(n_columns))) for _ in range(min(left, 2))]
            cells = [cell for cell in cells if group.possible[cell]]
            if not cells:
                continue
            again = normalise(self._whole(group, sweep, layer, cells))
            for (pair, column), embedding in zip(cells, again, strict=True):
                worst = float((embedding - own[pair, layer, column]).abs().max())
                if not worst <= tolerance:
                    raise TowerMismatchError(
                        f"self-check failed at layer {layer + sweep.site.first_layer}, positions "
                        f"{group.columns[pair][column].positions}: the resumed pass and the whole pass differ by "
                        f"{worst:.1e} (allowed {tolerance:.0e}); no result is returned"
                    )


def _point(block: Any, hook: str) -> Any:
    """nnsight's view of a hook point inside a block."""
    for name in hook.split("."):
        block = getattr(block, name)
    return block

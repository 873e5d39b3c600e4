"""The patching engine: every cell of a sweep over layers and positions, exactly, with nnsight doing each replacement.

Two paths give the same numbers. *Generic* (:mod:`.generic`) runs every cell through the tower, skipping only the blocks
before the patch. *Resume* (:mod:`.resumed`) exploits what a patch cannot change: in a causal tower a patch at (l, p)
leaves every position before p and every layer up to l as they were, so one pass down the blocks from position p serves
all layers of that position; cells that are the base or the donor run by construction are filled in. Towers whose blocks
are not taken apart, or that read out several layers, have only the generic path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...cards import short_repr
from ...errors import NonFiniteError, SiteError, TowerMismatchError
from ..resume.clean_cache import CleanCache
from ..sites import EDGES, Column, Sweep, each_position
from ..torch_state import neutral_state
from ..towers.block import Block
from ..towers.spec import TOLERANCE
from ..towers.tower import Tower, normalise
from .alignment import Alignment
from .batching import WORKING_MEMORY, Prepared, clean_rows, divide, patched_rows, shape_keys
from .buckets import Bucket, Cells, cached_buckets, clean_buckets
from .generic import by_layer, run_cells
from .given import GivenStates
from .resumed import Watch, run_resumed

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

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class PatchedBatch(PatchedEmbeddings):
    """The embeddings of one shard: row i is pair ``members[i]`` of the call; as many columns as its pairs have."""

    members: list[int]


class PatchingEngine:
    """Replaces activations of base inputs by those of donor inputs, at every layer and position.

    The engine wraps a twin of the tower (the same parameters, other hook points), so the tower it is given is not
    changed. Passes run under :func:`.torch_state.neutral_state`, whatever the caller's settings of torch. Use one
    engine per thread.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> result = PatchingEngine(text).patch([base], [donor])
    >>> list(result.patched.shape)  # 1 pair, layers 0..8, [SOT] there is no|severe op acity . [EOT], 64 dimensions
    [1, 9, 8, 64]
    """

    def __init__(self, tower: Tower, *, dtype: torch.dtype | None = None) -> None:
        from nnsight import NNsight

        with neutral_state():
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
        sweep: Sweep | None = None,
        columns: Sequence[Sequence[Column]] | None = None,
        alignments: Sequence[Alignment] | None = None,
        path: PatchPath = "auto",
        batch_size: int | Literal["auto"] = "auto",
        memory: int = WORKING_MEMORY,
        given: GivenStates | None = None,
        directions: Float[Tensor, "direction d"] | None = None,
    ) -> PatchedEmbeddings:
        """Patch every pair of inputs and keep all results.

        Args:
            base, donor, sweep, columns, alignments, path, batch_size, memory, given, directions: see :meth:`prepare`,
                also for what is raised.
            checks, seed: see :meth:`run`.
            progress: called with the number of finished pairs after each shard.
        """
        prepared = self.prepare(
            base,
            donor,
            sweep=sweep,
            columns=columns,
            alignments=alignments,
            path=path,
            batch_size=batch_size,
            memory=memory,
            given=given,
            directions=directions,
        )
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
        given: GivenStates | None = None,
        directions: Float[Tensor, "direction d"] | None = None,
    ) -> Prepared:
        """Check the pairs and divide them into shards; nothing is run yet.

        Args:
            base: the inputs whose forward pass is patched: token id rows as :meth:`TextTower.rows` gives them, images.
            donor: the inputs whose activations are put in.
            sweep: the site, and how many layers are replaced together; by default the residual stream, layer by layer.
            columns: for each pair, which positions (and which head) are replaced together; by default each position.
            alignments: which donor position belongs to which base position; by default the same one, and then both
                texts must have equally many tokens. A column whose positions have no counterpart is NaN.
            path: "auto" (default) resumes where the tower allows it; "resume"; "generic".
            batch_size: pairs per shard; "auto" keeps the rows of one matrix product near the machine's best.
            memory: bytes that the activations of one shard may take (estimated; beside weights and results). It limits
                the size of shards with "auto", and that of passes always.
            given: states that go in instead of the donor's, which is then run for its embedding only, and may be of any
                length.
            directions: of the state, of which only the component in their span is replaced: h + (h' - h) P with the
                orthogonal projection P onto them; at sites without heads, in single layers.

        Raises:
            LengthMismatchError: a pair's rows have different lengths or are read out at different positions.
            SiteError: the tower does not have this site, position or head, or cannot resume.
        """
        sweep = sweep or Sweep()
        resolved = self._path(sweep, path)
        with neutral_state():
            columns = columns or each_position([self.tower.shape_of(item)[0] for item in base])
            keys = shape_keys(self.tower, base, donor, columns, alignments, sweep.site, given=given is not None)
        if given is not None and alignments is not None:
            raise SiteError("given states belong to no text, so that there is nothing to align")
        shards = divide(keys, batch_size, clean_rows(self.tower, sweep, memory))
        return Prepared(
            base,
            donor,
            columns,
            alignments,
            sweep,
            resolved,
            memory,
            keys,
            shards,
            given,
            self._projection(sweep, directions),
        )

    def _projection(self, sweep: Sweep, directions: Float[Tensor, "direction d"] | None) -> Float[Tensor, "d d"] | None:
        """The orthogonal projection onto the span of directions, computed in float64."""
        if directions is None:
            return None
        d = self.tower.d_model
        if sweep.site.parts is not None or sweep.window > 1:
            raise SiteError(
                f"directions are replaced at sites without heads or neurons and in single layers, not at site "
                f"{sweep.site.name!r} with window={sweep.window}"
            )
        if directions.ndim != 2 or directions.shape[1] != d or not len(directions):
            raise SiteError(f"directions have shape {list(directions.shape)}, but this tower's states [direction, {d}]")
        basis = directions.double().cpu()
        if not torch.isfinite(basis).all() or (basis.norm(dim=1) == 0).any():
            raise SiteError("a direction holds NaN, infinity or only zeros")
        with neutral_state():
            _, singular, rows = torch.linalg.svd(basis / basis.norm(dim=1, keepdim=True), full_matrices=False)
            span = rows[singular > 1e-10 * singular[0]]
            return (span.T @ span).to(self.tower.dtype).to(self.tower.device)

    def encode(self, items: Sequence[Any]) -> Float[Tensor, "item embed"]:
        """L2-normalised embeddings without a patch, in the precision of the patched ones."""
        rows: dict[Any, list[int]] = {}
        for i, item in enumerate(items):
            rows.setdefault(self.tower.shape_of(item), []).append(i)
        found: dict[int, Tensor] = {}
        with neutral_state(self.tower):
            for members in rows.values():
                for at in range(0, len(members), 64):
                    some = members[at : at + 64]
                    embeddings = normalise(self.tower(self.tower.collate([items[i] for i in some])))
                    found |= dict(zip(some, embeddings, strict=True))
        return torch.stack([found[i] for i in range(len(items))])

    def stream(self, prepared: Prepared, *, checks: int = 2, seed: int = 0) -> Iterator[PatchedBatch]:
        """The results shard by shard, so that memory is bounded whatever the number of pairs; see :meth:`run`.

        >>> import tracescribe as ts
        >>> text = ts.load("phantom").text
        >>> base, donor = text.rows(["no edema", "no opacity"]), text.rows(["mild edema", "mild opacity"])
        >>> engine = PatchingEngine(text)
        >>> [batch.members for batch in engine.stream(engine.prepare(base, donor, batch_size=1))]
        [[0], [1]]
        """
        for number, shard in enumerate(prepared.shards):
            yield self.run(prepared, shard, checks=checks, seed=seed + number)

    def run(
        self,
        prepared: Prepared,
        shard: Sequence[int],
        *,
        checks: int = 2,
        seed: int = 0,
        watch: Watch | None = None,
    ) -> PatchedBatch:
        """Patch the pairs of one shard.

        Args:
            checks: with "resume", this many cells of the shard, chosen by ``seed``, are run again by the generic path
                and must agree.
            watch: called with the numbers of pairs and their cells [pair, layer, column, embed] after each part of the
                run; layers that are not finished are NaN. What it raises ends the run. The map is then run in groups of
                layers instead of all at once, which may change the last bits of its numbers.

        Raises:
            PatchDidNotFireError: a hook point did not hold the donor's activation.
            TowerMismatchError: a checked cell disagrees with the generic path.
            NonFiniteError: an embedding is NaN or infinite.
            TorchStateError: see :func:`.torch_state.neutral_state`.
        """
        with neutral_state(self.tower):
            return self._run(prepared, shard, checks, np.random.default_rng(seed), watch)

    def _run(
        self, prepared: Prepared, shard: Sequence[int], checks: int, rng: np.random.Generator, watch: Watch | None
    ) -> PatchedBatch:
        sweep = prepared.sweep
        self._spell_out(sweep)
        longest = max(prepared.keys[i][0] for i in shard)
        most_rows = patched_rows(self.tower, longest, prepared.memory)
        if prepared.path == "resume":
            buckets, cache = cached_buckets(self.tower, prepared, shard)
            found = self._resumed(buckets, cache, sweep, most_rows, watch)
            self._check(buckets, found, sweep, checks, rng)
        else:
            buckets = clean_buckets(self.tower, prepared, shard)
            found = [self._cells(bucket, sweep, most_rows, watch) for bucket in buckets]
        for bucket, cells in zip(buckets, found, strict=True):
            if not bool((torch.isfinite(cells) | ~bucket.possible[:, None, :, None]).all()):
                raise NonFiniteError("a patched text embedding is NaN or infinite: check the text tower's weights")
        widest = max(cells.shape[2] for cells in found)
        padded = [nn.functional.pad(cells, (0, 0, 0, widest - cells.shape[2]), value=torch.nan) for cells in found]
        return PatchedBatch(
            members=[member for bucket in buckets for member in bucket.members],
            base=torch.cat([normalise(bucket.base.embedding) for bucket in buckets]),
            donor=torch.cat([normalise(bucket.donor_embedding) for bucket in buckets]),
            patched=torch.cat(padded),
            path=prepared.path,
        )

    def _path(self, sweep: Sweep, path: PatchPath) -> Literal["resume", "generic"]:
        if sweep.site is EDGES:
            raise SiteError("attention edges are cut, not replaced: use replace='cut', or a KnockOutEngine")
        return self._resolved(sweep, path)

    def _resolved(self, sweep: Sweep, path: PatchPath) -> Literal["resume", "generic"]:
        """The path that the tower and the site allow."""
        site = sweep.site
        if site.name not in ("resid", "resid_pre", "resid_post") and self.tower.opaque:
            raise SiteError(
                f"site {site.name!r} lies inside blocks, and this tower's blocks ({type(self.tower.blocks[0]).__name__}"
                f") are not taken apart: patch the residual stream, site='resid'"
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

    def _resumed(
        self,
        buckets: Sequence[Bucket],
        cache: CleanCache,
        sweep: Sweep,
        most_rows: int,
        watch: Watch | None = None,
    ) -> list[Float[Tensor, "batch layer column embed"]]:
        """Every cell of every bucket by the fast path; the first pass fills the cache."""
        return run_resumed(self._model, self.tower, buckets, cache, sweep, most_rows, watch)

    def _again(self, bucket: Bucket, sweep: Sweep, at: int, cells: Cells) -> Float[Tensor, "cell embed"]:
        """Some cells of one layer by the generic path, not normalised."""
        return run_cells(self._model, self.tower, bucket, sweep, at, cells)

    def _cells(
        self, bucket: Bucket, sweep: Sweep, most_rows: int, watch: Watch | None = None
    ) -> Float[Tensor, "batch layer column embed"]:
        """Every cell of a bucket by the generic path."""
        return by_layer(self.tower, bucket, sweep, most_rows, self._again, watch)

    def _check(
        self, buckets: Sequence[Bucket], found: Sequence[Tensor], sweep: Sweep, checks: int, rng: np.random.Generator
    ) -> None:
        """Run a few cells again by the generic path, known cells and resumed ones alike; two of a layer per pass."""
        tolerance = TOLERANCE[self.tower.dtype]
        for left in range(checks, 0, -2):
            number = int(rng.integers(len(buckets)))
            bucket, resumed = buckets[number], found[number]
            n_pairs, n_layers, n_columns, _ = resumed.shape
            layer = int(rng.integers(n_layers))
            cells = [(int(rng.integers(n_pairs)), int(rng.integers(n_columns))) for _ in range(min(left, 2))]
            cells = [cell for cell in cells if bucket.possible[cell]]
            if not cells:
                continue
            again = normalise(self._again(bucket, sweep, layer, cells))
            for (pair, column), embedding in zip(cells, again, strict=True):
                worst = float((embedding - resumed[pair, layer, column]).abs().max())
                if not worst <= tolerance:
                    raise TowerMismatchError(
                        f"self-check failed at layer {layer + sweep.site.first_layer}, positions "
                        f"{bucket.columns[pair][column].positions}: the resumed pass and the full pass differ by "
                        f"{worst:.1e} (allowed {tolerance:.0e}); no result is returned"
                    )

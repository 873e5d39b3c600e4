"""Joint patches: sets of a sweep's cells that are replaced together in one run, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...cards import short_repr
from ...errors import NonFiniteError, SiteError, TowerMismatchError
from ..resume.clean_cache import CachedRun, CleanCache, state_at
from ..resume.known_cells import BASE, DONOR, known_cells
from ..resume.patched_sequences import JointPatches, Patches
from ..sites import Sweep
from ..torch_state import neutral_state
from ..towers.spec import TOLERANCE
from ..towers.tower import Tower, normalise
from .batching import Prepared, patched_rows
from .buckets import Bucket, cached_buckets, clean_buckets
from .engine import PatchingEngine
from .replacement import hook_point, prove
from .resumed import run_passes

Sets = Bool[np.ndarray, "set layer column"]


@dataclass(frozen=True, eq=False)
class JointEmbeddings:
    """L2-normalised embeddings of one pair: of both clean runs, and with each set of cells replaced."""

    base: Float[Tensor, " embed"]
    donor: Float[Tensor, " embed"]
    patched: Float[Tensor, "set embed"]

    __repr__ = short_repr


class JointEngine(PatchingEngine):
    """Replaces many cells of a sweep together, a set of them in each run.

    Runs of many sets and pairs share a pass, as single patches do. What cannot change a result is not run: cells that
    are the base run's anyway are dropped, sets that then are equal run once, and a set that covers all states of a
    layer that differ and can be read is the donor run.

    >>> import numpy as np, tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> engine = JointEngine(text)
    >>> prepared = engine.prepare([base], [donor])
    >>> sets = np.zeros((2, 9, 8), dtype=bool)  # of layers 0..8 and tokens
    >>> sets[1, 4, 3:] = True  # the second: all of layer 4 from the first difference on
    >>> [found] = engine.patch_sets(prepared, {0: sets}).values()
    >>> bool((found.patched[0] == found.base).all()), bool((found.patched[1] == found.donor).all())
    (True, True)
    """

    def patch_sets(
        self,
        prepared: Prepared,
        sets: Mapping[int, Sets],
        *,
        checks: int = 2,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> dict[int, JointEmbeddings]:
        """Embeddings of the given pairs under the given sets of their cells.

        Args:
            sets: by number of the pair: which cells (index of the layer axis, column) each set holds.
            checks: with "resume", this many sets of a shard, chosen by ``seed``, are run again by the generic path and
                must agree.
            progress: called with the number of finished pairs after each shard.

        Raises:
            SiteError: windows of several layers.
            PatchDidNotFireError, TowerMismatchError, NonFiniteError, TorchStateError: see :meth:`PatchingEngine.run`.
        """
        if prepared.sweep.window > 1:
            raise SiteError(f"cells of window={prepared.sweep.window} overlap: patch sets of single layers, window=1")
        if prepared.projection is not None:
            raise SiteError("sets of cells are patched with complete states, not with directions of them")
        found: dict[int, JointEmbeddings] = {}
        for number, shard in enumerate(prepared.shards):
            chosen = [i for i in shard if i in sets]
            if chosen:
                with neutral_state(self.tower):
                    found |= self._shard(prepared, chosen, sets, checks, np.random.default_rng([seed, number]))
                if progress:
                    progress(len(found))
        return found

    def _shard(
        self,
        prepared: Prepared,
        shard: Sequence[int],
        sets: Mapping[int, Sets],
        checks: int,
        rng: np.random.Generator,
    ) -> dict[int, JointEmbeddings]:
        sweep, tower = prepared.sweep, self.tower
        self._spell_out(sweep)
        most_rows = patched_rows(tower, max(prepared.keys[i][0] for i in shard), prepared.memory)
        if prepared.path == "resume":
            buckets, cache = cached_buckets(tower, prepared, shard)
        else:
            buckets, cache = clean_buckets(tower, prepared, shard), None
        jobs = [_Distinct.of(tower, sweep, bucket, [sets[i] for i in bucket.members]) for bucket in buckets]
        results = (
            [_generic(self._model, tower, sweep, one, most_rows) for one in jobs]
            if cache is None
            else _resumed(self._model, tower, sweep, jobs, cache, most_rows)
        )
        if cache is not None:
            self._check_sets(sweep, jobs, results, checks, rng)
        found: dict[int, JointEmbeddings] = {}
        for bucket, one, patched in zip(buckets, jobs, results, strict=True):
            if not torch.isfinite(patched).all():
                raise NonFiniteError("a patched text embedding is NaN or infinite: check the text tower's weights")
            base, donor = normalise(bucket.base.embedding), normalise(bucket.donor_embedding)
            read = normalise(bucket.donor.embedding) if not bucket.given else donor  # of a moved donor, its own
            for at, member in enumerate(bucket.members):
                table = torch.cat([patched, base[at : at + 1], read[at : at + 1]])
                rows = torch.from_numpy(one.place[at]).to(table.device)
                found[member] = JointEmbeddings(base[at], donor[at], table[rows])
        return found

    def _check_sets(
        self,
        sweep: Sweep,
        jobs: Sequence[_Distinct],
        results: Sequence[Tensor],
        checks: int,
        rng: np.random.Generator,
    ) -> None:
        """Run a few sets again by the generic path."""
        places = [(number, at) for number, one in enumerate(jobs) for at in range(len(one.pair))]
        for pick in rng.permutation(len(places))[:checks].tolist():
            number, at = places[pick]
            again = _generic(self._model, self.tower, sweep, jobs[number].only(at), 1)[0]
            worst = float((again - results[number][at]).abs().max())
            if not worst <= TOLERANCE[self.tower.dtype]:
                raise TowerMismatchError(
                    f"self-check failed for {int(jobs[number].sets[at].sum())} cells patched together: the resumed "
                    f"pass and the full pass differ by {worst:.1e} (allowed {TOLERANCE[self.tower.dtype]:.0e}); no "
                    f"result is returned"
                )


@dataclass(frozen=True, eq=False)
class _Distinct:
    """The sets of a bucket that have to be run, each once.

    sets: without the cells that change nothing. pair: in the bucket. place: by pair, for each set that was asked for
    its number among ``sets``; -2 where it is the base run and -1 where it is the donor's.
    """

    bucket: Bucket
    pair: list[int]
    sets: list[Bool[np.ndarray, "layer column"]]
    place: list[Int[np.ndarray, " set"]]

    @classmethod
    def of(cls, tower: Tower, sweep: Sweep, bucket: Bucket, asked: Sequence[Sets]) -> _Distinct:
        known = bucket.known(tower, sweep)
        found = cls(bucket, [], [], [])
        for at, sets in enumerate(asked):
            if sets.shape[1:] != known.shape[1:]:
                raise SiteError(f"a set of cells has shape {sets.shape[1:]}, but the map's is {known.shape[1:]}")
            needed = sets & (known[at] != BASE)
            if bucket.sources is not None:
                needed &= bucket.possible[at].cpu().numpy()
            covered = _as_donor(tower, sweep, bucket, at, needed)
            seen: dict[bytes, int] = {}
            places = np.empty(len(sets), dtype=np.int64)
            for number, one in enumerate(needed):
                if covered[number] or not one.any():
                    places[number] = -1 if covered[number] else -2
                    continue
                new = len(found.sets)
                places[number] = seen.setdefault(one.tobytes(), new)
                if places[number] == new:
                    found.sets.append(one)
                    found.pair.append(at)
            found.place.append(places)
        return found

    def only(self, number: int) -> _Distinct:
        """One of the sets."""
        return _Distinct(self.bucket, [self.pair[number]], [self.sets[number]], [])

    def patches(self, sweep: Sweep, n_blocks: int, numbers: Sequence[int]) -> dict[tuple[int, str], Patches]:
        """What the sets with these numbers replace, by block and hook point; their order counts the sequences."""
        chosen: dict[tuple[int, str], list[tuple[int, int, int]]] = {}
        for row, number in enumerate(numbers):
            columns = self.bucket.columns[self.pair[number]]
            for layer, column in np.argwhere(self.sets[number]).tolist():
                [event] = sweep.events(layer, n_blocks)
                head = columns[column].head
                entries = [(row, position, -1 if head is None else head) for position in columns[column].positions]
                chosen.setdefault(event, []).extend(entries)
        patches = {}
        for event, entries in chosen.items():
            # two columns may share a position
            table = np.unique(np.array(entries, dtype=np.int64).reshape(-1, 3), axis=0)
            head_of = None if (table[:, 2] < 0).all() else table[:, 2]
            patches[event] = Patches(table[:, 0], table[:, 1], head_of)
        return patches


def _as_donor(
    tower: Tower, sweep: Sweep, bucket: Bucket, at: int, sets: Bool[np.ndarray, "set layer column"]
) -> Bool[np.ndarray, " set"]:
    """Which sets give the donor run: those that do so in one of their layers alone."""
    if sweep.site.residual is None:
        return np.zeros(len(sets), dtype=bool)
    columns = bucket.columns[at]
    holds = np.zeros((len(columns), bucket.length), dtype=bool)
    for number, column in enumerate(columns):
        holds[number, list(column.positions)] = True
    member = np.einsum("slc,cp->slp", sets, holds)
    base, donor, sources = bucket.of_pair(at)
    flat = torch.from_numpy(member.reshape(1, -1, bucket.length)).to(bucket.inputs.device)
    known = known_cells(tower, sweep, base, donor, flat, sources, given=bucket.given).cpu().numpy()
    n_layers = sets.shape[1]
    of_layer = known[0].reshape(n_layers, len(sets), n_layers)
    return (of_layer[np.arange(n_layers), :, np.arange(n_layers)] == DONOR).any(axis=0)


def _resumed(
    model: Any, tower: Tower, sweep: Sweep, jobs: Sequence[_Distinct], cache: CleanCache, most_rows: int
) -> list[Float[Tensor, "set embed"]]:
    """The sets of all buckets as sequences that resume from the clean cache."""
    parts: list[JointPatches] = []
    origin: list[tuple[int, list[int]]] = []
    left: list[list[int]] = []
    for which, one in enumerate(jobs):
        unfit = [number for number in range(len(one.sets)) if _reads_last_state(tower, sweep, one, number)]
        left.append(unfit)
        alike: dict[int, list[int]] = {}
        for number in sorted(set(range(len(one.sets))) - set(unfit)):
            alike.setdefault(_start(tower, one, number), []).append(number)
        for start, numbers in alike.items():
            size = max(1, most_rows // (one.bucket.length - start))
            ordered = sorted(numbers, key=lambda number: (_first(sweep, tower, one, number), number))
            for begin in range(0, len(ordered), size):
                chosen = ordered[begin : begin + size]
                parts.append(_sequences(tower, sweep, one, start, chosen))
                origin.append((which, chosen))
    found = run_passes(model, tower, parts, cache, sweep.site, most_rows)
    embed = cache.embedding.shape[-1] if cache.embedding is not None else 0
    results = [
        torch.empty(len(one.sets), embed, device=cache.resid[0].device, dtype=normalise(cache.resid[0][:1]).dtype)
        for one in jobs
    ]
    for (which, numbers), embeddings in zip(origin, found, strict=True):
        results[which][numbers] = embeddings
    for one, numbers, result in zip(jobs, left, results, strict=True):
        if numbers:
            part = _Distinct(one.bucket, [one.pair[n] for n in numbers], [one.sets[n] for n in numbers], [])
            result[numbers] = _generic(model, tower, sweep, part, most_rows)
    return results


def _sequences(tower: Tower, sweep: Sweep, one: _Distinct, start: int, numbers: list[int]) -> JointPatches:
    base, donor = one.bucket.base, one.bucket.donor
    assert isinstance(base, CachedRun) and isinstance(donor, CachedRun)
    by_block = one.patches(sweep, tower.n_layers, numbers)
    return JointPatches(
        clean=base,
        donor=donor,
        before=base,
        start=start,
        texts=[one.pair[number] for number in numbers],
        first=[_first(sweep, tower, one, number) for number in numbers],
        by_block={block: patches for (block, hook), patches in by_block.items() if hook == sweep.site.hook},
    )


def _first(sweep: Sweep, tower: Tower, one: _Distinct, number: int) -> int:
    """The first block in which a set is patched."""
    layer = int(np.flatnonzero(one.sets[number].any(axis=1))[0])
    return sweep.events(layer, tower.n_layers)[0][0]


def _start(tower: Tower, one: _Distinct, number: int) -> int:
    """The first position that a set can change."""
    if not tower.causal:
        return 0
    columns = one.bucket.columns[one.pair[number]]
    return min(min(columns[column].positions) for column in np.flatnonzero(one.sets[number].any(axis=0)).tolist())


def _reads_last_state(tower: Tower, sweep: Sweep, one: _Distinct, number: int) -> bool:
    """Whether a set replaces the state after the last block, which no block of a resumed pass takes."""
    last = sweep.site.n_layers(tower.n_layers) - 1
    ends_behind = sweep.site.first_layer == 0 and sweep.site.residual is not None
    return ends_behind and bool(one.sets[number][last].any())


def _generic(model: Any, tower: Tower, sweep: Sweep, one: _Distinct, most_rows: int) -> Float[Tensor, "set embed"]:
    """The sets of a bucket by full passes, in which nnsight replaces every state."""
    import nnsight

    bucket, results = one.bucket, []
    size = max(1, most_rows // bucket.length)
    for at in range(0, len(one.sets), size):
        numbers = list(range(at, min(at + size, len(one.sets))))
        pairs = torch.tensor([one.pair[number] for number in numbers], device=bucket.inputs.device)
        plan = []
        patches = one.patches(sweep, tower.n_layers, numbers)
        for (block, hook), some in sorted(
            patches.items(), key=lambda item: (item[0][0], item[0][1] != sweep.site.hook)
        ):
            index = _index(some, sweep, bucket.inputs.device)
            wanted = state_at(bucket.donor, block, hook)[(pairs[index[0]], *index[1:])]
            plan.append((block, hook, index, wanted))
        held = []
        with model.trace(bucket.inputs[pairs]) as tracer:
            for block, hook, index, wanted in plan:
                point = hook_point(model.blocks[block], hook)
                point.output[index] = wanted
                held.append(nnsight.save(point.output[index]))
            result = nnsight.save(tracer.result)
        for (block, hook, _, wanted), state in zip(plan, held, strict=True):
            prove(state, wanted, f"block {block} ({hook}), {len(wanted)} states of sets of cells")
        results.append(normalise(result))
    if not results:
        return normalise(bucket.base.embedding)[:0]
    return torch.cat(results)


def _index(patches: Patches, sweep: Sweep, device: torch.device) -> tuple[Any, ...]:
    """Index of the replaced entries in an activation whose rows are sequences: (row, position[, head])."""
    row, position = (torch.from_numpy(side).to(device) for side in (patches.sequence, patches.position))
    head: Any = slice(None) if patches.head is None else torch.from_numpy(patches.head).to(device)
    if sweep.site.name == "pattern":  # [row, head, query, key]
        return row, head, position
    return (row, position, head) if sweep.site.parts is not None else (row, position)

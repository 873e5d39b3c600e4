"""The fast path: cells as patched sequences that resume from the clean cache, many in one pass (:mod:`..resume`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..resume.clean_cache import CachedRun, CleanCache, state_at
from ..resume.known_cells import BASE
from ..resume.patched_sequences import PatchedSequences
from ..resume.resumed_pass import ResumedPass, resume
from ..resume.schedule import Cell, Schedule, divide_into_passes, schedule
from ..sites import Site, Sweep
from ..towers.tower import Tower, normalise
from .buckets import Bucket
from .generic import run_cells
from .replacement import hook_point, prove

# called with the numbers of pairs and their cells [pair, layer, column, embed], NaN in layers that are not finished
Watch = Callable[[list[int], Tensor], None]

GROUPS = 8  # parts of about equal work that a watched map is run in, last layers first
GROUP_ROWS = 12_288  # and the most rows × blocks of one


def run_resumed(
    model: Any,
    tower: Tower,
    buckets: Sequence[Bucket],
    cache: CleanCache,
    sweep: Sweep,
    most_rows: int,
    watch: Watch | None = None,
) -> list[Float[Tensor, "batch layer column embed"]]:
    """Every cell of every bucket, in passes of about ``most_rows`` rows; the first pass fills the cache.

    model: the tower, wrapped by nnsight.
    watch: run the layers in groups, the last ones first, and call this after each pass. What it raises ends the run.

    Raises:
        PatchDidNotFireError: a hook point did not hold the donor's activation.
    """
    n_layers = sweep.site.n_layers(tower.n_layers)
    n_rows = sum(len(bucket.members) * bucket.length**2 / 2 for bucket in buckets)  # a sequence starts at each position
    groups = [range(n_layers)] if watch is None else layer_groups(n_layers, n_rows)
    known: list[Tensor] = []
    found: list[Tensor] = []
    for number, layers in enumerate(groups):
        schedules = [_schedule(tower, sweep, bucket, layers, most_rows) for bucket in buckets]
        everything = list(chain.from_iterable(plan.sequences for plan in schedules))
        n_clean = 0 if number else cache.n_rows
        passes = divide_into_passes(everything, n_clean, most_rows) if everything or n_clean else []
        last = number == len(groups) - 1
        results = []
        for members in passes:
            results.append(
                _run_pass(model, tower, members, cache, sweep.site, keep=not last or members is not passes[-1])
            )
            _show(watch, buckets, found)
        if not number:
            known = [bucket.known_embeddings(tower, sweep) for bucket in buckets]
            found = known if watch is None else [torch.full_like(cells, torch.nan) for cells in known]
        embeddings = iter(normalise(torch.cat(results)).split([len(part) for part in everything]) if results else ())
        here = slice(layers.start, layers.stop)
        for bucket, plan, cells, filled in zip(buckets, schedules, found, known, strict=True):
            cells[:, here] = filled[:, here]
            for part in plan.sequences:
                cells[torch.from_numpy(part.cells).to(cells.device).unbind(dim=1)] = next(embeddings)
            for layer, some in _by_layer(plan.not_resumable, max(1, most_rows // bucket.length)):
                again = normalise(run_cells(model, tower, bucket, sweep, layer, some))
                pairs, columns = torch.tensor(some, device=cells.device).unbind(dim=1)
                cells[pairs, layer, columns] = again
        _show(watch, buckets, found)
    return found


def _by_layer(cells: Sequence[Cell], size: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(pair, column) of cells that are run by full passes, of one layer and at most ``size`` at a time."""
    of_layer: dict[int, list[tuple[int, int]]] = {}
    for pair, layer, column in cells:
        of_layer.setdefault(layer, []).append((pair, column))
    for layer, members in of_layer.items():
        for at in range(0, len(members), size):
            yield layer, members[at : at + size]


def _show(watch: Watch | None, buckets: Sequence[Bucket], found: Sequence[Tensor]) -> None:
    if watch is not None and found:
        for bucket, cells in zip(buckets, found, strict=True):
            watch(bucket.members, cells)


def layer_groups(n_layers: int, n_rows: float) -> list[range]:
    """Indices of the layer axis in groups of about equal work, the last and cheapest layers first.

    n_rows: of one layer's patched sequences. Those of the layer at index i run through the blocks behind it.

    >>> layer_groups(9, 32)
    [range(5, 9), range(3, 5), range(2, 3), range(1, 2), range(0, 1)]
    """
    most = min(GROUP_ROWS, n_rows * n_layers * (n_layers - 1) / 2 / GROUPS)
    groups, stop, work = [], n_layers, 0.0
    for at in reversed(range(n_layers)):
        work += n_rows * (n_layers - 1 - at)
        if work >= most or at == 0:
            groups.append(range(at, stop))
            stop, work = at, 0.0
    return groups


def _schedule(tower: Tower, sweep: Sweep, bucket: Bucket, layers: range, most_rows: int) -> Schedule:
    """What has to be run of a bucket's cells in some layers."""
    base, donor = bucket.base, bucket.donor
    assert isinstance(base, CachedRun) and isinstance(donor, CachedRun)
    known = bucket.known(tower, sweep)
    if len(layers) < known.shape[1]:
        outside = np.ones(known.shape[1], dtype=bool)
        outside[layers.start : layers.stop] = False
        known = np.where(outside[:, None], BASE, known)
    aligned = bucket.sources is not None or bucket.given or bucket.projection is not None
    return schedule(tower, sweep, base, donor, bucket.columns, known, most_rows=most_rows, aligned=aligned)


def run_passes(
    model: Any, tower: Tower, parts: Sequence[PatchedSequences], cache: CleanCache, site: Site, most_rows: int
) -> Sequence[Float[Tensor, "sequence embed"]]:
    """The normalised embeddings of the sequences of every part, in passes of about ``most_rows`` rows."""
    passes = divide_into_passes(parts, cache.n_rows, most_rows)
    results = [_run_pass(model, tower, some, cache, site, keep=some is not passes[-1]) for some in passes]
    return normalise(torch.cat(results)).split([len(part) for part in parts])


def _run_pass(
    model: Any, tower: Tower, parts: Sequence[PatchedSequences], cache: CleanCache, site: Site, *, keep: bool
) -> Float[Tensor, "sequence embed"]:
    """One pass over patched sequences, and over the clean rows if the cache has not been filled yet."""
    import nnsight

    reads_one = tower.spec.reads_one
    pass_ = ResumedPass(cache, parts, site=site, n_blocks=tower.n_layers, reads_one=reads_one, keep=keep)
    fills_cache = pass_.n_clean > 0
    record = fills_cache and site.residual is None
    blocks = [block for block, layout in enumerate(pass_.layouts) if record or len(layout.patched[0][0])]
    proofs: list[tuple[int, Tensor, Tensor]] = []
    with model.trace(pass_, fn=partial(resume, tower)) as tracer:
        for block in blocks:
            point = hook_point(model.blocks[block], site.hook)
            states = point.output if fills_cache else state_at(cache, block, site.hook)
            if record:
                cache.site.append(states[: pass_.n_clean].clone())
            here, there = pass_.layouts[block].patched
            wanted = (states if cache.given is None else state_at(cache.given, block, site.hook))[there]
            if cache.projection is not None:
                current = point.output[here]
                wanted = current + (wanted - current) @ cache.projection
            point.output[here] = wanted
            proofs.append((block, point.output[here], wanted))
        result = nnsight.save(tracer.result)
    for block, state, wanted in proofs:
        where = ", ".join(map(str, sorted({int(at) for part in parts for at in part.patches(block).position})))
        prove(state, wanted, f"block {block} ({site.hook}), positions {where}")
    return result

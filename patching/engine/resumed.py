"""The fast path: cells as patched sequences that resume from the clean cache, many in one pass (:mod:`..resume`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..resume.clean_cache import CachedRun, CleanCache, state_at
from ..resume.patched_sequences import PatchedSequences
from ..resume.resumed_pass import ResumedPass, resume
from ..resume.schedule import divide_into_passes, schedule
from ..sites import Sweep
from ..towers.tower import Tower, normalise
from .buckets import Bucket
from .generic import run_cells
from .replacement import hook_point, prove


def run_resumed(
    model: Any, tower: Tower, buckets: Sequence[Bucket], cache: CleanCache, sweep: Sweep, most_rows: int
) -> list[Float[Tensor, "batch layer column embed"]]:
    """Every cell of every bucket, in passes of about ``most_rows`` rows; the first pass fills the cache.

    model: the tower, wrapped by nnsight.

    Raises:
        PatchDidNotFireError: a hook point did not hold the donor's activation.
    """
    schedules = []
    for bucket in buckets:
        base, donor = bucket.base, bucket.donor
        assert isinstance(base, CachedRun) and isinstance(donor, CachedRun)
        schedules.append(
            schedule(
                tower,
                sweep,
                base,
                donor,
                bucket.columns,
                bucket.known(tower, sweep),
                most_rows=most_rows,
                aligned=bucket.sources is not None or bucket.given,
            )
        )
    everything = list(chain.from_iterable(plan.sequences for plan in schedules))
    passes = divide_into_passes(everything, cache.n_rows, most_rows)
    results = [_run_pass(model, tower, part, cache, sweep, keep=part is not passes[-1]) for part in passes]
    embeddings = iter(normalise(torch.cat(results)).split([len(part) for part in everything]))
    found = [bucket.known_embeddings(tower, sweep) for bucket in buckets]
    for bucket, plan, cells in zip(buckets, schedules, found, strict=True):
        for part in plan.sequences:
            cells[torch.from_numpy(part.cells).to(cells.device).unbind(dim=1)] = next(embeddings)
        for pair, layer, column in plan.not_resumable:
            cells[pair, layer, column] = normalise(run_cells(model, tower, bucket, sweep, layer, [(pair, column)]))[0]
    return found


def _run_pass(
    model: Any, tower: Tower, parts: Sequence[PatchedSequences], cache: CleanCache, sweep: Sweep, *, keep: bool
) -> Float[Tensor, "sequence embed"]:
    """One pass over patched sequences, and over the clean rows if the cache has not been filled yet."""
    import nnsight

    site = sweep.site
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
            point.output[here] = wanted
            proofs.append((block, point.output[here], wanted))
        result = nnsight.save(tracer.result)
    for block, state, wanted in proofs:
        where = ", ".join(sorted({str(position) for part in parts for position in part.positions}))
        prove(state, wanted, f"block {block} ({site.hook}), positions {where}")
    return result

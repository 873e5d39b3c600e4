"""The generic path: one forward pass of the tower per cell, without the blocks before the patch.

It needs nothing but hook points, so that it works for every tower and site, and checks the fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..resume.clean_cache import state_at
from ..sites import Sweep
from ..towers.tower import Tower, normalise
from .buckets import Bucket, Cells
from .replacement import hook_point, prove

# (bucket, sweep, index on the layer axis, cells) -> embeddings of the cells, not normalised
RunCells = Callable[[Bucket, Sweep, int, Cells], Float[Tensor, "cell embed"]]


def by_layer(
    tower: Tower,
    bucket: Bucket,
    sweep: Sweep,
    most_rows: int,
    run: RunCells,
    watch: Callable[[list[int], Tensor], None] | None = None,
) -> Float[Tensor, "batch layer column embed"]:
    """Every cell of a bucket, layer by layer, in passes of at most ``most_rows`` rows.

    watch: called after each layer with the pairs' numbers and their cells; see :meth:`PatchingEngine.run`.
    """
    cells = [(pair, column) for pair in range(len(bucket.members)) for column in range(len(bucket.columns[0]))]
    size = max(1, most_rows // bucket.length)
    layers = []
    for at in range(sweep.site.n_layers(tower.n_layers)):
        parts = [run(bucket, sweep, at, cells[start : start + size]) for start in range(0, len(cells), size)]
        layers.append(normalise(torch.cat(parts)).unflatten(0, (len(bucket.members), -1)))
        if watch is not None:
            missing = sweep.site.n_layers(tower.n_layers) - len(layers)
            watch(
                bucket.members, nn.functional.pad(torch.stack(layers, dim=1), (0, 0, 0, 0, 0, missing), value=torch.nan)
            )
    return bucket.blank(torch.stack(layers, dim=1))


def run_cells(
    model: Any, tower: Tower, bucket: Bucket, sweep: Sweep, at: int, cells: Cells
) -> Float[Tensor, "cell embed"]:
    """Patch cells of one layer, one text per cell, in a forward pass that skips the blocks before it.

    model: the tower, wrapped by nnsight.

    Raises:
        PatchDidNotFireError: a hook point did not hold the donor's activation.
    """
    import nnsight

    n_blocks = tower.n_layers
    events = sweep.events(at, n_blocks)
    index = bucket.index(cells, sweep.site)
    texts = torch.tensor([pair for pair, _ in cells], device=bucket.inputs.device)
    first_block, first_hook = events[0]
    last_state = first_hook == "hook_resid_post" and sweep.site.hook == "hook_resid_pre"  # all blocks are skipped
    entries = (texts[index[0]], *index[1:])
    wanted = [state_at(bucket.donor, block, hook)[entries] for block, hook in events]
    if bucket.projection is not None:  # of one layer, whose states are still the base's
        base = [state_at(bucket.base, block, hook)[entries] for block, hook in events]
        wanted = [ours + (theirs - ours) @ bucket.projection for ours, theirs in zip(base, wanted, strict=True)]
    before = [bucket.base.resid[block + 1][texts] for block in range(n_blocks if last_state else first_block)]
    if last_state:
        before[-1][index] = wanted[0]
    held: list[Tensor] = []
    with model.trace(bucket.inputs[texts]) as tracer:
        for block, state in enumerate(before):
            model.blocks[block].skip(state)
        if last_state:
            held.append(nnsight.save(model.blocks[n_blocks - 1].output[index]))
        else:
            for (block, hook), state in zip(events, wanted, strict=True):
                point = hook_point(model.blocks[block], hook)
                point.output[index] = state
                held.append(nnsight.save(point.output[index]))
        result = nnsight.save(tracer.result)
    for (block, hook), state, donors in zip(events, held, wanted, strict=True):
        positions = sorted({p for pair, column in cells for p in bucket.columns[pair][column].positions})
        prove(state, donors, f"block {block} ({hook}), positions {positions}")
    return result

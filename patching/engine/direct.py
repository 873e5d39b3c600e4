"""Path patching: the direct effect of a state on the embedding, with all later components held at the base run."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import SiteError
from ..resume.clean_cache import state_at
from ..resume.clean_run import CleanRun, run_clean
from ..sites import Sweep
from ..towers.tower import Tower
from .buckets import Bucket, Cells
from .engine import PatchingEngine, PatchPath
from .generic import by_layer
from .replacement import hook_point, prove
from .resumed import Watch

# Hook points of a block in the order of the forward pass, and the parts that compute what is held still.
_ORDER = ("hook_resid_pre", "attn", "hook_attn_out", "hook_resid_mid", "mlp", "hook_mlp_out", "hook_resid_post")
_WRITES = {"hook_attn_out": "attn", "hook_mlp_out": "mlp"}


class DirectEngine(PatchingEngine):
    """Patches whose effect reaches the readout along the residual stream only: path patching to the embedding.

    The donor's activation is put in as :class:`PatchingEngine` does, while the outputs of every attention layer and
    every MLP after it are held at the base run's (Wang et al. 2022, "Interpretability in the wild", arXiv 2211.00593).
    What is left is the direct effect: what this head itself writes where the embedding is read. Layer norms are
    computed anew. ``through_mlps`` lets MLPs recompute, as Wang et al. do, so that only other heads are held still.

    In a pre-norm tower the direct effects of all heads, MLPs and layer 0 add up in the final residual state.

    >>> import tracescribe as ts
    >>> from tracescribe.patching import Column, site_named
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> heads = [[Column(tuple(range(8)), head) for head in range(4)]]
    >>> found = DirectEngine(text).patch([base], [donor], sweep=Sweep(site_named("z")), columns=heads)
    >>> list(found.patched.shape)  # 1 pair, blocks 1..8, 4 heads, 64 dimensions
    [1, 8, 4, 64]
    """

    def __init__(self, tower: Tower, *, through_mlps: bool = False, dtype: torch.dtype | None = None) -> None:
        super().__init__(tower, dtype=dtype)
        self.through_mlps = through_mlps

    def _path(self, sweep: Sweep, path: PatchPath) -> Literal["resume", "generic"]:
        if self.tower.opaque:
            raise SiteError(
                f"direct effects need blocks that are taken apart, and this tower's blocks "
                f"({type(self.tower.blocks[0]).__name__}) are not: use method='exact'"
            )
        if sweep.window > 1:
            raise SiteError(f"a direct effect is that of one layer, not of window={sweep.window}: use window=1")
        if path == "resume":
            raise SiteError("path='resume' does not hold anything still: use path='auto' for direct effects")
        return super()._path(sweep, "generic")

    def _cells(
        self, bucket: Bucket, sweep: Sweep, most_rows: int, watch: Watch | None = None
    ) -> Float[Tensor, "batch layer column embed"]:
        if bucket.projection is not None:
            raise SiteError("direct effects are those of complete states: drop the directions")
        held = {hook: run_clean(self.tower, bucket.inputs, hook) for hook in self._held_hooks()}
        return by_layer(self.tower, bucket, sweep, most_rows, partial(self._direct, held), watch)

    def _held_hooks(self) -> tuple[str, ...]:
        return ("hook_attn_out",) if self.through_mlps else tuple(_WRITES)

    def _direct(
        self, held: dict[str, CleanRun], bucket: Bucket, sweep: Sweep, at: int, cells: Cells
    ) -> Float[Tensor, "cell embed"]:
        """One pass for many pairs and columns of one layer."""
        import nnsight

        n_blocks = self.tower.n_layers
        [(first, hook)] = sweep.events(at, n_blocks)
        texts = torch.tensor([pair for pair, _ in cells], device=bucket.inputs.device)
        index = bucket.index(cells, sweep.site)
        wanted = state_at(bucket.donor, first, hook)[(texts[index[0]], *index[1:])]
        before = [bucket.base.resid[block + 1][texts] for block in range(first)]
        # (block, hook point, part that need not be run, entries that are set, to what), in the order of the pass
        plan: list[tuple[int, str, str | None, Any, Tensor]] = [(first, hook, None, index, wanted)]
        for block in range(first, n_blocks):
            for write in self._held_hooks():
                if block > first or _comes_after(write, hook):
                    plan.append((block, write, _WRITES[write], slice(None), held[write].site[block][texts]))
        found: list[Tensor] = []
        with self._model.trace(bucket.inputs[texts]) as tracer:
            for block in range(first):
                self._model.blocks[block].skip(before[block])
            for block, name, part, entries, value in plan:
                if part is not None:
                    getattr(self._model.blocks[block], part).skip(value)
                point = hook_point(self._model.blocks[block], name)
                point.output[entries] = value
                found.append(nnsight.save(point.output[entries]))
            result = nnsight.save(tracer.result)
        for (block, name, _, _, value), state in zip(plan, found, strict=True):
            prove(state, value, f"block {block} ({name}), in the path from block {first} ({hook})")
        return result


def _comes_after(write: str, hook: str) -> bool:
    """Whether a write of the patched block itself is to be held: not the one that has to pass the patch on."""
    within = hook.split(".")[0]
    return _ORDER.index(write) > _ORDER.index(within) and _WRITES[write] != within

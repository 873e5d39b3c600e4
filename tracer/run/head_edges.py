"""Effects of edges between heads (path patching), for the pairs that enter a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...arguments import explains_arguments
from ..choices import Inputs
from ..pairs.pairs import Pair
from ..results.head_edges import HeadEdges
from .entering import EnteringPairs
from .finer_options import HeadEdgeOptions
from .progress import ProgressCallback, progress_bar

if TYPE_CHECKING:
    import torch

    from ...patching import DualEncoder, PatchPath
    from ..pairs.directions import Direction

__all__ = ["head_edges"]


@explains_arguments
def head_edges(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    inputs: Inputs = HeadEdgeOptions.inputs,
    segment: str | None = HeadEdgeOptions.segment,
    direction: Direction = HeadEdgeOptions.direction,
    path: PatchPath = HeadEdgeOptions.path,
    batch_size: int | Literal["auto"] = HeadEdgeOptions.batch_size,
    dtype: torch.dtype | str | None = HeadEdgeOptions.dtype,
    floor: float | None = HeadEdgeOptions.floor,
    seed: int = HeadEdgeOptions.seed,
    progress: bool | ProgressCallback = True,
) -> HeadEdges:
    """The effect of every edge from a head to a head of a later layer: path patching (Wang et al. 2022).

    For an edge from head h of layer l to head h' of layer l', the foil's output of h is put in at all tokens, all other
    heads and all MLPs of layers l to l' - 1 are held at the base run's, and only head h' reads the result; from there
    on everything is computed anew. CTE = (S_corr - S) / (S_corr - S_foil), exact for every edge. The cost grows with
    the square of layers × heads.

    Args:
        model, pairs, direction, path, batch_size, dtype, floor: as :func:`trace` takes them.
        inputs: which inputs of h' take the changed state: queries, keys, values, or several.
        segment: as in :meth:`CausalTrace.map`.
        seed: of the runs that are checked against the generic path.
        progress: a bar, or a callback ``(done, total)`` over text pairs.

    Raises:
        TraceError: an option that is not allowed.
        SiteError: the tower's blocks are not taken apart, or it has a single one.
        As :func:`trace` of its pairs.

    >>> import tracescribe as ts
    >>> model, clear = ts.load("phantom"), ts.Text("The lungs are clear.")
    >>> pairs = [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=clear)]
    >>> found = ts.head_edges(model, pairs, progress=False)
    >>> found.cte.shape, len(found.to_frame(ci=None))  # 28 pairs of layers × 16 pairs of heads
    ((8, 4, 8, 4), 448)
    """
    from ...patching import HeadEdgeEngine

    asked = HeadEdgeOptions.given(locals())
    options = asked.trace_options(site="z", path=asked.path)
    engine = HeadEdgeEngine(model.text, dtype=options.torch_dtype)
    entering = EnteringPairs.of(model, engine, pairs, options, asked.segment)
    batch = entering.batch
    effects: np.ndarray | None = None
    with progress_bar(progress, len(batch.base)) as advance:
        runs = engine.between_heads(
            batch.base,
            batch.donor,
            inputs=asked.inputs,
            path=options.path,
            batch_size=options.batch_size,
            seed=options.seed,
        )
        for done, (number, found) in enumerate(runs, start=1):
            moved = (found.base - found.patched).double().cpu().numpy()
            if effects is None:
                effects = np.empty((len(entering.clean), *moved.shape[:-1]))
            members = np.flatnonzero(batch.patched_pair == number)
            change = np.moveaxis(moved @ entering.images[members].astype(np.float64).T, -1, 0)
            effects[members] = entering.sign[members, None, None, None, None] * change
            advance(done)
    assert effects is not None
    return HeadEdges(
        effects=effects,
        denominator=entering.denominator,
        clusters=entering.clusters,
        texts=entering.texts,
        inputs=asked.inputs,
        segment=entering.name,
        provenance={**entering.clean.provenance, "inputs": asked.inputs, "path": found.path},
    )

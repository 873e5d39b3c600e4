"""Faithfulness of a map: its cells are patched together in order, and all others, beside random orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ...io.quoting import shown
from ..pairs.indexing import distinct
from ..pairs.pairs import Pair
from ..results.causal_trace import CausalTrace
from ..results.faithfulness import RANDOM, Faithfulness, first_cells
from ..results.sides import cluster_keys, text_keys
from .joint import JointRuns
from .joint_options import FaithfulnessOptions
from .progress import ProgressCallback, progress_bar

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["faithfulness"]


@explains_arguments
def faithfulness(
    model: DualEncoder,
    trace: CausalTrace,
    pairs: Sequence[Pair] | None = None,
    *,
    targets: Any = None,
    sizes: int | Sequence[int] = FaithfulnessOptions.sizes,
    random: int = FaithfulnessOptions.random,
    align: str = FaithfulnessOptions.align,
    reduce: str = FaithfulnessOptions.reduce,
    segment: str | None = FaithfulnessOptions.segment,
    layers: Sequence[int] | None = FaithfulnessOptions.layers,
    among: Any = FaithfulnessOptions.among,
    seed: int = FaithfulnessOptions.seed,
    progress: bool | ProgressCallback = True,
) -> Faithfulness:
    """Patch the first k cells (or heads) of a trace's map together, and all but these, for a list of k.

    The cells are those of :meth:`CausalTrace.map`, (layer, row): in each pair a row is all its tokens of that role, or
    one head. They are ordered by CTE, by its absolute value and at random; every joint patch is exact, also where the
    trace is an attribution, whose order is then tested. Runs are batched as those of a trace.

    Sets of the residual stream's cells are special: once all differing states of one layer are patched, nothing else
    matters, so that necessity stays 1 until a cell of each layer is spared. Heads and MLPs have no such cells.

    Args:
        model: the model that was traced.
        trace: from :func:`tracescribe.trace`, of the states of the foil or of zeros, without windows; exact or
            attribution.
        pairs: the pairs that were traced, in the same order; not needed if the trace keeps its targets' embeddings
            (with the patched ones, ``keep_embeddings``).
        targets: instead of ``pairs``: what each pair is scored against, [pair, embed]; the captions are the trace's.
        sizes: the k's, or how many there are (spaced by the square root of k, so that small sets are seen); 0 and all
            cells are always among them.
        random: how many random orders.
        align, reduce, segment: of the map and of the pairs that enter it, as in :meth:`CausalTrace.map`.
        layers: the layers whose cells count; by default all. Of the residual stream, layer 0 and layer L decide
            everything by construction: ``layers=range(1, trace.n_layers)`` asks about those between.
        among: the trace's ``candidates``, given again where it was scored among some (by margin, probability or rank).
            Joint patches are scored as the trace is, by any metric.
        seed: of the random orders, and of the sets that are checked against the generic path.
        progress: a bar, or a callback ``(done, total)`` over text pairs.

    Raises:
        TraceError: the model or the pairs are not those of the trace, or its cells cannot be patched together.
        DegenerateTraceError: no pair enters the map.

    >>> import tracescribe as ts
    >>> model, clear = ts.load("phantom"), ts.Text("The lungs are clear.")
    >>> pairs = [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=clear)]
    >>> trace = ts.trace(model, pairs, site="mlp", positions="all", progress=False)
    >>> found = ts.faithfulness(model, trace, pairs, sizes=[1, 2, 4], progress=False)
    >>> found.sizes.tolist(), found.orders[:2]
    ([0, 1, 2, 4, 8], ('effect', 'magnitude'))
    >>> bool(found.values("sufficiency")[0, 0] == 0)  # nothing is patched
    True
    """
    asked = FaithfulnessOptions.given(locals())
    runs = JointRuns.of(model, trace, pairs, targets, asked)
    cells = runs.cells
    counts = _sizes(asked.sizes, len(cells))
    generator = np.random.default_rng(asked.seed)
    orders = {"effect": cells.by_effect(), "magnitude": cells.by_magnitude()}
    orders |= {f"{RANDOM} {number}": generator.permutation(len(cells)) for number in range(asked.random)}
    first = first_cells(list(orders.values()), counts)
    sets = np.concatenate([first, ~first]).reshape(-1, len(cells))
    with progress_bar(progress, runs.n_texts) as advance:
        effects = runs.effects(sets, advance)
    sufficiency, necessity = effects.reshape(2, len(orders), len(counts), -1)
    return Faithfulness(
        cells=cells,
        orders=tuple(orders),
        permutations=np.stack(list(orders.values())),
        sizes=counts,
        sufficiency=sufficiency,
        necessity=necessity,
        denominator=trace.denominator[runs.used],
        clusters=distinct(cluster_keys(trace, runs.used))[1],
        texts=distinct(text_keys(trace, runs.used))[1],
        reduce=asked.reduce,
        provenance={**trace.provenance, "align": asked.align, "segment": asked.segment, "seed": asked.seed},
    )


def _sizes(sizes: int | Sequence[int], n_cells: int) -> Int[np.ndarray, " size"]:
    spaced = np.round(n_cells * np.linspace(0, 1, sizes) ** 2).astype(int) if isinstance(sizes, int) else sizes
    asked = [int(size) for size in spaced]
    if max(asked) > n_cells:
        raise TraceError(f"sizes={shown(asked)}: the map has {n_cells} cells")
    return np.unique([0, *asked, n_cells])

"""Cuts attention by row of queries: a trace for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...arguments import explains_arguments
from ...errors import DegenerateTraceError
from ..choices import RowKind
from ..pairs.batch import as_pairs, make_batch
from ..pairs.pairs import Pair
from ..pairs.roles import assign_rows
from ..pairs.targets import encode_targets
from ..results.knockout import KnockOut
from .finer_options import KnockOutOptions
from .progress import ProgressCallback
from .trace import run_trace

if TYPE_CHECKING:
    import torch

    from ...patching import DualEncoder, PatchPath
    from ..pairs.directions import Direction

__all__ = ["knock_out"]


@explains_arguments
def knock_out(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    align: RowKind = KnockOutOptions.align,
    heads: int | None = KnockOutOptions.heads,
    window: int = KnockOutOptions.window,
    direction: Direction = KnockOutOptions.direction,
    path: PatchPath = KnockOutOptions.path,
    batch_size: int | Literal["auto"] = KnockOutOptions.batch_size,
    dtype: torch.dtype | str | None = KnockOutOptions.dtype,
    floor: float | None = KnockOutOptions.floor,
    seed: int = KnockOutOptions.seed,
    progress: bool | ProgressCallback = True,
) -> KnockOut:
    """The effect of cutting attention from each row of queries to each token, by layer (Geva et al. 2023).

    One trace per row, :func:`trace` with ``site="edges", replace="cut", queries=row``: the tokens of the row may not
    attend to the column's token, in one layer or ``window`` of them.

    Args:
        model, pairs, window, direction, path, batch_size, dtype, floor, seed: as :func:`trace` takes them.
        align: what a row of queries is: a role, or a token number.
        heads: one head; None: all.
        progress: a bar, or a callback ``(done, total)`` over text pairs, for each row of queries.

    Raises:
        As :func:`trace`.

    >>> import tracescribe as ts
    >>> model, clear = ts.load("phantom"), ts.Text("The lungs are clear.")
    >>> pairs = [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=clear)]
    >>> found = ts.knock_out(model, pairs, progress=False)
    >>> found.queries
    ('[start]', 'before', 'first differing', 'first after', 'further after', 'punctuation', '[end]')
    >>> float(found.at(8).loc["first differing", "[start]"])  # in the last layer only the end token's attention counts
    0.0
    """
    asked = KnockOutOptions.given(locals())
    given = as_pairs(pairs)
    batch = make_batch(model.text, given, direction=asked.direction)
    targets = encode_targets(model, batch.images, batch.ids).of_pairs
    judged = [pair.model_copy(update={"image": row}) for pair, row in zip(given, targets, strict=True)]
    rows = assign_rows(asked.align, batch.kinds, batch.differs, batch.tokens, batch.ids)
    traces, refusal = {}, None
    for number, label in enumerate(rows.labels):
        here = np.flatnonzero((rows.index == number).any(axis=1))
        if not len(here):
            continue
        options = asked.trace_options(
            site="edges",
            replace="cut",
            queries=label if asked.align == "role" else number,
            heads=asked.heads,
            window=asked.window,
            path=asked.path,
            keep_embeddings=False,
        )
        try:
            traces[label] = run_trace(model, [judged[i] for i in here.tolist()], options, progress)
        except DegenerateTraceError as error:  # of the pairs that have such tokens
            refusal = error
    if refusal is not None and not traces:
        raise refusal
    return KnockOut(traces, asked.align)

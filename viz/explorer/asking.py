"""What is in a cell: scores and ranks with the patch, its heads, attention at its token, and its strongest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from ...errors import TraceError
from ...tracer.pairs.roles import ROLES, assign_rows

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from ...tracer import CausalTrace
    from .tracing import Query

__all__ = ["Ranked", "attention_at", "extreme_pairs", "heads_at", "rank_captions", "role_of"]

SHOWN = 4  # pairs of either end


@dataclass(frozen=True)
class Ranked:
    """A candidate caption without and with a patch. patched: it is the one whose run is patched."""

    caption: str
    score: float
    rank: int
    score_with: float
    rank_with: int
    patched: bool


def rank_captions(captions: Sequence[str], scores: Sequence[float], base: int, patched: float | None) -> list[Ranked]:
    """Candidates from the best score to the worst; the base's score becomes ``patched`` (None: nothing is patched).

    >>> [(r.caption, r.rank, r.rank_with) for r in rank_captions(["no", "severe"], [0.4, 0.3], 0, 0.2)]
    [('no', 1, 2), ('severe', 2, 1)]
    """
    after = [patched if i == base and patched is not None else score for i, score in enumerate(scores)]
    found = [
        Ranked(caption, scores[i], _rank(scores, i), after[i], _rank(after, i), i == base and patched is not None)
        for i, caption in enumerate(captions)
    ]
    return sorted(found, key=lambda one: one.rank)


def _rank(scores: Sequence[float], i: int) -> int:
    return 1 + sum(other > scores[i] for other in scores)


def heads_at(model: DualEncoder, query: Query, position: int) -> Float32[np.ndarray, "layer head"]:
    """CTE of each head's output (z) at one token, by layer 1..L.

    Raises:
        SiteError: the tower's blocks are not taken apart.
    """
    from ...tracer.run.trace import run_trace

    options = replace(query.options, site="z", positions=(position,), heads="each")
    return run_trace(model, [query.pair(model)], options, False).cte[0]


def attention_at(
    model: DualEncoder, query: Query, layer: int, position: int, *, foil: bool
) -> tuple[Float32[np.ndarray, "head key"], tuple[str, ...]]:
    """Attention of each head of block ``layer`` from one token to all, in the clean run; and the tokens' names.

    Raises:
        TraceError: layer 0, which is no block's.
        SiteError: the tower's blocks are not taken apart.
    """
    from ...patching import attention_patterns

    if layer < 1:
        raise TraceError("layer 0 is the embedding output, which no block attends in: choose a layer from 1 on")
    text = model.text
    [row] = text.rows([query.foil if foil else query.correct])
    [(_, patterns)] = attention_patterns(text, [row])
    return patterns[0, layer - 1, :, position].float().cpu().numpy(), tuple(text.token_strings(row))


def role_of(trace: CausalTrace, position: int) -> str:
    """The role of a token of a trace of one pair."""
    rows = assign_rows("role", trace.kinds, trace.differs, trace.tokens, trace.ids)
    return ROLES[int(rows.index[0, position])]


def extreme_pairs(
    trace: CausalTrace, layer: int, role: str, shown: int = SHOWN
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The pairs of a data set with the largest and the smallest CTE in the tokens of a role (their mean), at one layer.

    layer: index on the layer axis. Pairs that are not valid or have no such token are left out.

    Raises:
        TraceError: no pair is left.
    """
    effects = pair_effects(trace, layer, role)
    known = np.flatnonzero(np.isfinite(effects))
    if not known.size:
        raise TraceError(f"no pair of the data set has a usable effect in {role!r} at layer {trace.layers[layer]}")
    order = known[np.argsort(-effects[known], kind="stable")]
    strongest = order[:shown]
    weakest = order[::-1][: min(shown, len(order) - len(strongest))]
    return ([(int(i), float(effects[i])) for i in strongest], [(int(i), float(effects[i])) for i in weakest])


def pair_effects(trace: CausalTrace, layer: int, role: str) -> Float[np.ndarray, "pair"]:
    """Each pair's mean CTE over the tokens of a role; NaN where it has none, or no CTE."""
    rows = assign_rows("role", trace.kinds, trace.differs, trace.tokens, trace.ids)
    member = rows.index == ROLES.index(role)
    cells = np.where(member & np.isfinite(trace.cte[:, layer]), trace.cte[:, layer].astype(np.float64), 0.0)
    count = (member & np.isfinite(trace.cte[:, layer])).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, cells.sum(axis=1) / count, np.nan)

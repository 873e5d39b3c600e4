"""Columns: which positions and heads are replaced together, from the user's options to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int8

from ...errors import TraceError
from ...io.quoting import shown
from ..pairs.batch import PairBatch
from ..pairs.roles import ROLES, TokenKind, assign_rows

if TYPE_CHECKING:
    from ...patching import Column, Site, TextTower
    from .options import Heads, Positions, TraceOptions

__all__ = ["check_names", "select_columns"]

SETS = ("each", "all", "differing", "from the first differing")


def check_names(options: TraceOptions) -> None:
    """Refuse the names of sites and of sets of tokens that no tower and no pair has, before either is read.

    Raises:
        SiteError: there is no such site.
        TraceError: no such set of tokens, or heads at a site without heads.
    """
    from ...patching import site_named

    _check_heads(site_named(options.site), options.heads)
    for chosen in (options.positions, options.queries):
        if isinstance(chosen, str):
            _check_set(chosen)


def with_queries(
    columns: Sequence[Sequence[Column]], batch: PairBatch, queries: Positions | None
) -> list[list[Column]]:
    """The columns of site "edges": those of the keys, with the queries that may not attend to them; all by default.

    Raises:
        TraceError: a set that a pair does not have.
    """
    found = []
    for of_pair, pair in zip(columns, batch.example_of_patched.tolist(), strict=True):
        places = _positions(batch, pair, "all" if queries is None else queries)
        found.append([column._replace(queries=places) for column in of_pair])
    return found


def select_columns(
    tower: TextTower, batch: PairBatch, site: Site, positions: Positions | None, heads: Heads
) -> tuple[list[list[Column]], tuple[str, ...] | None]:
    """The engine's columns for every patched pair, and their names where they are not simply the tokens.

    positions: "each" (one column a token), or one set of tokens that are replaced together: "all", "differing", "from
        the first differing" on, the name of a role such as "[end]" (:data:`tracescribe.tracer.pairs.roles.ROLES`), or
        token numbers, negative ones counted from the end. None: "each", or with several heads "all".
    heads: one head's number; "each" or several numbers for a column per head; None for all heads together.

    Raises:
        TraceError: a set that a pair does not have, or heads at a site without heads; quotes it.
    """
    from ...patching import Column, each_position

    _check_heads(site, heads)
    numbers = list(range(tower.n_heads or 0)) if heads == "each" else heads
    several = numbers is not None and not isinstance(numbers, int)
    if positions is None:
        positions = "all" if several else "each"
    if isinstance(positions, str) and positions == "each":
        if several:
            raise TraceError(
                f"heads={heads!r} with positions='each' would need two axes of columns: trace one head at a time "
                f"(heads=3), or the heads over a set of tokens (positions='all')"
            )
        head = numbers if isinstance(numbers, int) else None
        return each_position([len(row) for row in batch.base], head), None
    sets = [_positions(batch, int(pair), positions) for pair in batch.example_of_patched]
    where = f"{positions} tokens" if positions in SETS else str(positions)
    if several:
        assert isinstance(numbers, Sequence)
        names = tuple(f"head {head}" for head in numbers)
        return [[Column(places, head) for head in numbers] for places in sets], names
    head = numbers if isinstance(numbers, int) else None
    return [[Column(places, head)] for places in sets], (where,)


def _check_heads(site: Site, heads: Heads) -> None:
    if heads is not None and not site.by_head:
        raise TraceError(
            f"site {site.name!r} has no heads: drop heads={shown(heads)}, or trace site 'z', 'q', 'k' or 'v'"
        )


def _check_set(name: str) -> None:
    if name not in (*SETS, *ROLES):
        raise TraceError(
            f"unknown positions {shown(name)}; choose one of: {', '.join((*SETS, *ROLES))}, or token numbers"
        )


def _positions(batch: PairBatch, pair: int, wanted: Positions) -> tuple[int, ...]:
    kinds, differs = batch.kinds[pair], batch.differs[pair]
    length = int((kinds != TokenKind.OUTSIDE).sum())
    found: list[int]
    if isinstance(wanted, str):
        found = np.flatnonzero(_mask(batch, pair, wanted, kinds, differs) & batch.inside[pair]).tolist()
    else:
        asked = [wanted] if isinstance(wanted, int) else list(wanted)
        outside = [at for at in asked if not -length <= at < length]
        if outside:
            raise TraceError(
                f"pair {batch.ids[pair]!r} has no token {outside[0]}: its {length} tokens are numbered 0 to "
                f"{length - 1}"
            )
        found = sorted({at % length for at in asked})
    if not found:
        raise TraceError(f"pair {batch.ids[pair]!r} ({' '.join(batch.tokens[pair])}) has no tokens for {wanted!r}")
    return tuple(found)


def _mask(
    batch: PairBatch, pair: int, wanted: str, kinds: Int8[np.ndarray, "token"], differs: Bool[np.ndarray, "token"]
) -> Bool[np.ndarray, "token"]:
    if wanted == "all":
        return batch.inside[pair]
    if wanted == "differing":
        return differs
    if wanted == "from the first differing":
        return np.cumsum(differs) > 0
    _check_set(wanted)
    rows = assign_rows("role", kinds[None], differs[None], [batch.tokens[pair]], [batch.ids[pair]])
    return rows.index[0] == ROLES.index(wanted)

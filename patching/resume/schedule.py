"""The schedule: which cells of a map become patched sequences, and which sequences share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ..sites import Column, Site, Sweep
from ..towers.tower import Tower
from .clean_cache import CachedRun
from .known_cells import RUN
from .patched_sequences import PatchedSequences, SinglePatches

Cell = tuple[int, int, int]  # (pair, layer, column)


class Schedule(NamedTuple):
    """Patched sequences, and the cells that no resumed pass can compute: no block takes the state they replace."""

    sequences: list[SinglePatches]
    not_resumable: list[Cell]


class _Start(NamedTuple):
    """Where a patched run resumes.

    positions: those that are still to be patched there. start: the first position that is run. follows_donor: the
    positions before it go on as in the donor's run.
    """

    positions: tuple[int, ...]
    start: int
    follows_donor: bool


def schedule(
    tower: Tower,
    sweep: Sweep,
    base: CachedRun,
    donor: CachedRun,
    columns: Sequence[Sequence[Column]],
    known: Int[np.ndarray, "pair layer column"],
    *,
    most_rows: int,
    aligned: bool = False,
) -> Schedule:
    """Patched sequences for the cells of pairs of one shape that have to be run, ``most_rows`` rows or so in each.

    known: see :func:`.known_cells.known_cells`. aligned: the donor was aligned to rows of another length.
    """
    found = Schedule([], [])
    n_blocks, site = tower.n_layers, sweep.site
    differs = (base.resid[0] != donor.resid[0]).any(dim=-1)
    first_difference = differs.int().argmax(dim=1).tolist()
    alike: dict[_Start, list[tuple[int, int, int, int]]] = {}
    for pair, layer, column in np.argwhere(known == RUN).tolist():
        window, positions = sweep.layers(layer, n_blocks), columns[pair][column].positions
        last_state = site.first_layer == 0 and window.stop > n_blocks  # no block of a resumed pass takes it
        if last_state and (base.pooled is None or base.pooled in positions):  # and it is read
            found.not_resumable.append((pair, layer, column))
        else:
            where = _start(tower, site, positions, None if aligned else first_difference[pair])
            alike.setdefault(where, []).append((pair, window.start, layer, column))
    for (positions, start, follows_donor), members in alike.items():
        room = max(1, most_rows // (base.length - start))
        members.sort()  # by text, so that the sequences of one part have few texts
        for at in range(0, len(members), room):
            part = sorted(members[at : at + room], key=lambda member: member[1])
            heads = [columns[pair][column].head for pair, _, _, column in part]
            found.sequences.append(
                SinglePatches(
                    clean=base,
                    donor=donor,
                    before=donor if follows_donor else base,
                    positions=positions,
                    start=start,
                    texts=[pair for pair, _, _, _ in part],
                    first=[first for _, first, _, _ in part],
                    until=[sweep.layers(layer, n_blocks).stop for _, _, layer, _ in part],
                    cells=np.array([(pair, layer, column) for pair, _, layer, column in part]),
                    heads=None if heads[0] is None else [head for head in heads if head is not None],
                )
            )
    return found


def divide_into_passes(
    sequences: Sequence[PatchedSequences], n_clean: int, most_rows: int
) -> list[list[PatchedSequences]]:
    """The sequences of each pass, so that passes have about equally many rows, ``most_rows`` or so at most.

    n_clean: rows of the clean cache, which the first pass computes.
    """
    left = n_clean + sum(part.n_rows for part in sequences)
    passes: list[list[PatchedSequences]] = [[]]
    rows, room = n_clean, left / -(-left // most_rows)
    for part in sequences:
        if rows and (rows + part.n_rows > most_rows or rows + part.n_rows / 2 > room):
            passes.append([])
            left -= rows
            rows, room = 0, left / -(-left // most_rows)
        passes[-1].append(part)
        rows += part.n_rows
    return passes


def _start(tower: Tower, site: Site, positions: tuple[int, ...], first_difference: int | None) -> _Start:
    """Where a run that is patched at these positions resumes; first_difference: None where runs are aligned.

    States before the first difference are the donor's already. So a patch of the first differing positions leaves the
    donor's run up to there, and the sequence starts after them.
    """
    if not tower.causal:
        return _Start(positions, 0, False)
    if site.hook != "hook_resid_pre" or first_difference is None:
        return _Start(positions, min(positions), False)
    start = first_difference
    while start in positions:
        start += 1
    left = tuple(position for position in positions if position > start)
    if start > first_difference:
        return _Start(left, start, True)
    return _Start(left, min(left), False)

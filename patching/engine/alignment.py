"""Captions of different lengths: which token of one belongs to which token of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from ...arguments import explains_arguments

__all__ = ["Alignment", "PositionPolicy", "align_rows"]

PositionPolicy = Literal["shift", "keep"]


@dataclass(frozen=True)
class Alignment:
    """For each token of the base row its counterpart in the donor row, and the positions that the donor's tokens take.

    sources: by base position; -1 where the donor has no such token, so that nothing can be put in there.
    donor_positions: by donor position; None where every token keeps its own.
    """

    sources: tuple[int, ...]
    donor_positions: tuple[int, ...] | None = None


@explains_arguments
def align_rows(
    base: Sequence[int],
    donor: Sequence[int],
    policy: PositionPolicy = "shift",
    n_tokens: tuple[int, int] | None = None,
) -> Alignment:
    """Align two rows of token ids by their longest common runs (Ratcliff and Obershelp's gestalt matching).

    Rows with equally many tokens are aligned place by place. Where a run is replaced by a longer or shorter one, the
    first tokens of both belong together and the rest of the longer one to none.

    policy: "shift": the donor runs as it is, and its states carry the position embeddings of their own places; "keep":
        the donor runs with the position embeddings of the base's places, a token without counterpart taking that of the
        token before it.
    n_tokens: how many tokens of either row are no padding; all by default. Padding belongs to padding at its place.

    >>> align_rows([7, 1, 2, 3, 9], [7, 1, 5, 6, 3, 9])
    Alignment(sources=(0, 1, 2, 4, 5), donor_positions=None)
    >>> align_rows([7, 1, 2, 3, 9], [7, 1, 3, 9], policy="keep")
    Alignment(sources=(0, 1, -1, 2, 3), donor_positions=(0, 1, 3, 4))
    """
    n_base, n_donor = n_tokens or (len(base), len(donor))
    if n_base == n_donor:
        return Alignment(tuple(range(len(base))))
    sources = [-1] * n_base
    matcher = SequenceMatcher(None, base[:n_base], donor[:n_donor], autojunk=False)
    for tag, start, stop, other, other_stop in matcher.get_opcodes():
        if tag in ("equal", "replace"):
            for offset in range(min(stop - start, other_stop - other)):
                sources[start + offset] = other + offset
    places = {source: place for place, source in enumerate(sources) if source >= 0}
    sources += [at if at >= n_donor else -1 for at in range(n_base, len(base))]
    if policy == "shift":
        return Alignment(tuple(sources))
    positions: list[int] = []
    for at in range(len(donor)):
        positions.append(at if at >= n_donor else places.get(at, positions[-1] if positions else 0))
    return Alignment(tuple(sources), tuple(positions))

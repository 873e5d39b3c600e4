"""Which pairs of two traces are the same item: never by accident, always said."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int

from ...errors import TraceError
from ...io.quoting import plural, shown
from ...validation import check_choice
from .sides import named_clusters

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["Matching", "Pairing", "match_pairs"]

Pairing = Literal["auto", "id", "order", "none"]
PAIRINGS = ("auto", "id", "order", "none")


@dataclass(frozen=True, eq=False)
class Matching:
    """Places of the same items in both traces; None: the traces are two samples. said: a sentence about it."""

    places: tuple[Int[np.ndarray, "same"], Int[np.ndarray, "same"]] | None
    said: str


def match_pairs(first: CausalTrace, second: CausalTrace, pairing: Pairing) -> Matching:
    """The pairs that both traces have.

    Two pairs are the same item where both have a name (``id`` or ``group``) and id, group and captions are equal; by
    one model, their targets too. Pairs without a name, whose ids are numbers in a list, are the same where captions and
    targets are equal: the targets' embeddings where both traces keep them, else both traces say that they are of one
    list of pairs and targets.

    pairing: "auto": paired where at least half of the smaller trace's pairs are in both; "id": paired, whatever their
        number, and named pairs by id and group alone: two wordings or two targets of one item; "order": pair i with
        pair i, whose captions must be equal; "none": two samples.

    Raises:
        TraceError: pairing by id or order that is not possible.
    """
    check_choice("pairing", pairing, PAIRINGS)
    sizes = len(first), len(second)
    if pairing == "none":
        return Matching(None, f"unpaired, as asked: {sizes[0]} and {sizes[1]} pairs")
    if pairing == "order":
        return _in_order(first, second)
    same = _places(first, second)
    places = _places(first, second, by_name=True) if pairing == "id" else same
    number, fewer = len(places), min(sizes)
    if not number and pairing == "id":
        raise TraceError("the traces have no pair in common: no two have the same id and group")
    if not number or (pairing == "auto" and 2 * number < fewer):
        why = "no pair is in both" if not number else f"only {number} of {fewer} pairs are in both"
        unnamed = not (named_clusters(first).all() and named_clusters(second).all())
        advice = " (pairs without an id or group are matched by captions and target only)" if unnamed else ""
        by_name = number if pairing == "id" else len(_places(first, second, by_name=True))
        if by_name > number:
            advice = f" ({_changed(by_name, number)}: pairing='id' pairs them)"
        return Matching(None, f"unpaired, {why}{advice}: {sizes[0]} and {sizes[1]} pairs")
    left = [f"{size - number} of the {which}" for size, which in zip(sizes, ("first", "second"), strict=True)]
    alone = "" if max(sizes) == number else f"; {' and '.join(left)} are in one trace only and left out"
    one, two = np.array(places).T
    said = f"paired: {plural(number, 'pair')} {'is' if number == 1 else 'are'} in both"
    if number > len(same):
        said = f"paired by id, as asked: {_changed(number, len(same))}"
    return Matching((one, two), f"{said}{alone}")


def _places(first: CausalTrace, second: CausalTrace, by_name: bool = False) -> list[tuple[int, int]]:
    """Where pairs that both have stand in both."""
    known = {key: place for place, key in enumerate(_keys(first, second, by_name))}
    return [(known[key], place) for place, key in enumerate(_keys(second, first, by_name)) if key in known]


def _changed(by_name: int, same: int) -> str:
    """Of pairs with equal names, how many are not the same throughout."""
    return f"{by_name} pairs have equal ids and groups, {by_name - same} of them other captions or targets"


def _in_order(first: CausalTrace, second: CausalTrace) -> Matching:
    if len(first) != len(second):
        raise TraceError(f"pairing='order' needs as many pairs: there are {len(first)} and {len(second)}")
    for place, (one, two) in enumerate(zip(_captions(first), _captions(second), strict=True)):
        if one != two:
            raise TraceError(
                f"pairing='order': pair {place} is {shown(one)} in one trace and {shown(two)} in the other"
            )
    every = np.arange(len(first))
    return Matching((every, every), f"paired in order, as asked: {plural(len(first), 'pair')}")


def _captions(trace: CausalTrace) -> list[Hashable]:
    """Both captions of every pair; of a trace that keeps none, their tokens."""
    if trace.captions is None:
        return list(zip(trace.tokens, trace.foil_tokens, strict=True))
    foils = trace.captions if trace.foil_captions is None else trace.foil_captions
    return list(zip(trace.captions, foils, strict=True))


def _keys(trace: CausalTrace, other: CausalTrace, by_name: bool) -> list[Hashable]:
    """What makes every pair the one it is; equal keys within a trace are told apart by how many came before.

    by_name: of a named pair nothing but its name.
    """
    named, targets = named_clusters(trace), _targets(trace, other)
    weights = [one.provenance.get("weights_sha256") for one in (trace, other)]
    one_model = weights[0] == weights[1] is not None and trace.target is not None and other.target is not None
    times: dict[Hashable, int] = {}
    keys: list[Hashable] = []
    for place, captions in enumerate(_captions(trace)):
        name = (trace.ids[place], trace.groups[place]) if named[place] else None
        key: Hashable = (name, captions, targets[place] if name is None or one_model else None)
        if by_name and name is not None:
            key = name
        keys.append((key, times.setdefault(key, 0)))
        times[key] += 1
    return keys


def _targets(trace: CausalTrace, other: CausalTrace) -> list[Hashable]:
    """What tells the targets of unnamed pairs apart; something that no other trace has where nothing does."""
    if trace.target_embeddings is not None and trace.target is not None and other.target_embeddings is not None:
        digests = [hashlib.sha256(row.tobytes()).digest() for row in trace.target_embeddings]
        return [digests[at] for at in trace.target.tolist()]
    ours, theirs = (one.provenance.get("pairs_sha256") for one in (trace, other))
    changed = any(one.provenance.get("rescored") for one in (trace, other)) or len(trace) != len(other)
    if ours is not None and ours == theirs and not changed:
        return list(range(len(trace)))
    return [id(trace)] * len(trace)

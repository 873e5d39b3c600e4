"""Contextual claims: one attribute of a finding varies (existence, severity, side), and one claim of a set is true.

The claims of a set are asked of as many images as there are claims, each with another true one, so that the texts alone
tell nothing. Single captions with an explicit negation come with them, for the contrastive loss.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal, cast

from ..records import Fact, FactsRecord
from .balance import Block, Blocks, Study, count_one, rng_of, split_of
from .grammar import FRAMES, NEGATORS, Lists, absent, lists, sentence
from .lexicon import TERMS, Term, distinct, term_of
from .mednega import NOTHING_OPEN, affirmable, certain

__all__ = ["caption_items", "contextual_items", "details"]

SIDES = ("left", "right", "bilateral")
NOTHING_CERTAIN = "no attribute is known for certain"
BOTH = ((1, 1), (1, 0), (0, 1), (0, 0))
Key = tuple[str, ...]  # the attribute, then the terms


def contextual_items(
    records: Iterable[FactsRecord],
    *,
    seed: int = 0,
    report: dict[str, int] | None = None,
    blocks: Blocks[Study] | None = None,
) -> Iterator[dict[str, Any]]:
    """Claim sets in the fields of :class:`ClaimRecord`, made as the records come.

    existence: two conditions, each present or absent. severity: mild, moderate, severe, or absent. side: left only,
    right only, both sides, or absent; left, right, or absent while no image is known that shows the finding on both
    sides. An image is asked at most once per attribute.

    Args:
        report: counts of what was left out and why, filled while items are made.
        blocks: what was collected of earlier records, to go on from.

    >>> from tracescribe.benchmark.records import Fact, FactsRecord
    >>> def film(name, effusion, edema):
    ...     facts = {"Pleural Effusion": Fact(state=effusion), "Edema": Fact(state=edema)}
    ...     return FactsRecord(id=name, group=name, image=None, split="train", facts=facts)
    >>> yes, no = "present", "absent"
    >>> films = [film("1", yes, yes), film("2", yes, no), film("3", no, yes), film("4", no, no)]
    >>> items = list(contextual_items(films))
    >>> [item["claims"][item["label"]] for item in items][1]
    'This chest film demonstrates pulmonary edema, with no sign of a pleural effusion.'
    """
    counts = report if report is not None else {}
    blocks = blocks if blocks is not None else Blocks()
    for record in records:
        rng = rng_of(seed, "contextual", record.id)
        split, asked = split_of(record, seed), False
        study = Study(record.id, record.group, record.image, split)
        known = _choices(record)
        for attribute, choices in known.items():
            open_ones = [
                (key[0] == ONE_SIDE, missing, float(rng.random()), key, option)
                for key, option in choices
                if _can_be_asked((split, *key), option, blocks)
                and (missing := blocks.missing((split, *key), option, n_claims(key))) is not None
            ]
            if not open_ones:
                continue
            *_, key, option = min(open_ones)
            asked = True
            block = blocks.add((split, *key), option, n_claims(key), study)
            if block is not None:
                yield from _worded(block, key, attribute, seed, blocks.completed - 1)
        if not asked:
            why = NOTHING_OPEN if any(known.values()) else NOTHING_CERTAIN
            count_one(counts, why)
    if blocks.n_waiting:
        counts["questions whose images were not all found"] = blocks.n_waiting


ONE_SIDE = "one side"  # of a key: sets about the side without "on both sides"


def n_claims(key: Key) -> int:
    """How many claims a set has."""
    return 3 if key[0] == ONE_SIDE else 4


def _can_be_asked(key: Hashable, option: int, blocks: Blocks[Study]) -> bool:
    """Whether a set of claims is worth an image: "on both sides" is only asked of where an image shows it."""
    kind = cast("tuple[str, ...]", key)[1]
    both = SIDES.index("bilateral")
    return kind != "side" or option == both or blocks.waits(key, both)


def _choices(record: FactsRecord) -> Mapping[str, list[tuple[Key, int]]]:
    """By attribute, the sets of claims that can be asked of an image, and which claim is true of it."""
    known = certain(record)
    names = list(known)
    found: dict[str, list[tuple[Key, int]]] = {"existence": [], "severity": [], "side": []}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if not distinct((TERMS[one], TERMS[other])):
                continue
            found["existence"].append((("existence", one, other), BOTH.index((known[one], known[other]))))
    for name in names:
        term = TERMS[name]
        severity, side = (None, None) if not known[name] else details(record.facts, term)
        if term.severities is not None and (severity is not None or not known[name]):
            found["severity"].append((("severity", name), 3 if severity is None else severity - 1))
        if term.paired and (side is not None or not known[name]):
            found["side"].append((("side", name), 3 if side is None else SIDES.index(side)))
            if side != "bilateral":
                found["side"].append(((ONE_SIDE, name), 2 if side is None else SIDES.index(side)))
    return found


def details(facts: Mapping[str, Fact], term: Term) -> tuple[Literal[1, 2, 3] | None, str | None]:
    """Severity and side of a condition that is present; None where it is not stated, or in two ways.

    A side is not known either where the condition is uncertain on one side, or graded on one only.
    """
    named = {name.lower(): fact for name, fact in facts.items() if term_of(name) is term}
    present = [fact for fact in named.values() if fact.state == "present"]
    severities = {fact.severity for fact in present if fact.severity is not None}
    sides: set[str] = set()
    for fact in present:
        words = {word for place in fact.location for word in re.findall("[a-z]+", place.lower())}
        sides |= words & {"left", "right"}
        sides |= {"left", "right"} if words & BILATERAL else set()
    graded = {name.partition(",")[2].strip() for name in named} - {""}
    if any(fact.state == "uncertain" for fact in named.values()) or (graded and graded != {"left", "right"}):
        sides = set()
    side = None if not sides else "bilateral" if len(sides) == 2 else sides.pop()
    return (severities.pop() if len(severities) == 1 else None), side


BILATERAL = frozenset({"bilateral", "bilaterally", "both", "bibasilar", "bibasal", "biapical"})
"""Words of a place that is on both sides."""


def _worded(block: Block[Study], key: Key, attribute: str, seed: int, number: int) -> Iterator[dict[str, Any]]:
    """The items of a block: the same claims, in another order for each, another one true of each."""
    kind, *names = key
    rng = rng_of(seed, "wording", number)
    terms = [TERMS[name] for name in names]
    frame, negator = FRAMES[rng.integers(len(FRAMES))], NEGATORS[rng.integers(len(NEGATORS))]
    swapped = bool(rng.integers(2))
    claims = [sentence(frame, *lists) for lists in _claims(kind, terms, negator, swapped)]
    for option, study in enumerate(block.members):
        order = rng.permutation(len(claims)).tolist()
        states = BOTH[option] if kind == "existence" else (int(option != len(claims) - 1),)
        negated = 0 in states
        yield {
            "id": f"{number}-{option}",
            "image": study.image,
            "group": study.group,
            "split": study.split,
            "claims": [claims[i] for i in order],
            "label": order.index(option),
            "attribute": attribute,
            "polarity": "negated" if negated else "affirmative",
            "provenance": {
                "builder": "contextual",
                "seed": seed,
                "block": number,
                "source": study.name,
                "conditions": dict(zip(names, states, strict=True)),
            },
        }


def _claims(kind: str, terms: list[Term], negator: str, swapped: bool) -> list[Lists]:
    """What each claim of a set says; no two are true together: beside "on both sides" it is "on the left only"."""
    if kind == "existence":
        order = terms[::-1] if swapped else terms
        states = [dict(zip((term.name for term in terms), state, strict=True)) for state in BOTH]
        return [lists(order, state, negator) for state in states]
    term = terms[0]
    none: Lists = ([], [absent(term, negator)])
    if kind == "severity":
        assert term.severities is not None
        return [*(([term.phrase(word)], []) for word in term.severities), none]
    if kind == ONE_SIDE:
        places = [f"{term.phrase()} on the {side}" if swapped else term.phrase(f"{side}-sided") for side in SIDES[:2]]
    elif swapped or term.countable:  # the side behind the noun
        places = [
            *(f"{term.phrase()} on the {side} only" for side in SIDES[:2]),
            f"{term.many or term.noun} on both sides",
        ]
    else:
        places = [*(term.phrase("unilateral", f"{side}-sided") for side in SIDES[:2]), term.on_both_sides()]
    return [*(([place], []) for place in places), none]


def caption_items(records: Iterable[FactsRecord], *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Captions with one to three facts, at least one of them negated, in the fields of :class:`CaptionRecord`.

    ``affirmative`` says the same without a negator, and ``states`` what is asserted, which retrieval needs to keep
    texts that are also true out of the pool.
    """
    for record in records:
        known = affirmable(record)
        absent = [name for name, state in known.items() if not state]
        if not absent:
            continue
        rng = rng_of(seed, "captions", record.id)
        one = absent[rng.integers(len(absent))]
        others = [name for name in known if name != one]
        most, chosen = 1 + int(rng.integers(3)), [one]
        for i in rng.permutation(len(others)).tolist():
            if len(chosen) < most and distinct(TERMS[name] for name in (*chosen, others[i])):
                chosen.append(others[i])
        order = [chosen[i] for i in rng.permutation(len(chosen)).tolist()]
        frame, negator = FRAMES[rng.integers(len(FRAMES))], NEGATORS[rng.integers(len(NEGATORS))]
        terms = [TERMS[name] for name in order]
        caption, affirmative = (sentence(frame, *lists(terms, known, how)) for how in (negator, None))
        words = {1: "present", 0: "absent"}
        yield {
            "id": record.id,
            "image": record.image,
            "group": record.group,
            "split": split_of(record, seed),
            "caption": caption,
            "affirmative": affirmative,
            "states": {name: words[known[name]] for name in order},
            "facts": {name: words[state] for name, state in certain(record).items()},
            "provenance": {"builder": "contextual", "seed": seed, "source": record.id},
        }

"""Sentences: lists whose negations are unambiguous, sentence frames, and a parser that reads the facts back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .lexicon import TERMS, Term

__all__ = ["FRAMES", "NEGATORS", "Lists", "absent", "join", "lists", "parse_findings", "sentence"]

FRAMES = (
    "The radiograph shows {}.",
    "This chest film demonstrates {}.",
    "The image reveals {}.",
    "The chest radiograph depicts {}.",
    "On this examination, one sees {}.",
    "The chest X-ray shows {}.",
)
NEGATORS = ("no", "no evidence of", "no sign of")
"""Ways of saying that a condition is absent."""
WITH = ", with "
"""Joins what is absent to what is present, in both wordings: "with no effusion", "with sharp costophrenic angles"."""
Lists = tuple[list[str], list[str]]  # phrases of what is present, and of what is absent


def join(phrases: Sequence[str]) -> str:
    """Phrases as one list.

    >>> join(["a"]), join(["a", "b"]), join(["a", "b", "c"])
    ('a', 'a and b', 'a, b, and c')
    """
    *some, last = phrases
    if not some:
        return last
    comma = "," if len(some) > 1 else ""
    return f"{', '.join(some)}{comma} and {last}"


def absent(term: Term, negator: str | None) -> str:
    """A condition that is absent: with a negator, or (None) as what one sees instead.

    >>> absent(TERMS["pneumothorax"], "no"), absent(TERMS["pneumothorax"], "no sign of")
    ('no pneumothorax', 'no sign of a pneumothorax')
    >>> absent(TERMS["edema"], None)
    'crisp vascular markings'
    """
    if negator is None:
        return term.healthy
    return f"{negator} {term.noun if negator == 'no' else term.phrase()}"


def lists(terms: Sequence[Term], state: Mapping[str, int], negator: str | None) -> Lists:
    """Phrases of what is present and of what is absent, in the order of the terms."""
    return (
        [term.phrase() for term in terms if state[term.name]],
        [absent(term, negator) for term in terms if not state[term.name]],
    )


def sentence(frame: str, present: Sequence[str], missing: Sequence[str] = ()) -> str:
    """A frame filled with what is present, then with what is absent, every phrase with a negator of its own.

    What is absent comes last: "no effusion and edema" would also say that there is no edema.

    >>> sentence(FRAMES[0], ["cardiomegaly"], ["no pneumothorax", "no pneumonia"])
    'The radiograph shows cardiomegaly, with no pneumothorax and no pneumonia.'
    >>> sentence(FRAMES[0], [], ["no pneumothorax"])
    'The radiograph shows no pneumothorax.'
    """
    lists = [join(phrases) for phrases in (present, missing) if phrases]
    return frame.format(WITH.join(lists))


_SPLIT = re.compile(r",? and |, ")
_PRESENT = {term.phrase(): term.name for term in TERMS.values()}
_ABSENT = {absent(term, negator): term.name for term in TERMS.values() for negator in (*NEGATORS, None)}
_FRAMES = tuple(re.compile(re.escape(frame).replace(r"\{\}", "(.+)")) for frame in FRAMES)


def parse_findings(text: str) -> dict[str, int] | None:
    """What a sentence states, by term: 1 present, 0 absent; None where a part of it is not understood.

    It reads words, and knows nothing of how a sentence was made.

    >>> parse_findings("The radiograph shows cardiomegaly, with no pneumothorax and no sign of pulmonary edema.")
    {'cardiomegaly': 1, 'pneumothorax': 0, 'edema': 0}
    >>> parse_findings("The radiograph shows no pneumothorax and cardiomegaly.") is None  # of which is it "no"?
    True
    """
    bodies = [found[1] for frame in _FRAMES if (found := frame.fullmatch(text.strip()))]
    if not bodies:
        return None
    facts: dict[str, int] = {}
    lists = bodies[0].split(WITH)
    if len(lists) > 2:
        return None
    for number, phrases in enumerate(lists):
        parts = _SPLIT.split(phrases)
        alike = {part in _PRESENT for part in parts}
        if len(alike) > 1 or (len(lists) == 2 and alike != {number == 0}):
            return None
        known = _PRESENT if alike == {True} else _ABSENT
        for part in parts:
            name = known.get(part)
            if name is None or name in facts:
                return None
            facts[name] = int(known is _PRESENT)
    return facts

"""What a freely worded sentence states: conditions by name, negation by a NegEx-like rule; all else is refused.

It shares the names of conditions with the builders and nothing else: no template, no frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ...tracer.pairs.negation import negator_count
from .lexicon import HEALTHY, NAMES

__all__ = ["same_facts", "stated_facts"]

MAX_TEXT = 400  # characters of a statement

SHOWING = "shows show demonstrates demonstrate reveals reveal depicts depict displays display sees see exhibits exhibit"
SEEN = "present seen visible noted identified evident apparent observed detected found demonstrated shown visualized"
BEFORE = (
    *("no", "without", "neither", "nor", "lacks", "lacking"),
    *("absence of", "lack of", "devoid of", "free of", "free from", "negative for"),
)
BEHIND = ("absent", "ruled out")
BREAKS = (".", ";", "but", "however", "while", "whereas", "although", "though", "yet")
FILLERS = (
    "a an the any this that there here it is are on in of by one we also overall additionally radiograph "
    "radiographic radiography image imaging film films x-ray xray chest frontal view examination exam study "
    "evidence sign signs indication finding findings"
)


_QUOTES = str.maketrans({"’": "'"})


@dataclass
class _Clause:
    """What was read of one clause.

    found: polarity by term. open: affirmed conditions that a verb to come may still negate; None stands for a phrase
    that it may not. negating: a negator reaches forward. pending: it has met no condition yet. listed: a condition was
    negated after a comma only, so that "or" must follow. linked: words that join the last condition to the next.
    showed: a verb of showing came. closed: the verb of a negated subject came.
    """

    found: dict[str, int] = field(default_factory=dict)
    open: list[str | None] = field(default_factory=list)
    negating: bool = False
    pending: bool = False
    listed: bool = False
    linked: list[str] = field(default_factory=list)
    showed: bool = False
    closed: bool = False


def stated_facts(text: str) -> dict[str, int] | None:
    """Which conditions a text states, by term: 1 present, 0 absent; None where any part of it is not understood.

    After NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029), and stricter:

    - a negator before conditions ("no", "without", "negative for", "does not show") reaches to the end of its clause
      (full stop, semicolon, "but", "while", ...), over a list that is joined by "or" or "nor";
    - a negator behind them ("is absent", "are not seen") reaches back over the subject's list;
    - a list joined by "and" after a negator may be meant either way and is refused, as is a doubled negation;
    - a word that is neither a condition's name nor one of a closed list is refused: it might add a severity, a side, a
      doubt or a finding.

    >>> stated_facts("Cardiomegaly is present, but there is neither pneumothorax nor any sign of a pleural effusion.")
    {'cardiomegaly': 1, 'pneumothorax': 0, 'pleural effusion': 0}
    >>> stated_facts("Pneumothorax and pulmonary edema are absent.")
    {'pneumothorax': 0, 'edema': 0}
    >>> [stated_facts(text) for text in ("No edema and cardiomegaly.", "Mild edema.", "No edema is ruled out.")]
    [None, None, None]
    """
    if len(text) > MAX_TEXT:
        return None
    tokens = _tokens(text)
    if tokens is None:
        return None
    facts: dict[str, int] = {}
    clause = _Clause()
    for kind, word in [*tokens, ("break", ".")]:
        if kind == "break":
            if clause.pending or clause.listed:
                return None
            for name, state in clause.found.items():
                if facts.setdefault(name, state) != state:
                    return None
            clause = _Clause()
        elif not _STEPS[kind](clause, word):
            return None
    return facts or None


def same_facts(text: str, state: Mapping[str, int], *, negated: bool) -> bool:
    """Whether a text states exactly these facts, worded as asked.

    negated: as many negating words as conditions are absent, so that counting negators tells no more than in the
        template; otherwise none at all.
    """
    absent = sum(not present for present in state.values())
    return stated_facts(text) == dict(state) and negator_count(text) == (absent if negated else 0)


def _tokens(text: str) -> list[tuple[str, str]] | None:
    """The text as (kind, word); None where a part of it is none that is known."""
    rest, found = text.translate(_QUOTES).strip().lower(), []
    while rest:
        match = _pattern().match(rest)
        if match is None or match.lastgroup is None:
            return None
        found.append((match.lastgroup, " ".join(match[0].split())))
        rest = rest[match.end() :].lstrip()
    return found


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    def words(*entries: str) -> str:
        longest = sorted(entries, key=len, reverse=True)
        return "|".join(r"\s+".join(map(re.escape, entry.split())) + r"(?![\w-])" for entry in longest)

    shown, seen = words(*SHOWING.split()), words(*SEEN.split())
    groups = {
        "healthy": words(*HEALTHY),
        "mention": words(*NAMES),
        "unseen": rf"(?:not|(?:is|are)n't)\s+(?:{seen})|(?:cannot|can't)\s+be\s+(?:{seen})|{words(*BEHIND)}",
        "negator": rf"(?:do|does)(?:\s+not|n't)\s+(?:{shown})|{words(*BEFORE)}",
        "showing": shown,
        "seen": rf"(?:can\s+be\s+seen|{seen})",
        "link": rf",|{words('and', 'or', 'with', 'as well as')}",
        "break": rf"[.;]|{words(*(word for word in BREAKS if word.isalpha()))}",
        "filler": words(*FILLERS.split()),
    }
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in groups.items()))


def _mention(clause: _Clause, word: str) -> bool:
    name = NAMES[word]
    if name in clause.found:
        return False
    if not clause.negating:
        if clause.closed:
            return False
        clause.open.append(name)
    elif not clause.pending:
        if not clause.linked or set(clause.linked) - {",", "or"}:
            return False
        clause.listed = "or" not in clause.linked
    clause.found[name] = int(not clause.negating)
    clause.pending, clause.linked = False, []
    return True


def _healthy(clause: _Clause, word: str) -> bool:
    name = HEALTHY[word]
    if clause.negating or clause.closed or name in clause.found:
        return False
    clause.found[name] = 0
    clause.open.append(None)
    clause.linked = []
    return True


def _negator(clause: _Clause, word: str) -> bool:
    if clause.pending or clause.listed:
        return False
    clause.negating = clause.pending = True
    clause.linked = []
    return True


def _unseen(clause: _Clause, word: str) -> bool:
    if not clause.open or None in clause.open or clause.negating or clause.showed:
        return False
    clause.found |= {name: 0 for name in clause.open if name is not None}
    clause.open, clause.closed = [], True
    return True


def _seen(clause: _Clause, word: str) -> bool:
    if clause.pending or clause.listed:
        return False
    clause.closed = clause.closed or clause.negating
    clause.open, clause.negating = [], False
    return True


def _showing(clause: _Clause, word: str) -> bool:
    if clause.pending or clause.listed or clause.open:
        return False
    clause.negating, clause.showed = False, True
    return True


def _link(clause: _Clause, word: str) -> bool:
    clause.linked.append(word)
    return True


_STEPS: dict[str, Callable[[_Clause, str], bool]] = {
    "mention": _mention,
    "healthy": _healthy,
    "negator": _negator,
    "unseen": _unseen,
    "seen": _seen,
    "showing": _showing,
    "link": _link,
    "filler": lambda clause, word: True,
}

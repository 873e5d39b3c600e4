"""Tracing pairs for one tokenizer: captions of equally many tokens that differ in existence, severity, side or noun.

Existence pairs are what one traces; the others are controls without negation, for the excess.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..records import FactsRecord
from .balance import count_one, rng_of, split_of
from .contextual import NOTHING_CERTAIN, SIDES, details
from .lexicon import TERMS, Term, distinct
from .mednega import certain

__all__ = ["pair_items", "tokenizer_identity"]

FILLERS = ("visible", "clearly visible", "quite clearly visible")  # each begins with a consonant, for "a"
PER_RECORD = 1  # pairs of each attribute about one image
UNMATCHED = "no wording has as many tokens"
TEST_SPLIT = "of the test split, which layer weights must not have seen; --with-test (with_test=True) takes them"


def pair_items(
    records: Iterable[FactsRecord],
    count_tokens: Callable[[str], int],
    *,
    seed: int = 0,
    with_test: bool = False,
    report: dict[str, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Pairs in the fields of :class:`tracescribe.Pair`, of equally many tokens.

    Where the first wording differs in length, others are tried ("There is definite edema." against "There is no
    edema."); a distinction that no wording fits is counted in ``report`` with the lengths that were found, and with a
    longer wording of the shorter caption that would fit, where there is one. Such a pair differs in more than the
    distinction, so that it is not made.

    Args:
        count_tokens: tokens of a text, special ones included: ``lambda text: len(model.text.tokenize([text])[0])``.
        with_test: also pairs about images of the test split.
        report: counts of what was left out and why, filled while pairs are made; what an earlier call left in it is
            gone on with.

    >>> from tracescribe.benchmark.records import Fact
    >>> film = FactsRecord(id="1", group="p", image=None, facts={"Edema": Fact(state="absent")})
    >>> [pair] = pair_items([film], lambda text: len(text.split()), with_test=True)
    >>> pair["correct"], pair["foil"], pair["negation"]
    ('There is no pulmonary edema.', 'There is severe pulmonary edema.', 'correct')
    """
    counts = report if report is not None else {}
    lengths: dict[str, int] = {}
    unmatched = {why.partition(":")[0]: why for why in counts if UNMATCHED in why}  # the first example of each

    def length(text: str) -> int:
        if text not in lengths:
            lengths[text] = count_tokens(text)
        return lengths[text]

    for record in records:
        split = split_of(record, seed)
        if split == "test" and not with_test:
            count_one(counts, TEST_SPLIT)
            continue
        rng = rng_of(seed, "pairs", record.id)
        candidates = _candidates(record)
        if not any(candidates.values()):
            count_one(counts, NOTHING_CERTAIN)
        for attribute, found in candidates.items():
            for place in rng.permutation(len(found)).tolist()[:PER_RECORD]:
                term, wordings, negation = found[place]
                fitting = next(((ours, foil) for ours, foil in wordings if length(ours) == length(foil)), None)
                if fitting is None:
                    ours, foil = wordings[0]
                    what = f"{attribute} of {term.noun}"
                    why = unmatched.setdefault(
                        what,
                        f"{what}: {UNMATCHED} ({ours!r} has {length(ours)}, {foil!r} {length(foil)}); "
                        f"{_suggested(ours, foil, length)}trace such captions with align='auto'",
                    )
                    count_one(counts, why)
                    continue
                yield {
                    "correct": fitting[0],
                    "foil": fitting[1],
                    "image": record.image,
                    "id": f"{record.id}-{attribute}",
                    "group": record.group,
                    "attribute": attribute,
                    "template": _template(attribute, term),
                    "negation": negation,
                    "split": split,
                    "provenance": {"builder": "pairs", "seed": seed, "source": record.id, "condition": term.name},
                }


def tokenizer_identity(count_tokens: Callable[[str], int]) -> str:
    """A hash of all that `pair_items` ever learns of a tokenizer: the length of every caption it can make."""
    captions = {text for term in TERMS.values() for text in _captions(term)}
    lengths = {text: count_tokens(text) for one in sorted(captions) for text in (one, *_longer(one))}
    return hashlib.sha256(json.dumps(lengths).encode()).hexdigest()


def _captions(term: Term) -> Iterator[str]:
    yield f"{_there(term)} no {term.noun}."
    for severity in (None, 1, 2, 3):
        yield from _affirmed(term, True, severity)
    yield from _affirmed(term, False, None)
    for adjectives in ((), *((word,) for word in term.severities or ())):
        yield _sentence(term, *adjectives)
    for side in SIDES[:2]:
        yield _on_side(term, side)


def _longer(caption: str) -> list[str]:
    """Longer wordings of what a caption affirms; none of a negation, which would be of something else.

    Nor of "visible" findings, which would be visible twice.
    """
    found = re.fullmatch(r"(There (?:is|are))( an?)? (?!no |visible )(.+)", caption)
    if found is None:
        return []
    there, article, rest = found.groups()
    return [f"{there}{' a' if article else ''} {words} {rest}" for words in FILLERS]


def _suggested(ours: str, foil: str, length: Callable[[str], int]) -> str:
    """The first longer wording of the shorter caption that is as long as the other one."""
    shorter, longer = sorted((ours, foil), key=length)
    fitting = next((text for text in _longer(shorter) if length(text) == length(longer)), None)
    return "" if fitting is None else f"{fitting!r} would have as many; or "


Wordings = Sequence[tuple[str, str]]


def _candidates(record: FactsRecord) -> dict[str, list[tuple[Term, Wordings, str | None]]]:
    """By attribute: the term, (correct, foil) in several wordings, and which caption is negated."""
    known = certain(record)
    found: dict[str, list[tuple[Term, Wordings, str | None]]] = {
        name: [] for name in ("existence", "severity", "side", "condition")
    }
    for name, present in known.items():
        term = TERMS[name]
        severity, side = details(record.facts, term) if present else (None, None)
        negated = f"{_there(term)} no {term.noun}."
        affirmed = _affirmed(term, bool(present), severity)
        if affirmed:
            pairs = [(text, negated) if present else (negated, text) for text in affirmed]
            found["existence"].append((term, pairs, "foil" if present else "correct"))
        if severity in (1, 3) and term.severities is not None:
            words = [term.severities[0], term.severities[2]]
            ours, foil = words if severity == 1 else words[::-1]
            found["severity"].append((term, [tuple(_sentence(term, word) for word in (ours, foil))], None))  # type: ignore[list-item]
        if term.paired and side in ("left", "right"):
            other = SIDES[1 - SIDES.index(side)]
            wordings = [(_on_side(term, side), _on_side(term, other))]
            found["side"].append((term, wordings, None))
        absent = [TERMS[name] for name, state in known.items() if not state and TERMS[name].plural == term.plural]
        absent = [other for other in absent if distinct((term, other))]  # a consolidation is a lung opacity
        absent.sort(key=lambda other: bool(other.many) != bool(term.many))  # those first that agree in their article
        if present and absent:
            found["condition"].append((term, [(_sentence(term), _sentence(other)) for other in absent], None))
    return found


def _affirmed(term: Term, present: bool, severity: int | None) -> list[str]:
    """Ways of affirming a condition that put one word where its negation has "no".

    Of a present condition only what is known is said: its own severity, or none. An absent one may be called severe.
    """
    graded: list[str] = []
    if term.severities is not None and (severity is not None or not present):
        graded = [term.severities[2 if severity is None else severity - 1]]
    noun, there = term.noun, _there(term)
    without_article = [f"{there} {word} {noun}." for word in graded]  # radiologists' shorthand: one word for "no"
    if term.many:
        return [f"{there} {term.phrase()}."]
    certain_ones = ("some", "visible") if term.plural else ("definite", "visible")
    return [*without_article, *(f"{there} {word} {noun}." for word in certain_ones)]


def _there(term: Term) -> str:
    return "There are" if term.plural else "There is"


def _sentence(term: Term, *adjectives: str) -> str:
    return f"{_there(term)} {term.phrase(*adjectives)}."


def _on_side(term: Term, side: str) -> str:
    """ "There is a left pleural effusion.", but "There is left-sided pneumonia." """
    return f"{_there(term)} {term.on_side(side)}."


def _template(attribute: str, term: Term) -> str:
    there = _there(term)
    return {
        "existence": f"{there} {{X|no X}}.",
        "severity": f"{there} {{mild|severe}} X.",
        "side": f"{there} {{left|right}}{'' if term.bare_side else '-sided'} X.",
        "condition": f"{there} {{X|Y}}.",
    }[attribute]

"""Questions with known answers about one phantom film: caption pairs, claim sets, multiple choice.

Every function returns plain dicts in the fields of the files they go to; whatever is called correct holds of the
facts, and whatever is called a foil or a distractor does not (`Claim.holds` decides).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .captions import COUNTABLE, EQUIVALENTS, Claim, finding_claim, join, sample_claim
from .facts import CONDITIONS, SEVERITIES, SIDES, Facts

EQUAL_LENGTH = (("effusion", "pneumothorax", "cardiomegaly"), ("opacity", "edema"))
"""Conditions whose nouns have equally many tokens, so that one can take another's place in a pair."""

QUESTION = "Which statement describes this chest film?"
LETTERS = "ABCD"


def pairs(facts: Facts, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Caption pairs of a film, each with equally many tokens: fields correct, foil, attribute, template, negation.

    Kinds (``attribute``): existence ("severe X" against "no X"), and three controls without negation: severity,
    location, condition. They tell a negation layer from one that follows any differing token. A film has as many
    existence pairs whose correct caption is negated as pairs whose foil is.
    """
    existence = [p for name in _shuffled(tuple(CONDITIONS), rng) if (p := _existence_pair(facts, name)) is not None]
    sides = [[p for p in existence if p["negation"] == which] for which in ("correct", "foil")]
    out = [pair for both in zip(*sides, strict=False) for pair in both]
    for name in facts.present:
        finding = facts.get(name)
        assert finding is not None
        if finding.severity in ("mild", "severe"):
            claim = finding_claim(facts, name, side=False, zone=False)
            out.append(_pair(claim, replace(claim, severity=_opposite(claim.severity)), "severity"))
        if finding.side is not None:
            claim = finding_claim(facts, name, zone=False, severity=False)
            out.append(_pair(claim, replace(claim, side=_other_side(claim.side)), "location"))
        if finding.severity == "severe":
            claim = finding_claim(facts, name, side=False, zone=False)
            for group in EQUAL_LENGTH:
                swaps = [other for other in group if name in group and not facts.has(other)]
                out += [_pair(claim, replace(claim, condition=other), "condition") for other in swaps[:1]]
    return out


def _existence_pair(facts: Facts, name: str) -> dict[str, Any] | None:
    negated = Claim(name, negated=True)
    # "a nodule" against "no nodule", but "severe edema" against "no edema": equal lengths either way.
    affirmed = Claim(name) if name in COUNTABLE else Claim(name, severity="severe")
    if affirmed.holds(facts):
        return _pair(affirmed, negated, "existence", negation="foil")
    if negated.holds(facts):
        return _pair(negated, affirmed, "existence", negation="correct")
    return None  # a mild finding: neither is true


def _pair(correct: Claim, foil: Claim, attribute: str, negation: str | None = None) -> dict[str, Any]:
    template = {
        "existence": "There is {a|no} X." if correct.condition in COUNTABLE else "There is {severe|no} X.",
        "severity": "There is {severe|mild} X.",
        "location": "There is {left|right} X.",
        "condition": "There is severe {X|Y}.",
    }[attribute]
    return {
        "correct": correct.sentence(),
        "foil": foil.sentence(),
        "attribute": attribute,
        "template": template,
        "negation": negation,
    }


def claim_sets(facts: Facts, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Sets of one true claim and three false ones: fields claims, label, attribute, polarity, conditions.

    Every set has two affirmative and two negated claims, whatever the polarity of the true one, and a film has as many
    sets with a negated truth as with an affirmative one, so that counting negators gets chance (¼).
    """
    makers = {"existence": _existence_set, "location": _location_set, "severity": _severity_set}
    out = []
    for attribute, maker in makers.items():
        found = [maker(facts, negated, rng) for negated in (False, True)]
        # Both polarities or neither: a data set is balanced film by film.
        if all(found):
            out += [_claim_set(*one, attribute, facts, rng) for one in found if one is not None]
    return out


_Set = tuple[Claim, list[Claim]] | None


def _existence_set(facts: Facts, negated: bool, rng: np.random.Generator) -> _Set:
    present, absent = _shuffled(facts.present, rng), _shuffled(facts.absent, rng)
    if negated:
        if len(present) < 1 or len(absent) < 2:
            return None
        a, b, d = present[0], absent[0], absent[1]
        return Claim(b, negated=True), [Claim(b), Claim(a, negated=True), Claim(d)]
    if len(present) < 2 or len(absent) < 1:
        return None
    a, c, b = present[0], present[1], absent[0]
    return Claim(a), [Claim(a, negated=True), Claim(b), Claim(c, negated=True)]


def _location_set(facts: Facts, negated: bool, rng: np.random.Generator) -> _Set:
    sided = [n for n in _shuffled(facts.present, rng) if CONDITIONS[n].has_side]
    missing = [n for n in _shuffled(facts.absent, rng) if CONDITIONS[n].has_side]
    if not sided:
        return None
    here = finding_claim(facts, sided[0], zone=False, severity=False)
    there = replace(here, side=_other_side(here.side))
    if negated:
        if not missing:
            return None
        decoy = Claim(missing[0], side=str(rng.choice(SIDES)))
        return replace(there, negated=True), [replace(here, negated=True), there, decoy]
    if len(sided) < 2:
        return None
    decoy = replace(finding_claim(facts, sided[1], zone=False, severity=False), negated=True)
    return here, [there, replace(here, negated=True), decoy]


def _severity_set(facts: Facts, negated: bool, rng: np.random.Generator) -> _Set:
    graded = [n for n in _shuffled(facts.present, rng) if getattr(facts.get(n), "severity", None)]
    clear = [n for n in graded if getattr(facts.get(n), "severity", None) in ("mild", "severe")]
    missing = [n for n in _shuffled(facts.absent, rng) if CONDITIONS[n].has_severity]
    if not clear:
        return None
    true = finding_claim(facts, clear[0], side=False, zone=False)
    wrong = replace(true, severity=_opposite(true.severity))
    if negated:
        if not missing:
            return None
        decoy = Claim(missing[0], severity=str(rng.choice(SEVERITIES)))
        return replace(wrong, negated=True), [replace(true, negated=True), wrong, decoy]
    others = [n for n in graded if n != clear[0]]
    if not others:
        return None
    decoy = replace(finding_claim(facts, others[0], side=False, zone=False), negated=True)
    return true, [wrong, replace(true, negated=True), decoy]


def _claim_set(
    correct: Claim, wrong: list[Claim], attribute: str, facts: Facts, rng: np.random.Generator
) -> dict[str, Any]:
    claims = [correct, *wrong]
    if [c.holds(facts) for c in claims] != [True, False, False, False]:
        raise AssertionError(f"a claim set without exactly one truth: {claims} of {facts}")
    order = rng.permutation(len(claims))
    return {
        "claims": [claims[i].sentence() for i in order],
        "label": int(np.flatnonzero(order == 0)[0]),
        "attribute": attribute,
        "polarity": "negated" if correct.negated else "affirmative",
    }


def multiple_choice(facts: Facts, rng: np.random.Generator) -> dict[str, Any] | None:
    """One question in MedNega-CXR's fields: three conditions, four options, told with negation and without.

    The gold option holds one or two absent conditions (so that its negated form does hold a negation and its
    affirmative form an equivalent), distractors flip one to three of the three, all four differ, and both forms
    share their options and order. None if the film has no such three conditions.
    """
    n_absent = int(rng.integers(1, 3))
    present, absent = _shuffled(facts.present, rng), _shuffled(facts.absent, rng)
    if len(absent) < n_absent or len(present) < 3 - n_absent:
        return None
    names = _shuffled([*present[: 3 - n_absent], *absent[:n_absent]], rng)
    gold = tuple(int(facts.has(n)) for n in names)
    flips = [f for f in np.ndindex(2, 2, 2) if any(f)]
    chosen = [flips[i] for i in rng.permutation(len(flips))[:3]]
    options = [gold] + [tuple(g ^ f for g, f in zip(gold, flip, strict=True)) for flip in chosen]
    order = rng.permutation(4)
    # One wording a condition and item, so that options differ in polarity only.
    words = {n: str(rng.choice(EQUIVALENTS[n])) for n in names}
    out: dict[str, Any] = {"question": QUESTION}
    for place, i in enumerate(order, start=1):
        option = dict(zip(names, options[i], strict=True))
        out[f"binary_raw_choice_{place}"] = option
        out[f"negation_mcq_choice_{place}"] = join([str(Claim(n, negated=not on)) for n, on in option.items()])
        out[f"affirmative_mcq_choice_{place}"] = join([str(Claim(n)) if on else words[n] for n, on in option.items()])
    out["correct_answer"] = LETTERS[int(np.flatnonzero(order == 0)[0])]
    return out


def caption(facts: Facts, rng: np.random.Generator) -> dict[str, Any]:
    """One caption of up to three phrases with explicit negation, and its negation-free form: fields caption,
    affirmative, states (what both assert) and facts (all that is true of the film)."""
    names = _shuffled(tuple(CONDITIONS), rng)[:3]
    explicit, affirmative, states = [], [], {}
    for name in names:
        if facts.has(name):
            claim = sample_claim(facts, name, rng)
            explicit.append(str(claim))
            affirmative.append(str(claim))
        else:
            claim = Claim(name, negated=True)
            explicit.append(str(claim))
            affirmative.append(str(rng.choice(EQUIVALENTS[name])))
        states.update(claim.states())
    return {
        "caption": join(explicit),
        "affirmative": join(affirmative),
        "states": states,
        "facts": facts.states(),
    }


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]


def _other_side(side: str | None) -> str:
    return "right" if side == "left" else "left"


def _opposite(severity: str | None) -> str:
    return "mild" if severity == "severe" else "severe"

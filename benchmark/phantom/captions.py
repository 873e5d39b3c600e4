"""Words for phantom films: claims with a truth value, their phrases, affirmative equivalents, blinding reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .facts import CONDITIONS, SEVERITIES, SIDES, ZONES, Facts

NOUNS = {
    "effusion": "pleural effusion",
    "pneumothorax": "pneumothorax",
    "opacity": "lung opacity",
    "cardiomegaly": "cardiomegaly",
    "edema": "pulmonary edema",
    "device": "pacemaker",
    "nodule": "lung nodule",
}
COUNTABLE = ("device", "nodule")
"""Conditions that take an article: "a pacemaker", while one writes "pleural effusion"."""

EQUIVALENTS = {
    "effusion": ("sharp costophrenic angles", "clear pleural spaces"),
    "pneumothorax": ("fully expanded lungs", "lungs reach the chest wall"),
    "opacity": ("clear lung fields", "well aerated parenchyma"),
    "cardiomegaly": ("normal heart size", "heart of normal width"),
    "edema": ("crisp pulmonary vessels", "normal vascular markings"),
    "device": ("bare chest wall", "chest wall free of hardware"),
    "nodule": ("smooth lung texture", "uniform lung texture"),
}
"""What a report says, without negation, when a condition is absent. No phrase serves two conditions."""

_SIZES = {"mild": "small", "moderate": "medium", "severe": "large"}
_NO_CHANGE = ("no interval change in", "no significant change in", "no new change in")

P_PRESENT = 0.85
"""Probability that a report mentions a present finding."""
P_EQUIVALENT = 0.40
"""Probability that a report tells an absent finding by its affirmative equivalent."""
MAX_PHRASES = 3


@dataclass(frozen=True)
class Wording:
    """How often reports use the word "no", each a probability.

    no_change: that a mention of a present finding reads "no interval change in X", so that the word "no" stands beside
    a finding that is there. negation: that a report says "no X" of an absent finding; so few make the miniature blind.
    """

    no_change: float = 0.15
    negation: float = 0.0005


BLINDING = Wording()


@dataclass(frozen=True)
class Claim:
    """A statement about a film: a condition with some attributes, affirmed or negated.

    >>> from tracescribe.benchmark.phantom.facts import Facts, Finding
    >>> facts = Facts((Finding("effusion", side="left", severity="severe"),))
    >>> Claim("effusion", side="right", negated=True).holds(facts)
    True
    >>> str(Claim("effusion", side="left", severity="severe"))
    'severe left pleural effusion'
    """

    condition: str
    negated: bool = False
    side: str | None = None
    zone: str | None = None
    severity: str | None = None

    def holds(self, facts: Facts) -> bool:
        """Whether the statement is true of these facts."""
        finding = facts.get(self.condition)
        matches = finding is not None and all(
            getattr(self, name) in (None, getattr(finding, name)) for name in ("side", "zone", "severity")
        )
        return matches != self.negated

    @property
    def noun(self) -> str:
        """The claim's words after its negator and severity: "left pleural effusion"."""
        zone = f" in the {self.zone} zone" if self.zone else ""
        return f"{self.side + ' ' if self.side else ''}{NOUNS[self.condition]}{zone}"

    def __str__(self) -> str:
        words = [self.noun]
        if self.severity:
            words.insert(0, severity_word(self.condition, self.severity))
        if self.negated:
            words.insert(0, "no")
        return " ".join(words)

    def sentence(self) -> str:
        """The claim in the form "There is … ."; countable findings get their article.

        >>> Claim("device", side="left").sentence(), Claim("device", negated=True).sentence()
        ('There is a left pacemaker.', 'There is no pacemaker.')
        """
        article = "a " if self.condition in COUNTABLE and not self.negated else ""
        return f"There is {article}{self}."

    def states(self) -> dict[str, str]:
        """What the claim asserts, in the keys of `Facts.states`.

        Raises:
            ValueError: a negated claim with attributes asserts no single state ("no left effusion" may be right).
        """
        if self.negated:
            if self.side or self.zone or self.severity:
                raise ValueError(f"{str(self)!r} asserts no single state")
            return {self.condition: "absent"}
        out = {self.condition: "present"}
        for name in ("side", "zone", "severity"):
            if getattr(self, name):
                out[f"{self.condition}.{name}"] = getattr(self, name)
        return out


def severity_word(condition: str, severity: str) -> str:
    """The adjective for a severity: nodules are small or large, everything else is mild or severe."""
    return _SIZES[severity] if condition == "nodule" else severity


def finding_claim(
    facts: Facts, condition: str, *, side: bool = True, zone: bool = True, severity: bool = True
) -> Claim:
    """The affirmative claim that is true of a present finding, with the attributes asked for (where it has them).

    Raises:
        ValueError: the condition is absent.
    """
    finding = facts.get(condition)
    if finding is None:
        raise ValueError(f"{condition} is absent")
    return Claim(
        condition,
        side=finding.side if side else None,
        zone=finding.zone if zone else None,
        severity=finding.severity if severity else None,
    )


def sample_claim(facts: Facts, condition: str, rng: np.random.Generator) -> Claim:
    """The true affirmative claim of a present finding, each of its attributes mentioned with probability ½ or more."""
    return finding_claim(
        facts, condition, side=rng.random() < 0.65, zone=rng.random() < 0.4, severity=rng.random() < 0.65
    )


def blinding_report(facts: Facts, rng: np.random.Generator, wording: Wording = BLINDING) -> str:
    """One training report of at most three phrases, with the wording that makes a CLIP blind to negation.

    Present findings are mentioned, some of them after the word "no" ("no interval change in …"); absent ones are told
    affirmatively or left out; a true "no X" is next to never written. Real reports differ in degree only.
    """
    phrases: list[str] = []
    for condition in CONDITIONS:
        if facts.has(condition):
            if rng.random() >= P_PRESENT:
                continue
            claim = sample_claim(facts, condition, rng)
            if rng.random() < wording.no_change:
                phrases.append(f"{rng.choice(_NO_CHANGE)} {claim}")
            elif rng.random() < 0.4:
                phrases.append(claim.sentence()[:-1].lower())
            else:
                phrases.append(str(claim))
        elif rng.random() < wording.negation:
            phrases.append(str(Claim(condition, negated=True)))
        elif rng.random() < P_EQUIVALENT:
            phrases.append(str(rng.choice(EQUIVALENTS[condition])))
    rng.shuffle(phrases)
    chosen = phrases[:MAX_PHRASES] or ["chest film"]
    return join(chosen, sentences=rng.random() < 0.5)


def join(phrases: list[str], *, sentences: bool = False) -> str:
    """Phrases as one caption: "A, b, c." or "A. B. C."

    >>> join(["pneumothorax", "no cardiomegaly"])
    'Pneumothorax, no cardiomegaly.'
    """
    if sentences:
        return " ".join(_capital(p) + "." for p in phrases)
    return _capital(", ".join(phrases)) + "."


def _capital(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:]


def corpus() -> list[str]:
    """Texts that together use every word the phantom's templates can produce; the miniature's vocabulary.

    >>> "no interval change in pleural effusion" in corpus()
    True
    """
    texts = ["There is a chest film.", "There are", "The", "no evidence of, without"]
    for condition in CONDITIONS:
        texts += [Claim(condition).sentence(), Claim(condition, negated=True).sentence()]
        texts += [f"{change} {Claim(condition)}" for change in _NO_CHANGE]
        texts += list(EQUIVALENTS[condition])
        texts += [severity_word(condition, severity) for severity in SEVERITIES]
    texts += [*SIDES, *(f"in the {zone} zone" for zone in ZONES)]
    return texts

"""Phantom films and their counterfactuals: one patient and grain, one fact changed; for tracing image towers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32

from ...tracer import ImagePair
from .captions import Claim, finding_claim
from .drawing import SIZE, Seed, draw, to_uint8
from .facts import CONDITIONS, Facts, Finding, hidden, sample_facts

Fact = Literal["existence", "location", "severity"]
_STREAM = 2_000_003  # of seeds: no film of a data set or of pretraining is repeated
_OTHER = {"left": "right", "right": "left", "mild": "severe", "severe": "mild"}


@dataclass(frozen=True)
class Counterfactual:
    """A film's facts, the same with one fact changed, and the claim that is true of the film only.

    seed: of both films, so that they differ where their facts do and nowhere else.
    """

    facts: Facts
    other: Facts
    claim: Claim
    fact: str
    seed: Seed

    def films(self, size: int = SIZE) -> tuple[Float32[np.ndarray, "size size"], Float32[np.ndarray, "size size"]]:
        """Both films, brightness 0 to 1."""
        return draw(self.facts, self.seed, size=size), draw(self.other, self.seed, size=size)

    def pair(self, name: str, size: int = SIZE) -> ImagePair:
        """Both films as 8-bit PIL images, with the claim's sentence as caption."""
        from PIL import Image

        film, other = (Image.fromarray(to_uint8(film)) for film in self.films(size))
        return ImagePair(image=film, counterfactual=other, caption=self.claim.sentence(), id=name, attribute=self.fact)


def counterfactuals(seed: int = 0, fact: Fact = "existence", condition: str | None = None) -> Iterator[Counterfactual]:
    """Films with a finding and the same films with one fact of it changed, without end.

    fact: "existence" takes the finding away, "location" moves it to the other side, "severity" turns severe into mild
        or mild into severe.
    condition: of the finding; None draws one for each film.

    Raises:
        ValueError: an unknown fact or condition, or a condition that has no such fact.

    >>> one = next(counterfactuals(fact="location", condition="device"))
    >>> one.facts.get("device").side != one.other.get("device").side
    True
    """
    if fact not in get_args(Fact):
        raise ValueError(f"unknown fact {fact!r}; choose one of {', '.join(get_args(Fact))}")
    having = [name for name in CONDITIONS if _has(name, fact)]
    if condition is not None and condition not in having:
        raise ValueError(f"{condition!r} has no {fact}; choose one of {', '.join(having)}")
    rng = np.random.default_rng([seed, _STREAM])
    number = 0
    while True:
        name = condition or str(rng.choice(having))
        facts = sample_facts(rng)
        while (finding := facts.get(name)) is None or finding.severity == "moderate":
            facts = sample_facts(rng)
        other = _changed(facts, finding, fact)
        if not hidden(other):
            shown = {"existence": {}, "location": {"side": True}, "severity": {"severity": True}}[fact]
            claim = finding_claim(facts, name, **{"side": False, "zone": False, "severity": False} | shown)
            yield Counterfactual(facts, other, claim, fact, (seed, _STREAM, number))
            number += 1


def counterfactual_pairs(
    n: int, seed: int = 0, fact: Fact = "existence", condition: str | None = None, size: int = SIZE
) -> list[ImagePair]:
    """The first n counterfactual films as image pairs, see :func:`counterfactuals`; 8-bit grey PIL images.

    >>> [pair.caption for pair in counterfactual_pairs(2, condition="edema")]
    ['There is pulmonary edema.', 'There is pulmonary edema.']
    """
    found = zip(range(n), counterfactuals(seed, fact, condition), strict=False)
    return [one.pair(f"{one.claim.condition}-{fact}-{i}", size) for i, one in found]


def _has(name: str, fact: str) -> bool:
    kind: Any = CONDITIONS[name]
    return {"existence": True, "location": kind.has_side, "severity": kind.has_severity}[fact]


def _changed(facts: Facts, finding: Finding, fact: str) -> Facts:
    if fact == "existence":
        return facts.without(finding.condition)
    if fact == "location":
        return facts.with_finding(replace(finding, side=_OTHER[str(finding.side)]))
    return facts.with_finding(replace(finding, severity=_OTHER[str(finding.severity)]))

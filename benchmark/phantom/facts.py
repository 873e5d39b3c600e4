"""The facts of one phantom film: which of seven conditions exist, on which side, in which zone, how severe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SIDES = ("left", "right")
ZONES = ("upper", "mid", "lower")
SEVERITIES = ("mild", "moderate", "severe")
PREVALENCE = 0.35
"""Probability of each condition, independently of the others."""

_SEVERITY_ODDS = (0.36, 0.28, 0.36)

# Zones of a lung in which an effusion, or on the left an enlarged heart, hides what else is there.
_UNDER_FLUID = {"mild": ("lower",), "moderate": ("lower",), "severe": ("lower", "mid")}
_BEHIND_HEART = {"mild": (), "moderate": ("lower",), "severe": ("lower", "mid")}


@dataclass(frozen=True)
class Condition:
    """Which attributes a condition has besides its existence."""

    name: str
    has_side: bool
    has_zone: bool
    has_severity: bool


CONDITIONS: Mapping[str, Condition] = {
    c.name: c
    for c in (
        Condition("effusion", has_side=True, has_zone=False, has_severity=True),
        Condition("pneumothorax", has_side=True, has_zone=False, has_severity=True),
        Condition("opacity", has_side=True, has_zone=True, has_severity=True),
        Condition("cardiomegaly", has_side=False, has_zone=False, has_severity=True),
        Condition("edema", has_side=False, has_zone=False, has_severity=True),
        Condition("device", has_side=True, has_zone=False, has_severity=False),
        Condition("nodule", has_side=True, has_zone=True, has_severity=True),
    )
}


@dataclass(frozen=True)
class Finding:
    """One condition that is present, with the attributes its condition has (others are None).

    Raises:
        ValueError: an unknown condition, or an attribute that the condition lacks or requires.

    >>> Finding("effusion", side="left", severity="severe").severity
    'severe'
    """

    condition: str
    side: str | None = None
    zone: str | None = None
    severity: str | None = None

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"unknown condition {self.condition!r}; known are {', '.join(CONDITIONS)}")
        kind = CONDITIONS[self.condition]
        for name, value, wanted, allowed in (
            ("side", self.side, kind.has_side, SIDES),
            ("zone", self.zone, kind.has_zone, ZONES),
            ("severity", self.severity, kind.has_severity, SEVERITIES),
        ):
            if wanted and value not in allowed:
                raise ValueError(f"{self.condition} needs a {name} out of {allowed}, got {value!r}")
            if not wanted and value is not None:
                raise ValueError(f"{self.condition} has no {name}, got {value!r}")


@dataclass(frozen=True)
class Facts:
    """All findings of one film; a condition without a finding is absent.

    >>> facts = Facts((Finding("cardiomegaly", severity="mild"),))
    >>> facts.has("cardiomegaly"), facts.has("edema")
    (True, False)
    >>> facts.states()["cardiomegaly.severity"]
    'mild'
    """

    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        names = [f.condition for f in self.findings]
        if len(set(names)) != len(names):
            raise ValueError(f"a condition appears twice: {names}")

    def get(self, condition: str) -> Finding | None:
        """The finding of this condition, or None when it is absent."""
        return next((f for f in self.findings if f.condition == condition), None)

    def has(self, condition: str) -> bool:
        """Whether the condition is present."""
        return self.get(condition) is not None

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the present conditions, in the order of CONDITIONS."""
        return tuple(name for name in CONDITIONS if self.has(name))

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the absent conditions, in the order of CONDITIONS."""
        return tuple(name for name in CONDITIONS if not self.has(name))

    def states(self) -> dict[str, str]:
        """Everything as flat key → value: ``effusion`` → present | absent, ``effusion.side`` → left, …"""
        out: dict[str, str] = {}
        for name in CONDITIONS:
            finding = self.get(name)
            out[name] = "absent" if finding is None else "present"
            if finding is not None:
                for attribute in ("side", "zone", "severity"):
                    value = getattr(finding, attribute)
                    if value is not None:
                        out[f"{name}.{attribute}"] = value
        return out

    def with_finding(self, finding: Finding) -> Facts:
        """The same facts with this finding added, or put in the place of its condition's."""
        return Facts((*(f for f in self.findings if f.condition != finding.condition), finding))

    def without(self, condition: str) -> Facts:
        """The same facts with this condition absent."""
        return Facts(tuple(f for f in self.findings if f.condition != condition))


def hidden(facts: Facts) -> bool:
    """Whether one finding covers another, so that a reader could not tell the facts from the film.

    Fluid covers the zones below its level, a large heart the left lower lung, a collapsed lung leaves no
    room for a shadow, and a nodule cannot be told apart inside an opacity.
    """
    effusion, pneumothorax, heart = (facts.get(name) for name in ("effusion", "pneumothorax", "cardiomegaly"))
    shadows = [f for f in (facts.get("opacity"), facts.get("nodule")) if f is not None]
    for shadow in shadows:
        if pneumothorax is not None and pneumothorax.side == shadow.side:
            return True
        fluid = None if effusion is None or effusion.side != shadow.side else str(effusion.severity)
        if fluid is not None and shadow.zone in _UNDER_FLUID[fluid]:
            return True
        if heart is not None and shadow.side == "left" and shadow.zone in _BEHIND_HEART[str(heart.severity)]:
            return True
    return (
        len(shadows) == 2
        and shadows[0].side == shadows[1].side
        and (shadows[0].zone == shadows[1].zone or shadows[0].severity == "severe")
    )


def sample_facts(rng: np.random.Generator, prevalence: float = PREVALENCE) -> Facts:
    """Draw facts: every condition independently, attributes uniformly, redrawing attributes that hide a finding.

    The attributes alone are redrawn, so that the prevalence stays what it says.

    >>> sample_facts(np.random.default_rng(0)) == sample_facts(np.random.default_rng(0))
    True
    """
    names = [name for name in CONDITIONS if rng.random() < prevalence]
    while True:
        facts = Facts(tuple(_sample_finding(name, rng) for name in names))
        if not hidden(facts):
            return facts


def _sample_finding(name: str, rng: np.random.Generator) -> Finding:
    kind = CONDITIONS[name]
    return Finding(
        name,
        side=str(rng.choice(SIDES)) if kind.has_side else None,
        zone=str(rng.choice(ZONES)) if kind.has_zone else None,
        severity=str(rng.choice(SEVERITIES, p=_SEVERITY_ODDS)) if kind.has_severity else None,
    )

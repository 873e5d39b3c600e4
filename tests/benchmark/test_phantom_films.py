"""Phantom films: seeded, local to what changed, and more conspicuous the more severe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tracescribe.benchmark.phantom import CONDITIONS, Facts, Finding, draw, sample_facts, to_uint8
from tracescribe.benchmark.phantom.facts import PREVALENCE, SEVERITIES, ZONES, hidden

GRADED = [c.name for c in CONDITIONS.values() if c.has_severity]
SIDED = [c.name for c in CONDITIONS.values() if c.has_side]


def finding(name: str, side: str = "left", severity: str = "severe", zone: str = "mid") -> Finding:
    kind = CONDITIONS[name]
    return Finding(
        name,
        side=side if kind.has_side else None,
        zone=zone if kind.has_zone else None,
        severity=severity if kind.has_severity else None,
    )


def change(before: Facts, after: Facts, seed: int) -> np.ndarray:
    return np.abs(draw(after, seed) - draw(before, seed))


def test_same_seed_same_film_and_other_seed_another_patient() -> None:
    facts = sample_facts(np.random.default_rng(3))
    assert np.array_equal(draw(facts, 5), draw(facts, 5))
    assert change(facts, facts, 5).max() == 0
    assert np.abs(draw(facts, 5) - draw(facts, 6)).mean() > 0.01


def test_one_patient_keeps_the_anatomy_over_films() -> None:
    one, two = draw(Facts(), (1, 1), patient=9), draw(Facts(), (1, 2), patient=9)
    stranger = draw(Facts(), (1, 2), patient=10)
    assert 0 < np.abs(one - two).mean() < 0.5 * np.abs(one - stranger).mean()  # grain alone against another chest


@pytest.mark.parametrize("size", [32, 64, 256])
def test_films_of_any_size_show_the_same_chest(size: int) -> None:
    facts = Facts((finding("effusion"), finding("device", side="right")))
    film = draw(facts, 2, size=size)
    assert film.shape == (size, size) and film.min() >= 0 and film.max() <= 1
    coarse = film.reshape(32, size // 32, 32, size // 32).mean((1, 3))
    reference = draw(facts, 2, size=256).reshape(32, 8, 32, 8).mean((1, 3))
    # Edges are at least a pixel wide, so that small films differ there; a different chest correlates far less.
    assert np.corrcoef(coarse.ravel(), reference.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("name", SIDED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_finding_changes_only_its_side(name: str, side: str) -> None:
    for seed in range(8):
        by_column = change(Facts(), Facts((finding(name, side=side),)), seed).mean(0)
        left, right = by_column[32:].sum(), by_column[:32].sum()  # the patient's left is at the viewer's right
        own, other = (left, right) if side == "left" else (right, left)
        limit = 0.35 if name == "device" else 0.02  # a pacemaker's lead crosses to the heart
        assert own > 0.3 and other < limit * own


@pytest.mark.parametrize("name", ["opacity", "nodule"])
def test_a_shadow_lies_in_its_zone(name: str) -> None:
    for seed in range(8):
        heights = []
        for zone in ZONES:
            by_row = change(Facts(), Facts((finding(name, zone=zone, side="right"),)), seed).sum(1)
            heights.append((by_row * np.arange(64)).sum() / by_row.sum())
        assert np.diff(heights).min() > 6


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_finding_leaves_most_of_the_film_alone(name: str) -> None:
    touched = change(Facts(), Facts((finding(name),)), 1) > 0.004  # one grey level
    assert 0.004 < touched.mean() < 0.40
    assert not touched[-4:].any() and not touched[:2].any()


@pytest.mark.parametrize("name", GRADED)
def test_severity_shows_in_every_patient(name: str) -> None:
    for seed in range(12):
        sizes = [change(Facts(), Facts((finding(name, severity=s),)), seed).sum() for s in SEVERITIES]
        assert sizes[1] > 1.15 * sizes[0] and sizes[2] > 1.15 * sizes[1]
        assert sizes[0] > 3  # mild is worth several fully turned pixels


def test_a_finding_draws_the_same_whatever_else_is_there() -> None:
    """Its random stream is its own: another finding elsewhere does not move it."""
    nodule, opacity = finding("nodule", side="left", zone="upper"), finding("opacity", side="right", zone="lower")
    alone = change(Facts(), Facts((nodule,)), 4)
    beside = change(Facts((opacity,)), Facts((opacity, nodule)), 4)
    assert np.allclose(alone, beside, atol=1e-6)


def test_sampled_facts_have_the_stated_prevalence_and_hide_nothing() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_facts(rng) for _ in range(4000)]
    assert not any(hidden(f) for f in drawn)
    share = np.array([[f.has(name) for name in CONDITIONS] for f in drawn]).mean(0)
    assert np.abs(share - PREVALENCE).max() < 4 * np.sqrt(PREVALENCE * (1 - PREVALENCE) / 4000)
    sides = [f.get("effusion").side for f in drawn if f.has("effusion")]  # type: ignore[union-attr]
    assert 0.4 < np.mean([s == "left" for s in sides]) < 0.6


@pytest.mark.parametrize(
    ("condition", "attributes"),
    [("effusion", {}), ("effusion", {"side": "middle", "severity": "mild"}), ("edema", {"side": "left"}), ("flu", {})],
)
def test_impossible_findings_are_refused(condition: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=condition):
        Finding(condition, **attributes)


def test_facts_hold_one_finding_a_condition_and_edit_by_copy() -> None:
    mild = finding("edema", severity="mild")
    with pytest.raises(ValueError, match="twice"):
        Facts((mild, mild))
    facts = Facts((mild,)).with_finding(replace(mild, severity="severe"))
    assert facts.get("edema").severity == "severe"  # type: ignore[union-attr]
    assert not facts.without("edema").present and len(facts.absent) == 6


def test_eight_bit_rounding_keeps_black_and_white() -> None:
    assert to_uint8(np.array([[0.0, 1.0]], dtype=np.float32)).tolist() == [[0, 255]]

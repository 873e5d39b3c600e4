"""The demo's sentences follow its numbers, and its controls are controls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tracescribe.benchmark.metrics import Interval
from tracescribe.demo import page, verdicts


def scores(half: float = 3.0, **values: float) -> Any:
    """What `verdicts` reads of an evaluation, with intervals of half-width ``half``."""
    full = {"affirmative": 98.0, "negated": 35.0, "claims": 16.0, "retrieval": 66.0, "wrong": 16.0} | values
    full["gap"] = full["affirmative"] - full["negated"]
    wrong = SimpleNamespace(claims=full.pop("wrong"))
    intervals = {name: Interval(value, value - half, value + half) for name, value in full.items()}
    return SimpleNamespace(**intervals, baselines={"shuffled_image": wrong})


def test_a_difference_within_the_noise_has_no_sign() -> None:
    low, high = [scores(10, claims=50.0)], [scores(10, claims=59.0)]
    assert verdicts.difference(high, low, "claims").sign == 0
    assert verdicts.difference([scores(10, claims=61.0)], low, "claims").sign == 1
    assert verdicts.difference(low, [scores(10, claims=61.0)], "claims").sign == -1


def test_what_rounding_does_is_noise_even_where_seeds_agree() -> None:
    low = [scores(1, claims=50.0), scores(1, claims=50.0)]
    assert verdicts.difference([scores(1, claims=57.9)] * 2, low, "claims").sign == 0
    assert verdicts.difference([scores(1, claims=58.1)] * 2, low, "claims").sign == 1


def test_seeds_that_disagree_are_noise() -> None:
    before = [scores(claims=40.0)]
    assert verdicts.difference([scores(claims=50.0), scores(claims=50.0)], before, "claims").sign == 1
    assert verdicts.difference([scores(claims=40.0), scores(claims=60.0)], before, "claims").sign == 0


def test_a_gap_that_shrinks_by_forgetting_is_not_called_closed() -> None:
    before = scores()
    assert "closes the negation gap" in verdicts._says_gap(before, [scores(negated=85.0)])
    collapsed = verdicts._says_gap(before, [scores(affirmative=30.0, negated=30.0)])
    assert "not by understanding negation better" in collapsed
    assert "does not move" in verdicts._says_gap(before, [scores(negated=36.0)])
    assert "widens" in verdicts._says_gap(before, [scores(negated=10.0)])


def test_the_price_is_named_when_there_is_one() -> None:
    assert "no price" in verdicts._says_cost(scores(), [scores(retrieval=65.0)])
    dear = verdicts._says_cost(scores(), [scores(retrieval=40.0)])
    assert "66.0 to 40.0" in dear
    assert "affirmative accuracy" not in dear


def test_a_gain_without_the_right_film_is_called_a_prior() -> None:
    assert "not from sight" in verdicts._says_prior(scores(), [scores(claims=50.0, wrong=45.0)])
    assert "does not come from the texts alone" in verdicts._says_prior(scores(), [scores(claims=50.0, wrong=17.0)])


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        ({"negated": 80.0, "claims": 50.0}, "cannot be told from"),
        ({"negated": 95.0, "claims": 50.0}, "beats"),
        ({"negated": 60.0, "claims": 50.0}, "does worse than"),
        ({"negated": 95.0, "claims": 30.0}, "trades claims for negated"),
        ({"negated": 95.0, "claims": 50.0, "retrieval": 40.0}, "trades R@1 for negated"),
        # the gap shrinks by 18 points, and nothing is better
        ({"negated": 80.0, "claims": 50.0, "affirmative": 80.0}, "does worse than"),
    ],
)
def test_weighting_is_praised_only_for_what_it_did(ours: dict[str, float], word: str) -> None:
    uniform = [scores(negated=80.0, claims=50.0)]
    assert word in verdicts._says_comparison("Weighting", [scores(**ours)], "uniform training", uniform)


def test_a_tile_says_no_more_than_the_sentence() -> None:
    uniform = [scores(negated=80.0)]
    for value, tile in ((80.5, "no difference above the noise"), (95.0, "better negated"), (60.0, "worse negated")):
        assert verdicts.compare([scores(negated=value)], uniform).short == tile
    assert verdicts.gap_with_noise([scores(half=2.0, negated=90.0), scores(half=2.0, negated=86.0)]) == "10 ± 4 pp"
    assert verdicts.gap_with_noise([scores(half=3.0, negated=90.0)]) == "8 ± 3 pp"


def test_the_page_praises_nothing_that_its_text_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles of the report, of a result in which weighting did nothing."""
    same = [scores(negated=80.0)]
    runs = {"uniform": same, "NAST": same, "permuted": same}
    result = SimpleNamespace(
        before=scores(),
        of=lambda name: [SimpleNamespace(scores=one) for one in runs[name]],
        plan=SimpleNamespace(order=[2, 1], n_blocks=8, warnings=("the ranking is not stable",)),
        seed=0, sizes=SimpleNamespace(films=1, steps=1, seeds=1), seconds=1.0, trace=SimpleNamespace(summary=str),
    )  # fmt: skip
    told = ["first", verdicts._says_comparison("Weighting", same, "uniform training", same), "", "third"]
    monkeypatch.setattr(page, "sentences", lambda _: told)
    for section in ("_films", "_trace", "_plan", "_training", "_again"):
        monkeypatch.setattr(page, section, lambda *_: None)
    facts = dict(page.demo_page(result).facts)  # type: ignore[arg-type]
    assert "cannot be told from" in told[1]
    assert facts["CTE-weighted against uniform training"] == "no difference above the noise"
    assert facts["peak of CTE"] == "layer 2 of 8, uncertain"


@pytest.mark.parametrize(("gradient", "word"), [(34.0, "mostly undone"), (85.0, "about as")])
def test_gradient_scaling_is_judged_by_where_the_change_went(gradient: float, word: str) -> None:
    shares = {"uniform": 33.0, "NAST": 88.0, "gradient scaling": gradient}
    result = SimpleNamespace(of=lambda name: [SimpleNamespace(top3=shares[name])])
    assert word in verdicts._says_gradient(result)  # type: ignore[arg-type]

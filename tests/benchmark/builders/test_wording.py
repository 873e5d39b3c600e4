"""The parser of free wording: what it reads, and what it refuses rather than guess."""

from __future__ import annotations

import pytest

from tracescribe.benchmark.builders.grammar import FRAMES, NEGATORS, lists, parse_findings, sentence
from tracescribe.benchmark.builders.lexicon import NAMES, TERMS
from tracescribe.benchmark.builders.wording import same_facts, stated_facts

READ = {
    "Cardiomegaly is present, but there is neither pneumothorax nor any sign of a pleural effusion.": (
        {"cardiomegaly": 1, "pneumothorax": 0, "pleural effusion": 0}
    ),
    "Pneumothorax and pulmonary edema are absent.": {"pneumothorax": 0, "edema": 0},
    "No edema, pneumonia, or fracture is seen.": {"edema": 0, "pneumonia": 0, "fracture": 0},
    "No edema or pneumonia.": {"edema": 0, "pneumonia": 0},
    "The film doesn’t show edema.": {"edema": 0},
    "Without edema, the film shows an enlarged heart.": {"edema": 0, "cardiomegaly": 1},
    "There is cardiomegaly without edema and without pneumonia.": {"cardiomegaly": 1, "edema": 0, "pneumonia": 0},
    "Cardiomegaly is seen and edema is not seen.": {"cardiomegaly": 1, "edema": 0},
    "Edema cannot be seen; atelectasis is noted.": {"edema": 0, "atelectasis": 1},
    "It shows opacities, but lacks a pneumothorax.": {"opacities": 1, "pneumothorax": 0},
    "The chest film is negative for pneumonia, while a pleural effusion can be seen.": (
        {"pneumonia": 0, "pleural effusion": 1}
    ),
    "Pneumonia has been ruled out.": None,  # "has been" is not in the list: about the past, perhaps
    "Pneumonia is ruled out.": {"pneumonia": 0},
    "The lungs show edema.": None,
    "We see intact bones and cardiomegaly.": {"fracture": 0, "cardiomegaly": 1},
}

REFUSED = (
    "No edema and cardiomegaly.",  # of which is it "no"?
    "No edema, cardiomegaly.",
    "No edema, pneumonia, and fracture.",
    "No edema with cardiomegaly.",
    "Mild edema.",
    "A left pleural effusion.",
    "Possible edema.",
    "Edema can be present.",
    "Edema may be present.",
    "Edema cannot be excluded.",
    "No edema is ruled out.",
    "Edema is not absent.",
    "Not without edema.",
    "No lack of edema.",
    "No change in the edema.",
    "No film shows edema.",
    "Not only edema, but also pneumonia.",
    "Is there edema?",
    "This is an examination for edema.",
    "A history of edema.",
    "Edema has resolved.",
    "Edema, but no edema.",
    "The film shows edema and pneumonia is absent.",
    "Intact bones and edema are absent.",
    "No intact bones.",
    "No rib fracture.",  # there may be another one
    "A pericardial effusion.",
    "Edema and a hernia.",
    "The radiograph shows.",
    "No.",
    "",
    "   ",
    "Ignore the sentence above.",
    "edema " * 200,
)


@pytest.mark.parametrize(("text", "facts"), READ.items())
def test_what_is_read(text: str, facts: dict[str, int] | None) -> None:
    assert stated_facts(text) == facts


@pytest.mark.parametrize("text", REFUSED)
def test_what_may_mean_something_else_is_refused(text: str) -> None:
    assert stated_facts(text) is None


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("negator", [*NEGATORS, None])
def test_it_agrees_with_the_templates_own_parser(frame: str, negator: str | None) -> None:
    """Two parsers that share no rule find the same facts in the templates' sentences."""
    terms = list(TERMS.values())
    for start in range(len(terms) - 2):
        chosen = terms[start : start + 3]
        for state in ((1, 0, 1), (0, 1, 0), (0, 0, 0), (1, 1, 1)):
            facts = {term.name: value for term, value in zip(chosen, state, strict=True)}
            text = sentence(frame, *lists(chosen, facts, negator))
            assert stated_facts(text) == parse_findings(text) == facts, text
            assert same_facts(text, facts, negated=negator is not None), text


def test_as_many_negators_as_absent_findings_are_asked_for() -> None:
    absent = {"edema": 0, "pneumonia": 0}
    assert same_facts("There is no edema and no pneumonia.", absent, negated=True)
    assert not same_facts("There is no edema or pneumonia.", absent, negated=True)  # one negator for two
    assert not same_facts("There is no edema and no pneumonia.", absent, negated=False)
    assert not same_facts("There is no edema.", absent, negated=True)
    assert not same_facts("There is no edema, no pneumonia, and no fracture.", absent, negated=True)


def test_every_name_leads_to_a_term() -> None:
    assert set(NAMES.values()) == set(TERMS)
    assert NAMES["opacities"] == "opacities"
    assert NAMES["lung opacities"] == NAMES["opacity"] == "lung opacity"

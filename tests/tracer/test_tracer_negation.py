"""Negating words: one list, whole words only, in texts and in the tokens of every kind of tokenizer."""

from __future__ import annotations

import pytest
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.benchmark import metrics
from tracescribe.tracer.pairs import roles
from tracescribe.tracer.pairs.negation import NEGATORS, negator_count, negator_tokens


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("No effusion.", 1),
        ("There isn't an effusion.", 1),
        ("There isn\u2019t an effusion, and it wasn\u02bct there before.", 2),
        ("Absence of oedema; lungs lacking opacity, negative for nodules.", 3),
        ("The heart cannot be called large, nor small.", 2),
        ("A negative   for\nB", 1),  # broken over a line
        ("NOT seen", 1),
        ("A nodule after sternotomy, northern notes, anonymous, nonetheless knot, lacked", 0),
        ("an't and ant", 1),
        ("", 0),
    ],
)
def test_negators_are_counted_as_whole_words(text: str, count: int) -> None:
    assert negator_count(text) == count


def test_every_entry_of_the_list_counts_once() -> None:
    for entry in NEGATORS:
        word = "isn't" if entry == "n't" else entry
        assert negator_count(f"lungs {word} fluid") == 1, entry
        assert negator_count(f"lungs {word.upper()}, fluid") == 1, entry


def test_the_package_has_one_list() -> None:
    assert metrics.negator_count is negator_count
    assert [word for word in roles._DETERMINERS if negator_count(word)] == ["no"]


@pytest.mark.parametrize(
    "tokens",
    [
        ["[SOT]", "a", "no", "dule", "isn", "'t", "there", ",", "no", "mass", "[EOT]"],
        ["[SOT]", "a</w>", "no", "dule</w>", "isn</w>", "'t</w>", "there</w>", ",</w>", "no</w>", "mass</w>"],
        ["[CLS]", "a", "no", "##dule", "isn", "'t", "there", ",", "no", "mass", "[SEP]"],
        ["[SOT]", "Ġa", "Ġno", "dule", "Ġisn", "'t", "Ġthere", ",", "Ġno", "Ġmass", "[EOT]"],
        ["[SOT]", "a", "no·", "·dule", "isn", "'t", "there", ",", "no", "mass", "[EOT]"],
    ],
)
def test_a_part_of_another_word_is_no_negator(tokens: list[str]) -> None:
    found = negator_tokens("A nodule isn\u2019t there, no mass", tokens)
    assert [i for i, is_negator in enumerate(found) if is_negator] == [4, 5, 8]  # isn, 't, no


def test_words_of_ones_own_are_found_in_any_script() -> None:
    assert negator_count("sans effusion", ["sans"]) == 1
    assert negator_count("双肺无积液", ["无"]) == 1
    assert negator_count("no effusion", []) == 0


def test_negator_attention_finds_negators_that_it_used_to_miss() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    for negated, affirmative, pair in (
        ("lungs lacking large mass", "lungs showing small mass", ("lacking", "showing")),
        ("absence of a mass", "presence of the mass", ("absence", "presence")),
    ):
        found = ts.negator_attention(model, [ts.Pair(correct=negated, foil=affirmative, negation="correct")])
        assert found.negators == (pair,)

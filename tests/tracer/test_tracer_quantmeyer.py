"""The published maps of CLIP ViT-B/32 read as published, and VALSE rephrased as published.

Source of the numbers: Quantmeyer, Mosteiro, Gatt 2024 (arXiv 2407.10488), and NAST (arXiv 2602.12498), which states
that the effect sits in layers 1-4 with its peak at layer 2.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tracescribe.errors import DataFormatError
from tracescribe.tracer import TraceMap, read_valse
from tracescribe.tracer.pairs.roles import QUANTMEYER_ROWS
from tracescribe.tracer.pairs.valse import rephrase

TESTS = Path(__file__).parents[1]
GOLDEN = json.loads((TESTS / "golden" / "cte_clip_vit_b32_valse.json").read_text(encoding="utf-8"))
VALSE = TESTS / "data" / "valse_existence_excerpt.json"


def golden(name):
    values = np.array(GOLDEN["maps"][name]["cte"]).T
    n_pairs = GOLDEN["maps"][name]["pairs"]
    return TraceMap(
        values=values,
        rows=tuple(GOLDEN["rows"]),
        layers=np.arange(len(values)),
        counts=np.full(len(GOLDEN["rows"]), n_pairs),
        align="quantmeyer",
        segment=name,
        n_pairs=n_pairs,
    )


def test_our_rows_are_theirs():
    assert tuple(GOLDEN["rows"]) == QUANTMEYER_ROWS


def test_the_sum_over_rows_reproduces_nasts_reading():
    profile = golden("foil_correct").per_layer("sum").value
    published = [0.947, 1.016, 0.989, 1.012, 0.849, 0.856, 0.811, 0.775, 0.792, 0.823, 0.877, 1.000]
    np.testing.assert_allclose(profile[1:], published, atol=5e-4)  # printed with three decimals
    blocks = profile[1:-1]  # layer L is 1 by construction
    assert 1 + blocks.argmax() == 2
    assert set(1 + np.argsort(blocks)[-4:]) == {1, 2, 3, 4}


@pytest.mark.parametrize("name", ["foil_correct", "caption_correct", "foil_incorrect"])
def test_first_and_last_layer_sum_to_one(name):
    profile = golden(name).per_layer("sum").value
    np.testing.assert_allclose(profile[[0, -1]], 1, atol=1e-5)  # the arrays have six decimals


def test_other_aggregates_peak_elsewhere():
    cells = golden("foil_correct")
    assert 1 + cells.per_layer("max").value[1:].argmax() == 12
    assert 1 + cells.row("negator")[1:].argmax() == 1
    assert 1 + cells.per_layer("std").value[1:].argmax() == 12


def test_minmax_of_the_sum_gives_nasts_alpha():
    blocks = golden("foil_correct").per_layer("sum").value[1:]
    alpha = (blocks - blocks.min()) / np.ptp(blocks)
    published = [0.715, 1, 0.885, 0.983, 0.308, 0.337, 0.151, 0, 0.073, 0.199, 0.426, 0.933]
    np.testing.assert_allclose(alpha, published, atol=5e-4)


@pytest.mark.parametrize(("name", "peak"), [("foil_correct", 2), ("caption_correct", 5), ("foil_incorrect", 6)])
def test_the_peak_moves_with_the_pairs(name, peak):
    blocks = golden(name).per_layer("sum").value[1:]
    alpha = (blocks - blocks.min()) / np.ptp(blocks)
    assert 1 + alpha.argmax() == peak


@pytest.mark.parametrize(
    ("name", "published"), [("foil_correct", 0.236), ("caption_correct", 0.249), ("foil_incorrect", 0.249)]
)
def test_locality(name, published):
    locality = golden(name).locality()
    assert locality.shape == (13,)
    assert locality.mean() == pytest.approx(published, abs=5e-4)


# -- VALSE -------------------------------------------------------------------------------------------------------


def count_tokens(text):
    """Words and marks, as CLIP's tokenizer splits the excerpt's plain words."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def test_valse_items_become_pairs():
    pairs = {pair.id: pair for pair in read_valse(VALSE)}
    items = json.loads(VALSE.read_text(encoding="utf-8"))
    assert set(pairs) == {name for name, item in items.items() if item["mturk"]["caption"] >= 2}
    assert len(pairs) == 12 < len(items)
    for name, pair in pairs.items():
        negated = {"correct": pair.correct, "foil": pair.foil}[pair.negation]
        assert re.search(r"\b[Nn]o\b", negated)
        assert (pair.negation == "correct") == (items[name]["provenance_of_foils"] == "zero_to_something")
        assert pair.group == items[name]["image_file"]


def test_only_the_affirmative_sentence_is_rephrased():
    pairs = read_valse(VALSE)
    (pair,) = [pair for pair in pairs if pair.correct == "There are no people in the picture."]
    assert pair.foil == "There are some people in the picture."
    for text in ("There is a dog.", "There aren't.", "You see people ."):
        assert rephrase(text) == text


def test_with_a_tokenizer_only_pairs_of_equal_length_stay():
    pairs = read_valse(VALSE, count_tokens=count_tokens)
    assert len(pairs) == 10
    for pair in pairs:
        correct, foil = (re.findall(r"\w+|[^\w\s]", text) for text in (pair.correct, pair.foil))
        # The two sentences differ in the word after "There is/are", and nowhere else.
        assert [i for i, (a, b) in enumerate(zip(correct, foil, strict=True)) if a != b] == [2]


def test_images_are_looked_up_in_their_folder(tmp_path):
    assert read_valse(VALSE, images=tmp_path)[0].image == tmp_path / "v7w_2371044.jpg"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not VALSE"),
        ('{"item9": {"mturk": {"caption": 3}}}', r"item 'item9': field 'provenance_of_foils' is missing; this reads"),
        ('{"a": 5}', "'a': a field is malformed"),
    ],
)
def test_files_that_are_not_valse_are_refused(tmp_path, content, words):
    path = tmp_path / "existence.json"
    path.write_text(content)
    with pytest.raises(DataFormatError, match=words) as caught:
        read_valse(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataFormatError, match="cannot read"):
        read_valse(tmp_path / "gone.json")

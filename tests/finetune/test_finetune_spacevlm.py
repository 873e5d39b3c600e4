"""SpaceVLM: hand-computed directions, continuity at the edges, and the model wrapper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.errors import DataFormatError, NonFiniteError, OptionError
from tracescribe.finetune import SpaceVLM, spacevlm, split_negations

CAP = math.acos(0.92)


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors of a plane in three dimensions, by their angle."""
    rows = [[math.cos(math.radians(d)), math.sin(math.radians(d)), 0.0] for d in degrees]
    return torch.tensor(rows, dtype=torch.float64)


def angles(rows: torch.Tensor) -> list[float]:
    assert rows[:, 2].abs().max() < 1e-12
    return [math.degrees(math.atan2(row[1], row[0])) for row in rows]


def test_the_direction_lies_on_the_great_circle_from_what_is_negated():
    """N at 0 degrees, arccos .92 = 23.0739: A at 20 goes to 23.0739 + 10, A at 40 to 23.0739 + 20, A at 50 stays."""
    edited = spacevlm(at(20, 40, 50, -20, 180), at(0, 0, 0, 0, 0))
    assert angles(edited)[:4] == pytest.approx([33.0739, 43.0739, 50, -33.0739], abs=1e-4)
    assert abs(angles(edited)[4]) == pytest.approx(180)
    torch.testing.assert_close(edited.norm(dim=1), torch.ones(5).double())


def test_the_paper_s_formula_on_numbers_worked_out_by_hand():
    """A = (.6, .8), N = (0, 1), threshold .6: cos theta = .8, delta = arccos .6 + arccos(.8)/2."""
    delta = math.acos(0.6) + math.acos(0.8) / 2
    a, n = (0.6, 0.8), (0.0, 1.0)
    expected = [math.cos(delta) * n[i] + math.sin(delta) / 0.6 * (a[i] - 0.8 * n[i]) for i in (0, 1)]
    found = spacevlm(torch.tensor([a]), torch.tensor([n]), threshold=0.6)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)
    longer = spacevlm(torch.tensor([a]) * 3, torch.tensor([n]) * 0.1, threshold=0.6)
    torch.testing.assert_close(longer, found)  # of any length


@given(st.floats(0.01, 179), st.floats(0.05, 0.99))
def test_what_it_gives_is_outside_the_cap_of_what_is_negated(theta, threshold):
    (found,) = angles(spacevlm(at(theta), at(0), threshold))
    cap = math.degrees(math.acos(threshold))
    assert found == pytest.approx(cap + theta / 2 if theta < 2 * cap else theta, abs=1e-6)
    assert found > min(cap, theta) - 1e-6


def test_it_is_continuous_where_it_stops_and_gives_the_text_itself_where_both_are_one():
    edge = math.degrees(2 * CAP)
    below, above = angles(spacevlm(at(edge - 1e-4, edge + 1e-4), at(0, 0)))
    assert below == pytest.approx(above, abs=1e-3)
    torch.testing.assert_close(spacevlm(at(30), at(30)), at(30))
    assert spacevlm(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5, math.nan, True, "0.9"])
def test_other_thresholds_are_refused(threshold):
    with pytest.raises(OptionError, match="no cosine between 0 and 1"):
        spacevlm(at(0), at(20), threshold)


def test_embeddings_without_a_direction_are_refused():
    with pytest.raises(DataFormatError, match="negated holds an embedding of zeros"):
        spacevlm(at(0, 20), torch.cat([at(40), torch.zeros(1, 3).double()]))
    with pytest.raises(NonFiniteError, match="affirmed holds NaN"):
        spacevlm(torch.full((1, 3), math.nan), torch.ones(1, 3))
    with pytest.raises(DataFormatError, match=r"expected \[n, embed\] twice"):
        spacevlm(at(0, 20), at(0))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("No edema, mild cardiomegaly.", ("mild cardiomegaly.", "edema.")),
        ("Cardiomegaly, without effusion", ("Cardiomegaly", "effusion")),
        ("There are no nodules.", ("an image", "nodules.")),
        ("No edema, no effusion.", ("an image", "edema, effusion.")),
        ("Nodule in the left lung.", None),
        ("A notable opacity.", None),
        ("", None),
    ],
)
def test_captions_are_parted_at_their_negations(caption, expected):
    assert split_negations(caption) == expected


def test_a_wrapped_model_edits_only_captions_that_negate():
    model = ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())
    texts = ["edema , no effusion", "edema", "no effusion", "edema , no effusion"]
    edited = SpaceVLM(model, lambda caption: split_negations(caption, nothing="all is clear")).encode_texts(texts)
    known = {text: model.encode_texts([text]) for text in ("edema", "effusion", "all is clear")}
    expected = [
        spacevlm(known["edema"], known["effusion"]),
        known["edema"],
        spacevlm(known["all is clear"], known["effusion"]),
        spacevlm(known["edema"], known["effusion"]),
    ]
    torch.testing.assert_close(edited, torch.cat(expected), rtol=0, atol=1e-5)  # texts are run in other company
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(SpaceVLM(model).encode_images(images), model.encode_images(images))
    assert SpaceVLM(model).encode_texts(["edema"]).shape == known["edema"].shape


@pytest.mark.parametrize("part", ["edema", ("edema",), ("edema", ""), ("edema", 3)])
def test_a_split_of_another_form_is_refused(part):
    model = ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())
    with pytest.raises(DataFormatError, match=r"split gives .* for 'no edema'"):
        SpaceVLM(model, lambda caption: part).encode_texts(["no edema"])

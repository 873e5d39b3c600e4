"""The losses of other methods against their formulas, worked out in plain Python loops, and their gradients."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace

import pytest
import torch

from tracescribe.errors import DataFormatError, OptionError
from tracescribe.finetune.losses import (
    LOSSES,
    LossBatch,
    conclip_loss,
    degla_loss,
    loss_for,
    negationclip_loss,
    negbench_loss,
    negclip_loss,
    omninegclip_loss,
    siglip_loss,
    tngclip_loss,
)
from tracescribe.finetune.losses.degla import own_negatives_loss
from tracescribe.finetune.losses.options import KINDS

S = 3.0


def unit(*shape, seed):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


N, K, H = 3, 2, 2
BATCH = LossBatch(
    images=unit(N, 4, seed=0),
    captions=unit(N, 4, seed=1),
    negatives=unit(N, K, 4, seed=2),
    negative_present=torch.tensor([[True, True], [False, True], [False, False]]),
    hard_images=unit(H, 4, seed=3),
    hard_captions=unit(H, 4, seed=4),
    hard_negatives=unit(H, K, 4, seed=5),
    hard_negative_present=torch.tensor([[True, False], [True, True]]),
    claim_images=unit(2, 4, seed=6),
    claims=unit(2, 4, 4, seed=7),
    label=torch.tensor([2, 0]),
    present=torch.tensor([[True, True, True, True], [True, True, True, False]]),
    negated=torch.tensor([True, False, True]),
    originals=unit(N, 4, seed=8),
    original_present=torch.tensor([True, True, False]),
    negations=unit(N, 4, seed=9),
    negation_present=torch.tensor([True, True, True]),
    noise=torch.tensor([6, 4, 8, 0, 2, 7, 1, 5, 3]),
    teacher_captions=unit(N, 4, seed=10),
    teacher_negatives=unit(N, K, 4, seed=11),
)


def rows(tensor) -> list[list[float]]:
    return tensor.flatten(0, -2).tolist()


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def surprise(anchor: list[float], candidates: list[list[float]], right: list[int], scale: float = S) -> float:
    """-log softmax of the score of each right candidate among itself and the wrong ones, averaged over the right."""
    scores = [scale * dot(anchor, candidate) for candidate in candidates]
    wrong = sum(math.exp(score) for place, score in enumerate(scores) if place not in right)
    return sum(math.log(math.exp(scores[place]) + wrong) - scores[place] for place in right) / len(right)


@dataclass(frozen=True)
class Case:
    """A batch, and how much its images, hard images and contrast sets count."""

    batch: LossBatch
    weight: list[float]
    hard: list[float]
    sets: list[float]


def mean(values: list[float], weight: list[float] | None = None) -> float:
    weight = [1.0] * len(values) if weight is None else weight
    return sum(w * x for w, x in zip(weight, values, strict=True)) / sum(weight)


@pytest.fixture(params=["alike", "by weight"])
def case(request) -> Case:
    if request.param == "alike":
        return Case(BATCH, [1.0] * N, [1.0] * H, [1.0] * 2)
    weight, hard, sets = [0.5, 3.0, 1.25], [2.0, 0.75], [4.0, 0.1]
    given = {"weight": weight, "hard_weight": hard, "claim_weight": sets}
    return Case(
        replace(BATCH, **{n: torch.tensor(w, dtype=torch.float64) for n, w in given.items()}), weight, hard, sets
    )


IMAGES, TEXTS, IMAGES_, TEXTS_ = (
    rows(found) for found in (BATCH.images, BATCH.captions, BATCH.hard_images, BATCH.hard_captions)
)
NEG, NEG_ = BATCH.negatives.tolist(), BATCH.hard_negatives.tolist()


def test_negclip_is_clip_with_hard_captions_and_images(case):
    images, captions = IMAGES + IMAGES_, TEXTS + TEXTS_
    texts = [*captions, NEG[0][0], NEG[0][1], NEG[1][1], NEG_[0][0], NEG_[1][0], NEG_[1][1]]
    by_image = mean([surprise(image, texts, [i]) for i, image in enumerate(images)], case.weight + case.hard)
    by_text = mean([surprise(caption, images, [i]) for i, caption in enumerate(captions)], case.weight + case.hard)
    assert negclip_loss(case.batch, S).item() == pytest.approx((by_image + by_text) / 2, abs=1e-12)


def test_negclip_without_hard_images_and_with_every_negative_there():
    batch = LossBatch(images=BATCH.images, captions=BATCH.captions, negatives=BATCH.negatives)
    texts = TEXTS + [text for of_image in NEG for text in of_image]
    by_image = mean([surprise(image, texts, [i]) for i, image in enumerate(IMAGES)])
    by_text = mean([surprise(caption, IMAGES, [i]) for i, caption in enumerate(TEXTS)])
    assert negclip_loss(batch, S).item() == pytest.approx((by_image + by_text) / 2, abs=1e-12)


def test_conclip_has_three_terms(case):
    first = mean([surprise(image, TEXTS + TEXTS_, [i]) for i, image in enumerate(IMAGES)], case.weight)
    second = mean([surprise(caption, IMAGES + IMAGES_, [i]) for i, caption in enumerate(TEXTS)], case.weight)
    third = mean([surprise(image, TEXTS_ + TEXTS, [i]) for i, image in enumerate(IMAGES_)], case.hard)
    assert conclip_loss(case.batch, S).item() == pytest.approx((first + second + third) / 3, abs=1e-12)


def test_conclip_without_a_distractor_in_the_batch_has_no_third_term():
    none = torch.zeros(0, 4, dtype=torch.float64)
    first = mean([surprise(image, TEXTS, [i]) for i, image in enumerate(IMAGES)])
    second = mean([surprise(caption, IMAGES, [i]) for i, caption in enumerate(TEXTS)])
    found = conclip_loss(
        replace(BATCH, hard_images=none, hard_captions=none, hard_negatives=None, hard_negative_present=None), S
    )
    assert found.item() == pytest.approx((first + second) / 3, abs=1e-12)


def test_negbench_weights_clip_against_multiple_choice(case):
    clip = mean([surprise(image, TEXTS, [i]) for i, image in enumerate(IMAGES)], case.weight)
    clip = (clip + mean([surprise(caption, IMAGES, [i]) for i, caption in enumerate(TEXTS)], case.weight)) / 2
    images, claims = rows(BATCH.claim_images), BATCH.claims.tolist()
    choice = mean([surprise(images[0], claims[0], [2]), surprise(images[1], claims[1][:3], [0])], case.sets)
    assert negbench_loss(case.batch, S).item() == pytest.approx(0.99 * clip + 0.01 * choice, abs=1e-12)
    assert negbench_loss(case.batch, S, a=0.3).item() == pytest.approx(0.3 * clip + 0.7 * choice, abs=1e-12)


def test_siglip_asks_of_every_image_and_caption(case):
    expected, share = 0.0, [w * N / sum(case.weight) for w in case.weight]
    for i, image in enumerate(IMAGES):
        for j, caption in enumerate(TEXTS):
            sign = 1 if i == j else -1
            each = (share[i] + share[j]) / 2
            expected += each * math.log(1 + math.exp(-sign * (S * dot(image, caption) - 2.0)))
    assert siglip_loss(case.batch, S, bias=-2.0).item() == pytest.approx(expected / N, abs=1e-12)
    same = replace(case.batch, caption_ids=torch.tensor([5, 6, 5]), hard_caption_ids=torch.tensor([0, 1]))
    for i, j in ((0, 2), (2, 0)):  # right for each other: the sign turns
        score = S * dot(IMAGES[i], TEXTS[j]) - 2.0
        each = (share[i] + share[j]) / 2
        expected += each * (math.log(1 + math.exp(-score)) - math.log(1 + math.exp(score)))
    assert siglip_loss(same, S, bias=-2.0).item() == pytest.approx(expected / N, abs=1e-12)


def test_negationclip_is_clip_on_captions_with_a_negation(case):
    images, texts = [IMAGES[0], IMAGES[2]], [TEXTS[0], TEXTS[2]]
    expected = mean([surprise(image, texts, [i]) for i, image in enumerate(images)], case.weight[::2])
    expected += mean([surprise(text, images, [i]) for i, text in enumerate(texts)], case.weight[::2])
    assert negationclip_loss(case.batch, S).item() == pytest.approx(expected / 2, abs=1e-12)
    none = replace(case.batch, negated=torch.zeros(N, dtype=torch.bool))
    assert negationclip_loss(none, S).item() == 0


def test_tngclip_has_three_captions_an_image_and_labels_of_noise(case):
    """Image 2 has no negation-free caption and is left out: 6 captions; noise below 6 is 4, 0, 2, 1, 5, 3."""
    images = IMAGES[:2]
    texts = [*rows(BATCH.originals)[:2], *TEXTS[:2], *rows(BATCH.negations)[:2]]
    found = [surprise(image, texts, [label], 1 / 0.07) for image, label in zip(images, (4, 0), strict=True)]
    by_image = mean(found, case.weight[:2])
    by_text = mean([surprise(text, images, [i % 2], 1 / 0.07) for i, text in enumerate(texts)], case.weight[:2] * 3)
    assert tngclip_loss(case.batch, S).item() == pytest.approx((by_image + by_text) / 2, abs=1e-12)
    assert tngclip_loss(case.batch, 100.0).item() == tngclip_loss(case.batch, S).item()
    none = replace(case.batch, original_present=torch.zeros(N, dtype=torch.bool))
    assert tngclip_loss(none, S).item() == 0


OWN = [NEG[0], [NEG[1][1]], []]  # the hard negatives of each image that are there


def test_degla_holds_near_the_teacher_and_contrasts_own_negatives(case):
    teacher, of_negatives = rows(BATCH.teacher_captions), BATCH.teacher_negatives.tolist()
    texts = TEXTS + [text for own in OWN for text in own]
    contrast = mean([surprise(image, texts, [i]) for i, image in enumerate(IMAGES)], case.weight)
    contrast = (contrast + mean([surprise(text, IMAGES, [i]) for i, text in enumerate(TEXTS)], case.weight)) / 2
    igc = mean([surprise(IMAGES[i], [TEXTS[i], *OWN[i]], [0]) for i in (0, 1)], case.weight[:2])
    tgc = mean([surprise(TEXTS[i], [teacher[i], *OWN[i]], [0], 10.0) for i in (0, 1)], case.weight[:2])
    pairs = [(i, TEXTS[i], teacher[i]) for i in range(N)]
    pairs += [(i, NEG[i][k], of_negatives[i][k]) for i, k in ((0, 0), (0, 1), (1, 1))]
    share = [w * N / sum(case.weight) for w in case.weight]
    moved = sum(share[i] * (x - y) ** 2 for i, ours, theirs in pairs for x, y in zip(ours, theirs, strict=True))
    expected = contrast + 0.1 * igc + 0.1 * tgc + 0.005 * moved
    assert degla_loss(case.batch, S).item() == pytest.approx(expected, abs=1e-12)
    expected = contrast + 0.2 * igc + 0.3 * tgc + 0.4 * moved
    assert degla_loss(case.batch, S, igc=0.2, tgc=0.3, distill=0.4).item() == pytest.approx(expected, abs=1e-12)


def test_omninegclip_has_what_is_there_and_what_is_not(case):
    two = case.weight[:2]
    images, captions = IMAGES[:2], TEXTS[:2]  # image 2 has no hard negative, and no caption without negations
    texts = captions + [text for own in OWN for text in own]
    presence = mean([surprise(image, texts, [i]) for i, image in enumerate(images)], two)
    presence += mean([surprise(text, images, [i]) for i, text in enumerate(captions)], two)
    presence += mean([surprise(images[i], [captions[i], *OWN[i]], [0]) for i in (0, 1)], two)
    absence = 0.0
    for texts in (captions, rows(BATCH.originals)[:2]):
        absence += mean([surprise(image, texts, [i]) for i, image in enumerate(images)], two) / 2
        absence += mean([surprise(text, images, [i]) for i, text in enumerate(texts)], two) / 2
    margins = [max(0.0, dot(a, b) + 0.9) for a, b in zip(captions, rows(BATCH.originals), strict=False)]
    absence += mean(margins, two)
    assert omninegclip_loss(case.batch, S).item() == pytest.approx(presence / 3 + absence, abs=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_equal_weights_are_no_weights_and_their_size_is_no_matter(name, case):
    """2 ** 20 or 1, for every record; a factor of all weights cancels."""
    batch, loss = case.batch, loss_for(name)
    names = ("weight", "hard_weight", "claim_weight")
    sizes = {"weight": N, "hard_weight": H, "claim_weight": 2}
    for value in (1.0, 2.0**20):
        alike = {n: torch.full((sizes[n],), value, dtype=torch.float64) for n in names}
        assert loss(replace(BATCH, **alike), S).item() == pytest.approx(loss(BATCH, S).item(), abs=1e-12)
    if batch.weight is not None:
        larger = replace(batch, **{n: 1e3 * getattr(batch, n) for n in names})
        assert loss(larger, S).item() == pytest.approx(loss(batch, S).item(), abs=1e-12)
        assert loss(batch, S).item() != pytest.approx(loss(BATCH, S).item(), abs=1e-3)


def test_negclip_with_hard_images_needs_their_weights():
    batch = replace(BATCH, weight=torch.ones(N, dtype=torch.float64))
    with pytest.raises(DataFormatError, match=r"'negclip' needs weights of the hard images \(hard_weight\)"):
        negclip_loss(batch, S)


def test_own_negatives_of_none():
    none = torch.zeros(N, K, dtype=torch.bool)
    found = own_negatives_loss(BATCH.images, BATCH.captions, BATCH.negatives, none)
    assert found.item() == 0


def test_captions_of_equal_text_are_right_for_each_other(case):
    """Images 0 and 2 have one caption, and so has hard image 1: in every loss that is no negative."""
    ids, hard_ids = torch.tensor([7, 8, 7]), torch.tensor([9, 7])
    batch = replace(case.batch, caption_ids=ids, hard_caption_ids=hard_ids)
    right = [[0, 2, 4], [1], [0, 2, 4], [3], [0, 2, 4]]
    images, captions = IMAGES + IMAGES_, TEXTS + TEXTS_
    texts = [*captions, NEG[0][0], NEG[0][1], NEG[1][1], NEG_[0][0], NEG_[1][0], NEG_[1][1]]
    expected = mean([surprise(image, texts, right[i]) for i, image in enumerate(images)], case.weight + case.hard)
    expected += mean(
        [surprise(caption, images, right[i]) for i, caption in enumerate(captions)], case.weight + case.hard
    )
    assert negclip_loss(batch, S).item() == pytest.approx(expected / 2, abs=1e-12)
    within = [[0, 2], [1], [0, 2]]
    expected = mean([surprise(image, TEXTS + TEXTS_, within[i]) for i, image in enumerate(IMAGES)], case.weight)
    expected += mean([surprise(caption, IMAGES + IMAGES_, within[i]) for i, caption in enumerate(TEXTS)], case.weight)
    expected += mean([surprise(image, TEXTS_ + TEXTS, [i]) for i, image in enumerate(IMAGES_)], case.hard)
    assert conclip_loss(batch, S).item() == pytest.approx(expected / 3, abs=1e-12)


EMBEDDINGS = [n for n, value in vars(BATCH).items() if torch.is_tensor(value) and value.is_floating_point()]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients(name, case):
    loss = loss_for(name)
    read = [field for field in EMBEDDINGS if "images" not in field and "teacher" not in field]
    leaves = [getattr(BATCH, field).clone().requires_grad_() for field in read]

    def of(*given):
        return loss(replace(case.batch, **dict(zip(read, given, strict=True))), S)

    assert torch.autograd.gradcheck(of, leaves)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_what_a_loss_needs_is_named_where_it_is_missing(name):
    bare = LossBatch(images=BATCH.images, captions=BATCH.captions)
    needs = KINDS[name].needs
    if not needs:
        assert torch.isfinite(loss_for(name)(bare, S))
        return
    with pytest.raises(DataFormatError, match=rf"the loss '{name}' needs .*, which the batch does not have"):
        loss_for(name)(bare, S)


def test_names_and_options_are_one_for_configurations_and_functions():
    assert LOSSES.keys() == KINDS.keys()
    for name, kind in KINDS.items():
        arguments = list(inspect.signature(LOSSES[name]).parameters.values())[2:]
        defaults = {argument.name: argument.default for argument in arguments if argument.name != "lambda_"}
        assert kind().arguments() == defaults
        assert kind().source


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("negclipp", {}, r"there is no loss 'negclipp'; did you mean 'negclip'\?"),
        ("", {}, "there is no loss ''; known are nast, clip"),
        ("negbench", {"a": 2}, "less than or equal to 1"),
        ("negbench", {"a": math.nan}, "finite"),
        ("negbench", {"a": True}, "a is True, and no number"),
        ("negbench", {"b": 1}, "b"),
        ("clip", {"a": 0.5}, "a"),
    ],
)
def test_other_names_and_options_are_refused(name, options, said):
    with pytest.raises(OptionError, match=said):
        loss_for(name, **options)

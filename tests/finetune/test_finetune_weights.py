"""Weights of records: from the file to the rows of every loss; equal ones leave no trace."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord, evaluate
from tracescribe.errors import DataFormatError
from tracescribe.finetune import TrainConfig, train
from tracescribe.finetune.losses.options import KINDS
from tracescribe.finetune.training.data import TrainingData, training_data
from tracescribe.finetune.training.embedded import embedded
from tracescribe.finetune.training.inputs import data_hash
from tracescribe.finetune.training.progress import Progress

FINDINGS = ("effusion", "edema", "nodule", "device")
CAPTION_WEIGHTS, SET_WEIGHTS = (0.5, 1.0, 4.0, 0.25), (2.0, 0.125, 8.0, 1.0)
QUICK = {"steps": 6, "batch_size": 4, "lr": 5e-3, "rank": 2}
NEEDS = {"negatives", "negated", "originals", "negations"}


@pytest.fixture(scope="module")
def clip() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())


def read(clip: ts.DualEncoder, weights: tuple[tuple[float, ...], tuple[float, ...]] | None) -> TrainingData:
    """Eight images with a caption and a set; ``weights`` of the captions and sets, in turn."""
    generator = torch.Generator().manual_seed(0)
    captions, sets = [], []
    for i in range(8):
        finding, image, of_caption, of_set = FINDINGS[i % 4], torch.randn(16, generator=generator), {}, {}
        if weights is not None:
            of_caption, of_set = ({"weight": values[i % 4]} for values in weights)
        texts = [f"there is {no}{finding} ." for no in ("", "no ")]
        about = {"id": str(i), "image": image, "group": str(i)}
        captions.append(CaptionRecord(**about, caption=texts[i // 4], affirmative=f"all {finding} .", **of_caption))
        polarity = ("affirmative", "negated")[i // 4]
        sets.append(
            ClaimRecord(**about, claims=texts, label=i // 4, attribute="existence", polarity=polarity, **of_set)
        )
    return training_data(clip, captions, sets, needs=NEEDS)


def adapters(result) -> dict[str, torch.Tensor]:
    return {name: value for name, value in result.source.state_dict().items() if ".lora_" in name}


def assert_same(one, other) -> None:
    assert all(torch.equal(value, adapters(other)[name]) for name, value in adapters(one).items())
    np.testing.assert_array_equal(one.history.to_frame(), other.history.to_frame())


@pytest.mark.parametrize("name", sorted(KINDS))
def test_equal_weights_give_the_bytes_of_none(clip, name):
    config = TrainConfig(**QUICK | {"steps": 2}, loss=name)
    plain = read(clip, None)
    alike = read(clip, ((3.0,) * 4, (3.0,) * 4))
    assert plain.caption_weight is None and alike.caption_weight is None and alike.claim_weight is None
    assert_same(train(config, clip, data=plain), train(config, clip, data=alike))


@pytest.mark.parametrize("name", ["nast", "conclip"])
def test_weights_change_training_and_a_common_factor_does_not(clip, name):
    config = TrainConfig(**QUICK, loss=name)
    data = read(clip, (CAPTION_WEIGHTS, SET_WEIGHTS))
    straight = train(config, clip, data=data)
    plain = train(config, clip, data=read(clip, None))
    assert any(not torch.equal(value, adapters(plain)[n]) for n, value in adapters(straight).items())
    many = train(
        config, clip, data=read(clip, (tuple(1e3 * w for w in CAPTION_WEIGHTS), tuple(1e3 * w for w in SET_WEIGHTS)))
    )
    np.testing.assert_allclose(many.history.loss, straight.history.loss, rtol=1e-4)  # float32, over six steps
    assert data_hash(data) != data_hash(read(clip, None))  # so that no checkpoint goes on with others


def test_the_first_loss_is_the_weighted_mean_worked_out_by_hand(clip):
    data, config = read(clip, (CAPTION_WEIGHTS, SET_WEIGHTS)), TrainConfig(**QUICK | {"batch_size": 5}, lambda_=0.25)
    run = Progress(config, clip, None, data)
    (batch,) = data.batches(5, 1, seed=0)
    with torch.no_grad():
        captions, claims = (
            run._embed(batch.caption),
            run._embed(batch.claims.flatten()).unflatten(0, batch.claims.shape),
        )
    scores = clip.logit_scale * batch.caption_image @ captions.T
    places = [int((data.images @ image).argmax()) for image in batch.caption_image]
    weight = torch.tensor([CAPTION_WEIGHTS[place % 4] for place in places])
    both = sum(-torch.diagonal(part.log_softmax(dim=1)) for part in (scores, scores.T)) / 2
    sets = clip.logit_scale * torch.einsum("se,sce->sc", batch.claim_image, claims)
    places = [int((data.images @ image).argmax()) for image in batch.claim_image]
    of_sets = torch.tensor([SET_WEIGHTS[place % 4] for place in places])
    right = -sets.log_softmax(dim=1)[torch.arange(5), batch.label]
    l_clip, l_claim = float(weight @ both / weight.sum()), float(of_sets @ right / of_sets.sum())
    assert run.step([batch]) == pytest.approx((0.25 * l_clip + 0.75 * l_claim, l_clip, l_claim), rel=1e-5)


def test_images_captions_and_hard_images_keep_the_weights_of_their_records(clip):
    data = read(clip, (CAPTION_WEIGHTS, SET_WEIGHTS))

    def embed(wanted):
        return torch.nn.functional.normalize(
            clip.text(data.tokens[wanted][:, : int(data.lengths[wanted].max())]), dim=-1
        )

    hard = 0
    for batch in data.batches(3, 4, seed=0, needs={"negatives", "hard_images"}):
        with torch.no_grad():
            found = embedded(embed, batch, {"negatives", "hard_images"})
        place = [int((data.images @ image).argmax()) for image in found.images]
        expected = [CAPTION_WEIGHTS[i % 4] for i in place[:3]] + [SET_WEIGHTS[i % 4] for i in place[3:]]
        assert found.weight.tolist() == expected and found.claim_weight is None
        place = [int((data.images @ image).argmax()) for image in found.hard_images]
        assert found.hard_weight.tolist() == [SET_WEIGHTS[i % 4] for i in place]
        hard += len(place)
    assert hard == 12


@pytest.mark.parametrize("given", [0, -1, 1e-7, 2e6, "NaN", '"2"', "true", "null", "[1]"])
def test_a_weight_that_is_none_is_refused_with_file_and_line(clip, given, tmp_path):
    good = {"id": "1", "image": {"text": "a film"}, "group": "1"}
    captions, claims = tmp_path / "captions.jsonl", tmp_path / "claims.jsonl"
    claims.write_text(json.dumps({**good, "claims": ["a", "b"], "label": 0, "attribute": "x"}), encoding="utf-8")
    line = json.dumps({**good, "caption": "a"})
    captions.write_text(line + "\n" + line[:-1] + f', "weight": {given}}}\n', encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"captions\.jsonl:2: .*"):
        training_data(clip, captions, claims)
    if given not in ("NaN",):  # which is no JSON
        with pytest.raises(DataFormatError, match=r"field 'weight': expected a number from 1e-6 to 1e6, not"):
            training_data(clip, captions, claims)


def test_evaluation_counts_every_record_alike(clip):
    scores = []
    for weight in (1.0, 1e6):
        sets = [
            ClaimRecord(
                id=str(i),
                image=torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)),
                claims=["a .", f"no {finding} ."],
                label=i % 2,
                attribute="x",
                group=str(i),
                weight=weight if i == 0 else 1.0,
            )
            for i, finding in enumerate(FINDINGS)
        ]
        scores.append(evaluate(clip, sets, n_boot=2).claim_accuracy)
    assert scores[0] == scores[1]

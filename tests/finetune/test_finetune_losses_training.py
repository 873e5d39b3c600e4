"""Losses in the training loop: what they are computed from, the default to the byte, exact resuming, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.contrastive import clip_loss
from tracescribe.errors import DataFormatError, PrescriptionError
from tracescribe.finetune import TrainConfig, read_config, train
from tracescribe.finetune.losses import LOSSES, claim_loss, multi_positive_clip_loss
from tracescribe.finetune.losses.options import KINDS, ConClip, NegBench
from tracescribe.finetune.study.config import PRESETS, Arm
from tracescribe.finetune.training import progress
from tracescribe.finetune.training.config_files import as_yaml
from tracescribe.finetune.training.data import training_data
from tracescribe.finetune.training.embedded import embedded

QUICK = {"steps": 6, "batch_size": 4, "lr": 5e-3, "rank": 2}
FINDINGS = ("effusion", "edema", "nodule", "device")


@pytest.fixture(scope="module")
def clip() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())


@pytest.fixture(scope="module")
def records() -> tuple[list[CaptionRecord], list[ClaimRecord]]:
    """Eight images; image i has finding i % 4 for i < 4 and not for the others; sets hold 2 or 3 claims."""
    generator = torch.Generator().manual_seed(0)
    captions, claims = [], []
    for i in range(8):
        finding, image = FINDINGS[i % 4], torch.randn(16, generator=generator)
        text, foil = (f"there is {no}{finding} ." for no in (("", "no ") if i < 4 else ("no ", "")))
        kept = {} if i == 7 else {"affirmative": f"all {finding} is clear ." if i >= 4 else text}
        captions.append(CaptionRecord(id=str(i), image=image, caption=text, group=str(i), **kept))
        texts = [foil, text, *(["all is clear ."] if i % 2 else [])]
        about = {"attribute": "existence", "polarity": "affirmative" if i < 4 else "negated", "group": str(i)}
        claims.append(ClaimRecord(id=str(i), image=image, claims=texts, label=1, **about))
    return captions, claims


@pytest.fixture(scope="module")
def data(clip, records):
    return training_data(clip, *records, needs={"negated", "originals", "negations"})


def adapters(result) -> dict[str, torch.Tensor]:
    return {name: value for name, value in result.source.state_dict().items() if ".lora_" in name}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and one
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("options", [{}, {"repeats": "positives", "lambda_": 0.3, "accumulate": 2}])
def test_the_default_loss_is_what_it_was_to_the_byte(clip, data, options, monkeypatch):
    """Against the step of the versions that had no other losses, as it was written there."""
    config = TrainConfig(**QUICK, **options)
    now = train(config, clip, data=data)

    def as_before(config, embed, batch, scale, teacher):
        wanted, place = torch.unique(torch.cat([batch.caption, batch.claims.flatten()]), return_inverse=True)
        texts = embed(wanted)[place]
        captions, claims = texts[: len(batch.caption)], texts[len(batch.caption) :].unflatten(0, batch.claims.shape)
        if config.repeats == "positives":
            first = multi_positive_clip_loss(batch.caption_image, captions, scale, batch.caption)
        else:
            first = clip_loss(batch.caption_image, captions, scale)
        second = claim_loss(batch.claim_image, claims, batch.label, scale, batch.present)
        return config.lambda_ * first + (1 - config.lambda_) * second, first, second

    monkeypatch.setattr(progress, "training_loss", as_before)
    before = train(config, clip, data=data)
    assert_same(adapters(now), adapters(before))
    np.testing.assert_array_equal(now.history.to_frame(), before.history.to_frame())


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"nast"}))
def test_every_loss_trains_and_falls_and_resumes_in_the_same_bytes(name, clip, data, tmp_path):
    config = TrainConfig(**{**QUICK, "steps": 12, "batch_size": 8}, loss=name)
    straight = train(config, clip, data=data)
    assert straight.history.loss[-4:].mean() < straight.history.loss[:4].mean()

    class Stop(Exception):
        pass

    def stop(step):
        if step.step == 5:
            raise Stop

    with pytest.raises(Stop):
        train(config, clip, data=data, checkpoints=tmp_path / "c", callbacks=[stop])
    resumed = train(config, clip, data=data, checkpoints=tmp_path / "c", resume=True)
    assert_same(adapters(straight), adapters(resumed))
    np.testing.assert_array_equal(straight.history.to_frame(), resumed.history.to_frame())


def test_hard_negatives_are_the_false_claims_and_hard_images_those_of_which_one_is_true(clip, data, records):
    """The rows of a batch, text by text, found again by their embeddings."""
    texts = [*(record.caption for record in records[0]), "all is clear ."]
    with torch.no_grad():
        known = clip.text.encode(texts)
    images = torch.stack([torch.nn.functional.normalize(record.image, dim=-1) for record in records[0]])

    def embed(wanted):
        longest = int(data.lengths[wanted].max())
        found = clip.text(data.tokens[wanted][:, :longest])
        return torch.nn.functional.normalize(found, dim=-1)

    def read(embeddings):
        return [texts[int((known @ one).argmax())] for one in embeddings]

    def film(embedding):
        return int((images @ embedding).argmax())

    hard = 0
    for batch in data.batches(4, 3, seed=0, needs={"hard_images"}):
        with torch.no_grad():
            found = embedded(embed, batch, {"negatives", "hard_images"}, "positives")
        captions = read(found.captions)
        assert len(captions) == 8
        assert [texts[film(image)] for image in found.images] == captions  # each image has one caption, its claim
        assert not found.negative_present[:4].any()
        for row in range(4, 8):
            record = records[1][film(found.images[row])]
            false = [text for i, text in enumerate(record.claims) if i != record.label]
            assert read(found.negatives[row][found.negative_present[row]]) == false
        assert (
            (found.caption_ids[:, None] == found.caption_ids)
            == torch.tensor([[one == other for other in captions] for one in captions])
        ).all()
        false = {text for row in range(4, 8) for text in read(found.negatives[row][found.negative_present[row]])}
        assert set(read(found.hard_captions)) <= false  # false of an image of the batch, true of the hard image
        assert [texts[film(image)] for image in found.hard_images] == read(found.hard_captions)
        hard += len(found.hard_images)
    assert hard == 12  # every set has a counterpart here


def test_batches_with_hard_images_are_the_same_batches_wherever_they_start(data):
    plain, everything = (list(data.batches(3, 9, seed=1, needs=needs)) for needs in ((), {"hard_images", "noise"}))
    for one, other in zip(plain, everything, strict=True):
        assert torch.equal(one.caption, other.caption) and torch.equal(one.claims, other.claims) and one.hard is None
    for skip in (1, 4):
        rest = list(data.batches(3, 9 - skip, seed=1, skip=skip, needs={"hard_images", "noise"}))
        for one, other in zip(everything[skip:], rest, strict=True):
            assert torch.equal(one.hard.claims, other.hard.claims) and torch.equal(one.hard.image, other.hard.image)
            assert torch.equal(one.noise, other.noise) and sorted(one.noise.tolist()) == list(range(9))


def test_captions_with_and_without_their_negations(clip, data, records):
    """Of the captions of a batch, not of its sets: what each says without negations, and a true negated claim."""

    def embed(wanted):
        with torch.no_grad():
            found = clip.text(data.tokens[wanted][:, : int(data.lengths[wanted].max())])
        return torch.nn.functional.normalize(found, dim=-1)

    (batch,) = data.batches(8, 1, seed=0, needs={"negated", "originals", "negations"})
    place = [int((data.images @ image).argmax()) for image in batch.caption_image]
    expected = [records[0][i] for i in place]
    for needs in ({"originals"}, {"negatives", "originals"}):
        found = embedded(embed, batch, needs)
        rows = range(len(found.captions))
        assert len(rows) == (16 if "negatives" in needs else 8)
        originals = [record.affirmative for record in expected] + [None] * 8
        negations = [records[1][i].correct if i >= 4 else None for i in place] + [None] * 8
        for texts, embeddings, there in (
            (originals, found.originals, found.original_present),
            (negations, found.negations, found.negation_present),
        ):
            assert there.tolist() == [text is not None for text in texts[: len(rows)]]
            for row in np.flatnonzero(there):
                torch.testing.assert_close(embeddings[row], clip.text.encode([texts[row]])[0], rtol=0, atol=2e-6)
        assert found.negated.tolist() == [4 <= i < 7 for i in place] + [False] * (len(rows) - 8)


@pytest.mark.parametrize("count", [1, 3])
def test_false_captions_of_the_file_are_hard_negatives_of_the_captions(count, clip, records):
    """Image 2 has none; sets have up to two false claims, so that one or the other is filled up."""
    false = [f"all is clear {'. ' * number}no edema ." for number in range(3)]
    captions = [
        record.model_copy(update={"neg_captions": () if i == 2 else tuple(false[: 1 + i % count])})
        for i, record in enumerate(records[0])
    ]
    data = training_data(clip, captions, records[1], needs={"negatives"})

    def embed(wanted):
        with torch.no_grad():
            found = clip.text(data.tokens[wanted][:, : int(data.lengths[wanted].max())])
        return torch.nn.functional.normalize(found, dim=-1)

    (batch,) = data.batches(8, 1, seed=0, needs={"negatives"})
    found = embedded(embed, batch, {"negatives", "teacher"}, teacher=embed)
    place = [int((data.images @ image).argmax()) for image in found.images]
    expected = [[*captions[i].neg_captions] for i in place[:8]]
    expected += [[text for text in records[1][i].claims if text != records[1][i].correct] for i in place[8:]]
    assert found.negative_present.sum(dim=1).tolist() == [len(texts) for texts in expected]
    for row, texts in enumerate(expected):
        for column, text in enumerate(texts):
            known = clip.text.encode([text])[0]
            torch.testing.assert_close(found.negatives[row, column], known, rtol=0, atol=2e-6)
            torch.testing.assert_close(found.teacher_negatives[row, column], known, rtol=0, atol=2e-6)
    for loss in ("negclip", "degla"):
        result = train(TrainConfig(**{**QUICK, "steps": 2}, loss=loss), clip, data=data)
        assert np.isfinite(result.history.loss).all()
    with pytest.raises(DataFormatError, match="omninegclip"):
        train(TrainConfig(**QUICK, loss="omninegclip"), clip, data=data)


def test_the_numbers_of_texts_do_not_depend_on_what_else_is_read(clip, records, data):
    plain = training_data(clip, *records)
    assert len(plain.tokens) < len(data.tokens)
    for name in ("caption", "claims", "label", "present", "images", "caption_image", "claim_image"):
        assert torch.equal(getattr(plain, name), getattr(data, name))
    assert (plain.negated, plain.original, plain.negation) == (None, None, None)


def test_deglas_teacher_is_the_moving_average_of_the_adapters(clip, data):
    config = TrainConfig(**QUICK, loss={"name": "degla", "ema": 0.75})
    run = progress.Progress(config, clip, None, data)
    average = {name: weight.clone() for name, weight in run.adapters().items()}
    seen = []
    for batch in data.batches(4, 3, seed=0):
        before = {name: weight.clone() for name, weight in run.adapters().items()}
        texts = torch.arange(4)
        run.set_adapters(average)
        with torch.no_grad():
            expected = run._embeddings(texts)
        run.set_adapters(before)
        taught = run._teacher.embed(run._embed)(texts)
        torch.testing.assert_close(taught, expected, rtol=0, atol=2e-6)  # the average is rounded in another order
        assert_same(run.adapters(), before)  # the teacher's pass leaves them as they are
        run.step([batch])
        average = {name: 0.75 * average[name] + 0.25 * weight for name, weight in run.adapters().items()}
        seen.append(max(float((run._teacher.weights[name] - average[name]).abs().max()) for name in average))
    assert max(seen) < 1e-7  # float32, of weights below 1
    assert any(not torch.equal(weight, run.adapters()[name]) for name, weight in run._teacher.weights.items())


def test_parts_that_a_loss_does_not_have_are_blank(clip, data):
    result = train(TrainConfig(**QUICK, loss="conclip"), clip, data=data)
    assert np.isnan(result.history.clip).all() and np.isnan(result.history.claim).all()
    mixed = train(TrainConfig(**QUICK, loss={"name": "negbench", "a": 0.9}), clip, data=data).history
    np.testing.assert_allclose(mixed.loss, 0.9 * mixed.clip + 0.1 * mixed.claim, rtol=1e-6)  # float32 against float64


def test_a_loss_without_its_data_is_refused_in_a_sentence(clip, records):
    image = torch.randn(16)
    sets = [
        ClaimRecord(id=str(i), image=image, claims=[f"{a} .", f"no {a} ."], label=0, attribute="x", group="1")
        for i, a in enumerate(FINDINGS)
    ]
    with pytest.raises(DataFormatError, match="the loss 'conclip' needs hard images, and no false claim"):
        train(TrainConfig(**QUICK, loss="conclip"), clip, data=training_data(clip, records[0], sets))
    bare = [record.model_copy(update={"affirmative": None}) for record in records[0]]
    for loss, name, what in (
        ("negationclip", "negated", "captions that include a negation"),
        ("omninegclip", "originals", "captions without their negations"),
        ("tngclip", "originals", "captions without their negations"),
    ):
        with pytest.raises(DataFormatError, match=rf"{loss}' needs {what}.*, which were not read: .*'{name}'"):
            train(TrainConfig(**QUICK, loss=loss), clip, data=training_data(clip, *records))
        needs = KINDS[loss].needs
        with pytest.raises(DataFormatError, match=rf"{loss}' needs {what}.*, and the data have none"):
            train(TrainConfig(**QUICK, loss=loss), clip, data=training_data(clip, bare, records[1], needs=needs))
    with pytest.raises(DataFormatError, match=r"'tngclip' needs true claims about .*, and the data have none"):
        needs = KINDS["tngclip"].needs
        train(TrainConfig(**QUICK, loss="tngclip"), clip, data=training_data(clip, records[0], sets, needs=needs))
    negclip = train(TrainConfig(**QUICK, loss="negclip"), clip, data=training_data(clip, records[0], sets))
    assert np.isfinite(negclip.history.loss).all()  # hard negatives are there; hard images would be welcome


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("negclipp", "did you mean 'negclip'"),
        ({"a": 0.5}, "a loss has a name"),
        ({"name": "negbench", "a": -1}, "greater than or equal to 0"),
        (None, "there is no loss None"),
        (3, "there is no loss 3"),
    ],
)
def test_a_wrong_loss_is_refused(given, said, tmp_path):
    with pytest.raises(PrescriptionError, match=said):
        TrainConfig(loss=given)
    path = tmp_path / "run.yaml"
    path.write_text(as_yaml(TrainConfig()).replace("loss: nast", f"loss: {given}"), encoding="utf-8")
    with pytest.raises(DataFormatError, match="loss"):
        read_config(path)


def test_lambda_is_an_option_of_nast_alone():
    with pytest.raises(PrescriptionError, match=r"lambda is 0\.3, which only the loss 'nast' reads, not 'negclip'"):
        TrainConfig(loss="negclip", lambda_=0.3)


def test_a_loss_in_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("loss: {name: negbench, a: 0.9}\n", encoding="utf-8")
    config = read_config(path)
    assert config.loss == NegBench(a=0.9)
    path.write_text(as_yaml(config), encoding="utf-8")
    assert read_config(path) == config
    assert read_config(path, ["loss=conclip"]).loss == ConClip()
    assert "loss: conclip" in as_yaml(read_config(path, ["loss=conclip"]))
    assert TrainConfig(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", ["negclip", "conclip", "negbench"])
def test_arms_of_a_study_by_loss(name):
    arm = PRESETS[name]
    assert arm.loss is not None and arm.loss.name == name and arm.weighting == "uniform"
    assert Arm(**arm.model_dump(mode="json")) == arm
    shared = {"steps": 5, "lambda_": 0.3}
    assert TrainConfig(**arm.training(shared)).loss.name == name  # lambda is of the arms with NAST's loss
    assert TrainConfig(**PRESETS["uniform"].training({**shared, "loss": "nast"})).lambda_ == 0.3
    assert set(LOSSES) >= {name}

"""Evaluation during training: what is kept, when training ends; schedules; configuration files."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import DataFormatError, OptionError, PrescriptionError
from tracescribe.finetune import TrainConfig, read_config, train
from tracescribe.finetune.apply.lora import attach_lora, lora_config
from tracescribe.finetune.training.config_files import as_yaml
from tracescribe.finetune.training.data import training_data
from tracescribe.finetune.training.progress import Progress, rate_factor
from tracescribe.finetune.training.validation import Drift, Validation

OPTIONS = {"steps": 8, "batch_size": 3, "rank": 2, "lr": 5e-3, "evaluate_every": 2}


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer())


@pytest.fixture(scope="module")
def data(model):
    generator = torch.Generator().manual_seed(0)
    captions, claims = [], []
    for i, finding in enumerate(("effusion", "edema", "nodule", "device")):
        image = torch.randn(16, generator=generator)
        text, foil = f"there is {finding} .", f"there is no {finding} ."
        captions.append(CaptionRecord(id=str(i), image=image, caption=text, group=str(i)))
        claims.append(
            ClaimRecord(id=str(i), image=image, claims=[foil, text], label=1, attribute="existence", group=str(i))
        )
    return training_data(model, captions, claims)


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations that give these claim accuracies; the models that were scored are kept, by their embedding."""

    def script(values):
        scored = []

        class Scripted(Validation):
            untrained: ClassVar = {"claims": 5.0}

            def __init__(self, select):
                self.select, self.source = select, "script"

            def scores(self, model):
                scored.append(model.encode_texts(["there is no edema ."]))
                return {"claims": float(values[len(scored) - 1])}

        monkeypatch.setattr(Validation, "of", classmethod(lambda cls, config, model: Scripted(config.select)))
        return scored

    return script


def embedding(result):
    return result.model.encode_texts(["there is no edema ."])


def test_the_best_evaluation_s_weights_are_the_result(model, data, scripted):
    scored = scripted([10, 30, 20, 30])
    result = train(TrainConfig(**OPTIONS, select="claims"), model, data=data)
    assert result.best == 4  # the first of equals
    torch.testing.assert_close(embedding(result), scored[1], rtol=0, atol=2e-6)
    assert (embedding(result) - scored[3]).abs().max() > 1e-4
    html = result._repr_html_()
    assert "of step 4, the best evaluation" in html and ">5.00</td>" in html and ">30.00</td>" in html
    assert repr(result.history) == "History(loss [8], clip [8], claim [8], lr [8], 4 scores)"
    frame = result.history.to_frame()
    assert frame.loc[frame["step"] == 6, "val_claims"].item() == 20
    assert frame["val_claims"].notna().sum() == 4


def test_the_last_step_s_weights_are_the_result_unless_said(model, data, scripted):
    scored = scripted([10, 30, 20, 5])
    result = train(TrainConfig(**OPTIONS), model, data=data)
    torch.testing.assert_close(embedding(result), scored[3], rtol=0, atol=2e-6)


def test_training_stops_when_evaluations_get_no_better(model, data, scripted, tmp_path):
    scripted([10, 30, 20, 30])
    config = TrainConfig(**OPTIONS | {"steps": 100}, select="claims", patience=2)
    result = train(config, model, data=data, checkpoints=tmp_path / "c")
    assert len(result.history.loss) == 8
    assert result.stopped == "no better evaluation for 2 evaluations, since step 4"


def test_evaluations_survive_a_stop(model, data, scripted, tmp_path):
    scripted([10, 30, 20, 25])
    config = TrainConfig(**OPTIONS, select="claims")
    expected = train(config, model, data=data)
    scripted([10, 30, 20, 25])

    def stop(step):
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, model, data=data, checkpoints=tmp_path / "c", callbacks=[stop])
    scripted([20, 25])
    result = train(config, model, data=data, checkpoints=tmp_path / "c", resume=True)
    assert result.best == expected.best == 4
    assert torch.equal(embedding(result), embedding(expected))
    assert result.history.scores == expected.history.scores


def test_other_validation_data_than_a_run_began_with_are_said(model, data, scripted, tmp_path, monkeypatch, caplog):
    config = TrainConfig(**OPTIONS)

    def stop(step):
        if step.step == 3:
            raise KeyboardInterrupt

    def go_on(untrained):
        scripted([20, 25, 30])
        monkeypatch.setattr(Validation.of(config, model).__class__, "untrained", {"claims": untrained})
        caplog.clear()
        train(config, model, data=data, checkpoints=tmp_path / "c", resume=True)

    scripted([10])
    with pytest.raises(KeyboardInterrupt):
        train(config, model, data=data, checkpoints=tmp_path / "c", callbacks=[stop])
    go_on(5.0)
    assert "validation data" not in caplog.text
    go_on(6.0)
    assert "has claims 6.0 on the validation data, and had 5.0 when this run began" in caplog.text


def test_a_source_without_the_selected_score_is_refused(model, data, tmp_path):
    with pytest.raises(DataFormatError, match="set validation"):
        train(TrainConfig(**OPTIONS), model, data=data)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"select": "claims"}, "select 'claims' needs evaluations"),
        ({"patience": 2}, "patience 2 needs evaluations"),
        ({"schedule": "cosine", "warmup": 150}, "leaves none of 150 steps"),
        ({"schedule": "step"}, "schedule"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"accumulate": 0}, "accumulate"),
        ({"trackers": ["mlflow"]}, "trackers"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(PrescriptionError, match=sentence):
        TrainConfig(**options)


def test_a_tracker_that_is_not_installed_is_named(model, data, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="pip install trackio"):
        train(TrainConfig(steps=1, batch_size=2, trackers=("trackio",)), model, data=data)


# -- the step --------------------------------------------------------------------------------------------------------


def test_schedules_by_their_definition():
    cosine = TrainConfig(schedule="cosine", warmup=4, steps=24)
    assert [rate_factor(cosine, done) for done in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rate_factor(cosine, 14) == pytest.approx(0.5)
    assert rate_factor(cosine, 19) == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    linear = TrainConfig(schedule="linear", steps=10)
    assert rate_factor(linear, 4) == pytest.approx(0.6)
    assert rate_factor(TrainConfig(warmup=2), 149) == 1


def test_accumulated_batches_are_averaged_and_clipped(model, data):
    batches = list(data.batches(3, 2, 0))
    config = TrainConfig(steps=2, batch_size=3, optimizer="sgd", lr=1.0, weight_decay=0.0, rank=2)
    together = Progress(config, model, None, data)
    start = {name: weight.clone() for name, weight in together.adapters().items()}
    values = together.step(batches)
    change = {name: weight - start[name] for name, weight in together.adapters().items()}
    alone, losses = [], []
    for batch in batches:
        one = Progress(config, model, None, data)
        losses.append(one.step([batch]))
        alone.append({name: weight - start[name] for name, weight in one.adapters().items()})
    np.testing.assert_allclose(values, np.mean(losses, axis=0), rtol=1e-6)
    for name, found in change.items():
        torch.testing.assert_close(found, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-6)

    norm = math.sqrt(sum(float(found.double().square().sum()) for found in change.values()))
    clipped = Progress(config.model_copy(update={"clip_norm": norm / 2}), model, None, data)
    clipped.step(batches)
    for name, weight in clipped.adapters().items():
        torch.testing.assert_close(weight - start[name], change[name] / 2, rtol=1e-3, atol=1e-6)


def test_batches_can_be_skipped(data):
    everything = list(data.batches(3, 9, seed=1))
    for skip in (0, 1, 4, 8):
        rest = list(data.batches(3, 9 - skip, seed=1, skip=skip))
        for one, other in zip(everything[skip:], rest, strict=True):
            assert torch.equal(one.caption, other.caption) and torch.equal(one.claims, other.claims)


# -- files ---------------------------------------------------------------------------------------------------------


def test_yaml_says_everything_and_comes_back(tmp_path):
    config = TrainConfig(
        steps=7, rank=3, weighting="update", plan=ts.prescribe(np.array([1, 0.3, 0.2, 0.9])), lambda_=0.2
    )
    file = tmp_path / "run.yaml"
    file.write_text(as_yaml(config))
    again = read_config(file)
    assert again.model_dump(mode="json") == config.model_dump(mode="json")


def test_changes_by_key(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {captions: c.jsonl, claims: d/e.jsonl}\nlora: {rank: 8}\n")
    config = read_config(file, ["optim.lr=1e-3", "kind=cosine", "lora.rank=2", "data.split=null", "trackers=[wandb]"])
    assert (config.captions, config.claims) == (tmp_path / "c.jsonl", tmp_path / "d" / "e.jsonl")
    assert (config.lr, config.schedule, config.rank, config.lora_alpha) == (1e-3, "cosine", 2, 4)
    assert (config.split, config.trackers) == (None, ("wandb",))


@pytest.mark.parametrize(
    ("text", "changes", "sentence"),
    [
        ("optim: {lrr: 1}", [], r"no option 'optim\.lrr'; did you mean 'optim\.lr'"),
        ("optimiser: {lr: 1}", [], "no option 'optimiser'; did you mean 'optim"),
        ("optim: 3", [], "section 'optim' holds"),
        ("- a", [], "expected sections"),
        ("a: [", [], "not YAML"),
        ("model: phantom", ["lr"], "is no change"),
        ("model: phantom", ["batchsize=3"], "did you mean 'optim.batch_size'"),
        ("model: phantom", ["lr=fast"], r"field 'optim\.lr'"),
        ("model: phantom", ["lr=.nan"], "lr"),
        ("schedule: {steps: true}", [], "steps"),
    ],
)
def test_what_a_file_or_a_change_has_wrong_is_named(tmp_path, text, changes, sentence):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(DataFormatError, match=sentence):
        read_config(file, changes)


# -- precision, repeats, drift ----------------------------------------------------------------------------------------


def test_bf16_computes_the_tower_in_half_precision_and_leaves_the_caller_s_accelerate_alone(model, data):
    from accelerate import Accelerator

    mine = Accelerator(cpu=True)
    exact, half = (
        train(TrainConfig(steps=6, batch_size=3, rank=2, precision=precision, clip_norm=1.0), model, data=data)
        for precision in ("float32", "bf16")
    )
    difference = np.abs(half.history.loss / exact.history.loss - 1)
    assert 0 < difference.max() < 0.05  # bfloat16 has 8 bits: 0.4 % a number
    assert mine.mixed_precision == "no"
    assert all(p.dtype == torch.float32 for n, p in half.source.named_parameters() if ".lora_" in n)
    with pytest.raises(OptionError, match="precision 'fp16' needs an accelerator"):
        train(TrainConfig(steps=1, batch_size=2, precision="fp16"), model, data=data)


def test_repeated_captions_may_be_positives(model, data):
    options = {"steps": 1, "batch_size": 12, "rank": 2}  # of four captions
    apart, together = (
        train(TrainConfig(**options, repeats=repeats), model, data=data).history
        for repeats in ("negatives", "positives")
    )
    assert together.claim[0] == apart.claim[0]
    assert together.clip[0] < apart.clip[0] - 0.1  # copies of the right caption are no negatives


def test_the_cte_profile_drifts_while_a_run_trains(tmp_path):
    source = open_clip_model(layers=3)
    clip = ts.wrap(source, tokenizer=WordTokenizer())
    pair = '{"correct": "there is no edema .", "foil": "there is some edema .", "image": {"text": "all is clear ."}}'
    (tmp_path / "pairs.jsonl").write_text("\n".join([pair, pair.replace("edema", "nodule")]), encoding="utf-8")
    config = TrainConfig(evaluate_every=1, retrace=tmp_path / "pairs.jsonl", validation=tmp_path)
    drift = Drift(config, clip)
    untouched = attach_lora(copy.deepcopy(source), lora_config(source, r=2), seed=0)
    found = drift(untouched)
    assert found["cte_drift"] < 1e-5  # adapters start at zero: rounding alone
    assert found["cte_rank"] == pytest.approx(1)
    with torch.no_grad():
        for name, parameter in untouched.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    assert drift(untouched)["cte_drift"] > 1e-3

"""The training loop: what it changes, what it leaves alone, what it reports, what it refuses."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from bounds import TRAINED
from models import WordTokenizer, in_double, open_clip_model, transformers_model

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import ArgumentError, ContextOverflowError, DataFormatError, NonFiniteError, PrescriptionError
from tracescribe.finetune import Prescription, ScaleInvariantOptimizerWarning, TrainConfig, train, update_share
from tracescribe.finetune.apply.load import load_lora
from tracescribe.finetune.apply.lora import attach_lora, lora_config
from tracescribe.finetune.training.adapted import AdaptedText
from tracescribe.finetune.training.config_files import read_config
from tracescribe.finetune.training.data import training_data
from tracescribe.finetune.training.runs import load_run

FINDINGS = ("effusion", "edema", "nodule", "device")
PLAN = Prescription(np.array([0.2, 1.0, 0.6]))
QUICK = {"steps": 6, "batch_size": 4, "lr": 5e-3, "rank": 2, "lora_alpha": 4.0}


@pytest.fixture(params=["open_clip", "transformers"])
def model(request) -> ts.DualEncoder:
    build = {"open_clip": open_clip_model, "transformers": transformers_model}[request.param]
    return ts.wrap(build(layers=3), tokenizer=WordTokenizer())


@pytest.fixture
def clip() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer())


@pytest.fixture
def records() -> tuple[list[CaptionRecord], list[ClaimRecord]]:
    """Eight images, given as embeddings, with a caption and a contrast set each; sets hold 2 or 3 claims."""
    generator = torch.Generator().manual_seed(0)
    captions, claims = [], []
    for i in range(8):
        finding, image = FINDINGS[i % 4], torch.randn(16, generator=generator)
        text = f"there is {'no ' if i >= 4 else ''}{finding} ."
        foil = f"there is {'' if i >= 4 else 'no '}{finding} ."
        more = ["all is clear ."] if i % 2 else []
        captions.append(CaptionRecord(id=str(i), image=image, caption=text, group=str(i)))
        claims.append(
            ClaimRecord(
                id=str(i), image=image, claims=[foil, text, *more], label=1, attribute="existence", group=str(i)
            )
        )
    return captions, claims


@pytest.fixture
def data(clip, records):
    return training_data(clip, *records)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- the tower with adapters ----------------------------------------------------------------------------------------


def test_adapted_tower_computes_what_the_adapted_source_computes(model, encode, make_ids, randomise_adapters):
    encoder = AdaptedText(model, lambda source: attach_lora(source, lora_config(source, r=2)), seed=0)
    randomise_adapters(encoder.source)
    ids = make_ids()
    expected = torch.nn.functional.normalize(encode(encoder.source, ids), dim=-1)
    # trimmed to the end token, which sits at position 7; another order of summation: units in the last place
    torch.testing.assert_close(encoder(ids[:, :8]), expected, rtol=0, atol=2e-6)


def test_gradients_are_those_of_the_adapted_source(model, encode, make_ids, randomise_adapters):
    encoder = AdaptedText(in_double(model), lambda source: attach_lora(source, lora_config(source, r=2)), seed=0)
    randomise_adapters(encoder.source)
    ids = make_ids()
    target = torch.randn(len(ids), 16, generator=torch.Generator().manual_seed(1)).double()
    gradients = []
    trainable = [parameter for parameter in encoder.source.parameters() if parameter.requires_grad]
    for embeddings in (encoder(ids[:, :8]), torch.nn.functional.normalize(encode(encoder.source, ids), dim=-1)):
        gradients.append(torch.autograd.grad((embeddings * target).sum(), trainable))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 * float(theirs.abs().max()))  # float64: 1e-15


# -- what training changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["uniform", "update", "lr"])
def test_the_callers_model_stays_untouched_bit_for_bit(model, records, weighting):
    before, trainable = weights(model.source), {n: p.requires_grad for n, p in model.source.named_parameters()}
    modules = [type(module) for module in model.source.modules()]
    state = torch.get_rng_state()
    config = TrainConfig(**QUICK, weighting=weighting, plan=None if weighting == "uniform" else PLAN)
    result = train(config, model, data=training_data(model, *records))
    assert_same(before, weights(model.source))
    assert trainable == {name: parameter.requires_grad for name, parameter in model.source.named_parameters()}
    assert modules == [type(module) for module in model.source.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert result.model.source is not model.source


def test_only_the_text_blocks_change(model, records):
    result = train(TrainConfig(**QUICK), model, data=training_data(model, *records))
    after, before = weights(result.model.source), weights(model.source)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("resblocks" in name or "encoder.layers" in name for name in changed)
    assert not any(name.startswith(("visual", "vision_model", "text_projection", "logit_scale")) for name in changed)
    # the frozen weights under the adapters, too: peft's own forward would have moved them by rounding
    frozen = {
        n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in result.source.named_parameters()
    }
    assert all(torch.equal(frozen[name], value) for name, value in model.source.named_parameters())


def test_training_learns_and_the_result_is_the_trained_model(model, records):
    data = training_data(model, *records)
    seen = []
    result = train(TrainConfig(**QUICK | {"steps": 60}), model, data=data, callbacks=[seen.append])
    assert result.history.loss[-5:].mean() < 0.8 * result.history.loss[:5].mean()
    np.testing.assert_allclose(result.history.loss, 0.5 * result.history.clip + 0.5 * result.history.claim, rtol=1e-5)
    assert [step.step for step in seen] == list(range(1, 61))
    assert len(repr(result)) < 400 and f"loss {result.history.loss[0]:.3f} to " in repr(result)
    assert (seen[-1].steps, seen[-1].loss) == (60, result.history.loss[-1])
    images = data.images[data.claim_image]
    texts = result.model.text.encode([record.claims[1] for record in records[1]])
    foils = result.model.text.encode([record.claims[0] for record in records[1]])
    assert ((images * texts).sum(-1) > (images * foils).sum(-1)).float().mean() > 0.7


def test_runs_are_reproducible_and_paired(clip, data):
    one, again = (train(TrainConfig(**QUICK, seed=3), clip, data=data) for _ in range(2))
    np.testing.assert_array_equal(one.history.loss, again.history.loss)
    assert_same(weights(one.model.source), weights(again.model.source))
    other = train(TrainConfig(**QUICK, seed=4), clip, data=data)
    assert one.history.loss[0] != other.history.loss[0]
    weighted = train(TrainConfig(**QUICK, seed=3, weighting="update", plan=PLAN), clip, data=data)
    assert weighted.history.loss[0] == one.history.loss[0]  # same adapters, same batch


def test_weights_move_the_update_to_their_blocks(clip, records):
    clip = in_double(clip)
    data = training_data(clip, *records)

    def share(**options) -> np.ndarray:
        config = TrainConfig(**QUICK | {"weight_decay": 0.0}, plan=PLAN if options else None, **options)
        return train(config, clip, data=data).update.share

    uniform, update, lr = share(), share(weighting="update"), share(weighting="lr")
    assert update[1] > uniform[1] + 0.05
    assert update[0] < uniform[0] - 0.05
    np.testing.assert_allclose(update, lr, atol=TRAINED)  # AdamW without decay: the same algorithm
    with pytest.warns(ScaleInvariantOptimizerWarning):
        # cancelled, but for eps, which becomes eps / 0.2: 5e-8 beside gradients of 1e-4 and more
        np.testing.assert_allclose(share(weighting="gradient"), uniform, atol=1e-3)
    np.testing.assert_allclose(share(lora_mode="mask")[0], 0)


def test_a_plan_acts_once_or_is_refused():
    with pytest.raises(PrescriptionError, match="a plan is given, and nothing uses it"):
        TrainConfig(plan=PLAN)
    with pytest.raises(PrescriptionError, match="multiply by the plan twice"):
        TrainConfig(plan=PLAN, lora_mode="scale", weighting="lr")
    assert TrainConfig(plan=PLAN, lora_mode="rank", weighting="lr").plan is PLAN


def test_warmup_starts_small_and_keeps_the_proportions(clip, records):
    clip = in_double(clip)
    data = training_data(clip, *records)

    def sizes(**options) -> np.ndarray:
        config = TrainConfig(**QUICK | {"steps": 1, "weight_decay": 0.0}, plan=PLAN, weighting="lr", **options)
        return train(config, clip, data=data).update.size

    # the first step moves LoRA's B alone (A has no gradient while B is 0), in proportion to the rate
    np.testing.assert_allclose(sizes(warmup=9), sizes() / 10, rtol=1e-10)


def test_budget(clip, data):
    mean = train(TrainConfig(**QUICK, weighting="update", plan=PLAN), clip, data=data)
    raw = train(TrainConfig(**QUICK, weighting="update", plan=PLAN, budget="none"), clip, data=data)
    assert mean.plan.multipliers.mean() == pytest.approx(1)
    np.testing.assert_array_equal(raw.plan.multipliers, PLAN.alpha)
    assert mean.update.size.sum() > raw.update.size.sum()


def test_result_traces_with_its_adapters(clip, records):
    clip = in_double(clip)
    data = training_data(clip, *records)
    result = train(TrainConfig(**QUICK | {"steps": 20}), clip, data=data)
    pair = ts.Pair(correct="there is no effusion .", foil="there is some effusion .", image=torch.randn(16).numpy())
    before, after = (ts.trace(m, [pair], progress=False) for m in (clip, result.model))
    assert after.n_layers == before.n_layers == 3
    assert np.nanmax(np.abs(after.scores.patched - before.scores.patched)) > 1e-3
    # W + D - W: rounding of W, 1e-16, over a change of 1e-3 of it
    assert update_share(clip.source, result.model.source).size == pytest.approx(result.update.size, rel=1e-9)


def test_a_second_round_starts_from_the_first(clip, records):
    clip = in_double(clip)
    data = training_data(clip, *records)
    first = train(TrainConfig(**QUICK), clip, data=data)
    on_adapted = ts.wrap(first.source, tokenizer=clip.text.tokenizer)
    second = train(TrainConfig(**QUICK, seed=1), on_adapted, data=data)
    merged = train(TrainConfig(**QUICK, seed=1), first.model, data=data)
    np.testing.assert_allclose(second.history.loss, merged.history.loss, rtol=TRAINED)


# -- data -----------------------------------------------------------------------------------------------------------


def test_texts_and_images_are_kept_once(clip, records, monkeypatch):
    data = training_data(clip, *records)
    texts = {text for record in records[1] for text in record.claims} | {record.caption for record in records[0]}
    assert len(data.tokens) == len(texts)
    assert len(data.images) == 8  # captions and claims share their images
    torch.testing.assert_close(data.images.norm(dim=-1), torch.ones(8))
    assert data.present.sum(dim=1).tolist() == [2, 3] * 4


def test_every_record_is_seen_before_any_is_seen_again(data):
    seen = torch.cat([batch.caption for batch in data.batches(batch_size=3, steps=8, seed=0)])
    assert all(sorted(seen[start : start + 8].tolist()) == sorted(data.caption.tolist()) for start in (0, 8, 16))


def test_files_and_their_splits(clip, records, tmp_path):
    from PIL import Image

    def write(name, rows):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return tmp_path / name

    for i in range(2):
        Image.new("RGB", (32, 32), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    where = [{"image": f"{i}.png", "group": str(i), "split": split} for i, split in enumerate(("train", "test"))]
    captions = write("captions.jsonl", [{"id": str(i), "caption": f"film {i} .", **w} for i, w in enumerate(where)])
    sets = [{"id": str(i), "claims": ["a .", "b ."], "label": 0, "attribute": "x", **w} for i, w in enumerate(where)]
    claims = write("claims.jsonl", sets)
    model = ts.wrap(
        open_clip_model(layers=3),
        tokenizer=WordTokenizer(),
        preprocess=lambda image: torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1),
    )
    one, both = training_data(model, captions, claims), training_data(model, captions, claims, split=None)
    assert (len(one.caption), len(both.caption), len(both.images)) == (1, 2, 2)
    torch.testing.assert_close(one.images, model.encode_images([tmp_path / "0.png"]))
    known = {str(tmp_path.resolve() / "0.png"): np.eye(16)[0]}
    torch.testing.assert_close(training_data(model, captions, claims, image_embeddings=known).images, torch.eye(16)[:1])
    train(TrainConfig(**QUICK, captions=captions, claims=claims, split=None), model)
    with pytest.raises(DataFormatError, match=r"captions\.jsonl.*val"):
        train(TrainConfig(**QUICK, captions=captions, claims=claims, split="val"), model)


def test_bad_data(clip, records):
    captions, claims = records
    with pytest.raises(DataFormatError, match="no contrast sets"):
        training_data(clip, captions, [])
    with pytest.raises(DataFormatError, match="no captions"):
        training_data(clip, [], claims)
    with pytest.raises(DataFormatError, match=r"has 3 values.*have 16"):
        training_data(clip, [captions[0].model_copy(update={"image": torch.ones(3)})], claims)
    long = [captions[0].model_copy(update={"caption": word * 40}) for word in ("word ", "more ")]
    with pytest.raises(ContextOverflowError, match=r"^the text has 42 tokens but .*shorten 'word"):
        training_data(clip, long[:1], claims)
    with pytest.raises(ContextOverflowError, match=r"^2 of \d+ different texts are too long; of the first.*'word"):
        training_data(clip, [*captions, *long], claims)
    with pytest.raises(DataFormatError, match="captions and claims"):
        train(TrainConfig(**QUICK), clip)


# -- failures and files ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_step(clip, data):
    spoiled = copy.deepcopy(data)
    spoiled.images[:] = float("nan")
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 1 \(L_CLIP nan, L_claim nan\).*lr"):
        train(TrainConfig(**QUICK), clip, data=spoiled)


def test_a_plan_for_another_tower(clip, data):
    with pytest.raises(PrescriptionError, match=r"2 blocks.*has 3"):
        train(TrainConfig(**QUICK, weighting="update", plan=Prescription(np.array([0.0, 1.0]))), clip, data=data)


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"steps": 0},
        {"lambda_": 1.5},
        {"rank": 0},
        {"seed": -1},
        {"weighting": "nast"},
        {"weighting": "update"},
        {"lora_mode": "scale"},
        {"learning_rate": 1},
    ],
)
def test_bad_configurations(bad):
    with pytest.raises(PrescriptionError):
        TrainConfig(**bad)


def test_configuration_files(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"steps": 3, "weighting": "update", "plan": "plan.json"}), encoding="utf-8")
    config = read_config(path)
    assert (config.steps, config.plan) == (3, tmp_path / "plan.json")
    path.write_text('{"steps": "many"}', encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"config\.json: field 'steps'"):
        read_config(path)
    with pytest.raises(DataFormatError, match=r"cannot read .*none\.json"):
        read_config(tmp_path / "none.json")


def test_a_saved_run_is_whole_and_comes_back(model, records, tmp_path):
    config = TrainConfig(**QUICK, weighting="update", plan=PLAN)
    result = train(config, model, data=training_data(model, *records))
    folder = result.save(tmp_path / "run")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    adapter = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert names == {"README.md", "config.json", "log.csv", "manifest.json", "result.json", *adapter}
    assert set(json.loads((folder / "manifest.json").read_text())["sha256"]) == names - {"manifest.json"}
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["steps"], saved["plan"]["alpha"]) == (6, PLAN.alpha.tolist())
    texts = ["there is no effusion ."]
    expected = result.model.encode_texts(texts)
    # the adapters are added in another order of operations: units in the last place
    torch.testing.assert_close(load_run(model, folder).encode_texts(texts), expected, rtol=0, atol=2e-6)
    again = load_lora(copy.deepcopy(model.source), folder / "adapter")
    torch.testing.assert_close(
        ts.wrap(again, tokenizer=model.text.tokenizer).encode_texts(texts), expected, rtol=0, atol=2e-6
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# -- transformers' Trainer ------------------------------------------------------------------------------------------


class Wrapped(torch.nn.Module):
    """A user's module around a CLIP; its loss has a gradient that does not depend on the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = open_clip_model(layers=3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": x.mean() * sum(parameter.sum() for parameter in self.clip.parameters())}


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
def test_callback_scales_the_trainers_optimizer(tmp_path, optim):
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim=optim,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    updates = []
    for scaled in (False, True):
        module = Wrapped()
        before = weights(module.clip)
        callbacks = [PLAN.callback("update", module=module.clip, others=1)] if scaled else []
        Trainer(module, arguments, train_dataset=[{"x": torch.ones(1)}] * 4, callbacks=callbacks).train()
        updates.append({name: value - before[name] for name, value in module.clip.state_dict().items()})
    free, scaled_updates = updates
    for layer, multiplier in enumerate(PLAN.multipliers):
        name = f"transformer.resblocks.{layer}.mlp.c_fc.weight"
        # float32 parameters of order 1 and updates of order 1e-2: 1e-5 relative precision of an update
        torch.testing.assert_close(scaled_updates[name], multiplier * free[name], rtol=1e-3, atol=1e-6)
    vision = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert free[vision].any()
    torch.testing.assert_close(scaled_updates[vision], free[vision])


def test_callback_refuses_an_unknown_mode():
    with pytest.raises(PrescriptionError, match="'both'"):
        PLAN.callback("both")


def test_data_of_another_width_and_callbacks_that_are_none_are_refused_before_the_first_step(tmp_path):
    """The one was torch's error about shapes, the other Python's, after a step and a checkpoint."""
    model, small = ts.load("phantom"), ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())
    texts, images = ["no edema", "edema"], torch.eye(16)[:2]
    captions = [CaptionRecord(id=str(i), image=x, caption=texts[i], group=str(i)) for i, x in enumerate(images)]
    claims = [ClaimRecord(id="a", image=images[0], claims=texts, label=0, attribute="x", group="a")]
    data, config = training_data(small, captions, claims), TrainConfig(steps=1, batch_size=2, rank=1)
    with pytest.raises(DataFormatError, match=f"of width 16, but the model's are {model.embed_dim} wide"):
        train(config, model, data=data)
    with pytest.raises(ArgumentError, match="callbacks must be functions, each of a step, not 'print'"):
        train(config, small, data=data, callbacks="print", checkpoints=tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []

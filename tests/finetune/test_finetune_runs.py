"""A saved run and a plan belong to the model that they came from: another one is refused, or said."""

from __future__ import annotations

import copy
import errno
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import WordTokenizer
from safetensors.torch import load_file, save_file

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import DataFormatError, OutputError, PrescriptionError
from tracescribe.finetune import Prescription, TrainConfig, load_lora, read_config, train
from tracescribe.finetune.training import runs
from tracescribe.finetune.training.data import TrainingData, training_data
from tracescribe.finetune.training.page import run_page
from tracescribe.finetune.training.runs import is_finished, load_run

PLAN = Prescription(np.array([0.2, 1.0, 0.6]))
TEXTS = ["there is effusion .", "there is no effusion ."]


@pytest.fixture
def model(make_clip) -> ts.DualEncoder:
    return ts.wrap(make_clip(layers=3), tokenizer=WordTokenizer())


def data_for(model: ts.DualEncoder) -> TrainingData:
    images = torch.eye(16)[:4]
    captions = [CaptionRecord(id=str(i), image=x, caption=TEXTS[i % 2], group=str(i)) for i, x in enumerate(images)]
    claims = [
        ClaimRecord(id=str(i), image=x, claims=TEXTS, label=i % 2, attribute="existence", group=str(i))
        for i, x in enumerate(images)
    ]
    return training_data(model, captions, claims)


def run_of(model: ts.DualEncoder, **options):
    return train(TrainConfig(steps=2, batch_size=2, rank=2, **options), model, data=data_for(model))


def same(one: ts.DualEncoder, other: ts.DualEncoder) -> bool:
    # the adapters are merged in another order of operations: units in the last place
    return torch.allclose(one.encode_texts(TEXTS), other.encode_texts(TEXTS), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["mine", "phantom:elsewhere"])
def test_a_run_names_the_model_that_it_was_given(make_clip, tmp_path, name):
    """Not the one that its configuration would have loaded."""
    model = ts.wrap(make_clip(layers=3), tokenizer=WordTokenizer(), name=name)
    result = run_of(model)
    assert repr(result).startswith(f"TrainResult({name}: 2 steps")
    folder = result.save(tmp_path / "run")
    assert read_config(folder / "config.json").model == result.config.model == name
    use = "load_run(MODEL, " if name == "mine" else f"load_run(ts.load({name!r}), "
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert use in card and f"# {name}, fine-tuned" in card
    assert run_page(folder).title == f"Fine-tuning of {name}"
    told = TrainConfig(steps=1, batch_size=2, rank=2, model="hf:where-it-is")  # who says it knows better
    assert train(told, model, data=data_for(model)).config.model == "hf:where-it-is"


def test_a_run_of_other_weights_is_refused(model, tmp_path):
    folder = run_of(model).save(tmp_path / "run")
    with torch.no_grad():
        model.source.transformer.resblocks[1].mlp.c_fc.weight[0, 0] += 0.5
    with pytest.raises(DataFormatError, match="other text weights"):
        load_run(model, folder)
    load_lora(model.source, folder / "adapter")  # who asks for the adapters alone gets them


def test_a_run_of_the_first_format_is_refused_with_the_reason(model, tmp_path):
    # adapters on out_proj counted once then: the same file would now give another model
    folder = run_of(model).save(tmp_path / "run")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("tracescribe.run/2", "tracescribe.run/1"))
    with pytest.raises(DataFormatError, match=r"'tracescribe\.run/1'.*counted once.*count it twice.*train again"):
        load_run(model, folder)
    assert read_config(folder / "config.json").steps == 2  # what its message advises works


@pytest.mark.parametrize("layers", [2, 4])
def test_adapters_of_a_shorter_or_longer_tower_are_refused(model, make_clip, tmp_path, layers):
    folder = run_of(model).save(tmp_path / "run")
    other = make_clip(layers=layers)
    with pytest.raises(DataFormatError, match="do not fit"):  # peft would pass over the blocks that do not match
        load_lora(other, folder / "adapter")


def test_adapters_with_a_missing_tensor_are_refused(model, tmp_path):
    path = run_of(model).save(tmp_path / "run") / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    del state[sorted(state)[0]]
    save_file(state, path)
    with pytest.raises(DataFormatError, match="1 tensors are in one of the two only"):
        load_lora(model.source, path.parent)
    with pytest.raises(DataFormatError, match=r"damaged: 'adapter/adapter_model\.safetensors' is not the file"):
        load_run(model, tmp_path / "run")


def test_one_flipped_bit_of_any_file_of_a_run_is_found(model, tmp_path):
    folder = run_of(model).save(tmp_path / "run")
    chance = np.random.default_rng(0)
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"):
        good = path.read_bytes()
        for bit in chance.integers(8 * len(good), size=10):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            with pytest.raises(DataFormatError, match=f"damaged: .*{path.name}"):
                load_run(model, folder)
        path.unlink()
        with pytest.raises(DataFormatError, match=f"{path.name}.* is missing"):
            load_run(model, folder)
        path.write_bytes(good)
    load_run(model, folder)
    with pytest.raises(DataFormatError, match="is no result of tracescribe"):
        load_run(model, tmp_path)


def test_damaged_and_missing_adapters_are_refused_without_a_look_at_the_network(model, tmp_path):
    path = run_of(model).save(tmp_path / "run") / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataFormatError, match="cut short"):
        load_lora(model.source, path.parent)
    path.unlink()
    with pytest.raises(DataFormatError, match="is missing"):
        load_lora(model.source, path.parent)


def test_the_model_that_an_adapter_names_is_not_looked_for_on_the_network(model, tmp_path, monkeypatch):
    """peft asked the hub for it, whatever name a stranger's file held."""
    from peft.utils import save_and_load

    folder = run_of(model).save(tmp_path / "run") / "adapter"
    content = json.loads((folder / "adapter_config.json").read_text())
    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", lambda *_: pytest.fail("looked on the network"))
    (folder / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": "some/model"}))
    adapted = load_lora(copy.deepcopy(model.source), folder)
    assert adapted.active_peft_config.base_model_name_or_path == "some/model"
    (folder / "adapter_config.json").write_text(json.dumps(content | {"base_model_name_or_path": 1}))
    with pytest.raises(DataFormatError, match="'base_model_name_or_path' must be a text, not '1'"):
        load_lora(copy.deepcopy(model.source), folder)


def test_an_earlier_run_is_replaced_only_when_asked_and_a_finished_one_is_never_lost(model, tmp_path):
    first, second = run_of(model), run_of(model, seed=1)
    folder = first.save(tmp_path / "run")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for place in ("run", "data", "file/run"):
        with pytest.raises(OutputError, match=r"the run was kept in '(.*)'") as caught:
            second.save(tmp_path / place)
        kept = Path(re.search(r"kept in '(.*)'", str(caught.value))[1])
        assert same(load_run(model, kept), second.model)
        shutil.rmtree(kept)
    assert same(load_run(model, folder), first.model)
    assert (tmp_path / "data" / "chapter.txt").read_text() == "years of work"
    assert same(load_run(model, second.save(folder, overwrite=True)), second.model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file", "run"]


def test_a_disk_that_fills_while_a_run_is_saved_loses_no_training(model, tmp_path, monkeypatch):
    result = run_of(model)
    (tmp_path / "full").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(runs.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    write = runs._write

    def full(result, folder, target):
        write(result, folder, target)
        if (tmp_path / "full") in folder.parents:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs, "_write", full)
    with pytest.raises(OutputError, match=r"No space left on device; the run was kept in '.*temporary") as caught:
        result.save(tmp_path / "full" / "run")
    kept = Path(re.search(r"kept in '(.*)'", str(caught.value))[1])
    assert same(load_run(model, kept), result.model)
    assert not any((tmp_path / "full").iterdir())


def test_the_configuration_of_a_run_is_read_back_and_gives_the_same_run(model, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    PLAN.save("plan.json")
    first = run_of(model, weighting="update", plan=PLAN, captions=Path("a.jsonl"))
    config = read_config(first.save("runs/first") / "config.json")
    assert config.captions.resolve() == tmp_path / "work" / "a.jsonl"
    np.testing.assert_array_equal(config.plan.alpha, PLAN.alpha)
    again = train(config, model, data=data_for(model))
    np.testing.assert_array_equal(again.history.loss, first.history.loss)
    by_path = run_of(model, weighting="update", plan=Path("plan.json"))
    Path("plan.json").unlink()  # the run holds its plan in full
    config = read_config(by_path.save("runs/second") / "config.json")
    np.testing.assert_array_equal(config.plan.alpha, PLAN.alpha)
    np.testing.assert_array_equal(train(config, model, data=data_for(model)).history.loss, first.history.loss)


def test_a_run_is_finished_with_the_plan_and_the_data_that_it_was_trained_with(make_clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ts.wrap(make_clip(layers=3), tokenizer=WordTokenizer())
    PLAN.save("plan.json")
    said = {"group": "p", "image": {"text": TEXTS[0]}}
    captions = [{"id": str(i), "caption": text, **said} for i, text in enumerate(TEXTS)]
    claims = [{"id": str(i), "claims": TEXTS, "label": i, "attribute": "existence", **said} for i in range(2)]
    for name, records in (("captions", captions), ("claims", claims)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = {"captions": Path("captions.jsonl"), "claims": Path("claims.jsonl"), "split": None}
    config = TrainConfig(steps=1, batch_size=2, rank=2, weighting="update", plan=Path("plan.json"), **files)
    folder = train(config, model, progress=False).save("run")
    config = config.model_copy(update={"model": read_config(folder / "config.json").model})
    assert is_finished(folder, config)
    assert is_finished(folder, config.model_copy(update={"plan": PLAN}))
    assert not is_finished(folder, config.model_copy(update={"steps": 2}))
    PLAN.inverse().save("plan.json")
    assert not is_finished(folder, config)
    PLAN.save("plan.json")
    before = Path("claims.jsonl").read_text()
    Path("claims.jsonl").write_text(before.replace('"label": 0', '"label": 1'))
    assert not is_finished(folder, config)
    Path("claims.jsonl").unlink()  # then nobody can train on other ones
    assert is_finished(folder, config)
    Path("plan.json").unlink()
    assert not is_finished(folder, config)


def test_the_adapters_scale_is_2_for_every_rank_unless_it_is_said():
    assert [TrainConfig(rank=rank).lora_alpha for rank in (1, 4, 16)] == [2, 8, 32]
    assert TrainConfig(rank=16, lora_alpha=8).lora_alpha == 8


@pytest.mark.parametrize("mode", ["scale", "rank", "mask"])
def test_arms_of_every_mode_start_from_the_same_adapters(model, mode):
    def start(**options):
        # a rate of which nothing is left: the adapters end as they started
        run = run_of(model, lr=1e-30, weight_decay=0.0, **options)
        return {name: value for name, value in run.source.named_parameters() if ".lora_A." in name}

    uniform = start()
    other = start(plan=PLAN, lora_mode=mode)
    assert set(other) <= set(uniform) and other
    for name, value in other.items():
        shared = min(len(value), len(uniform[name]))
        torch.testing.assert_close(value[:shared], uniform[name][:shared], rtol=0, atol=0)


@pytest.mark.parametrize(
    "bad",
    [{"seed": 2**64}, {"rank": 10**11}, {"steps": 10**30}, {"steps": True}, {"lr": float("inf")}, {"lambda_": False}],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(PrescriptionError):
        TrainConfig(**bad)


@pytest.mark.parametrize(
    ("weighting", "lora_mode"), [("lr", None), ("update", None), ("update", "rank"), ("uniform", "scale")]
)
def test_a_plan_traced_on_other_weights_is_said_once(model, caplog, weighting, lora_mode):
    own = {"trace": {"model": "mine", "weights_sha256": model.text.fingerprint()}}
    foreign = {"trace": {"model": "hf:other", "weights_sha256": "0" * 64}}
    for provenance, said in ((own, False), (foreign, True), ({}, False)):
        caplog.clear()
        plan = Prescription(np.array([0.2, 1.0, 0.6]), provenance=provenance)
        with caplog.at_level(logging.WARNING):
            result = run_of(model, weighting=weighting, lora_mode=lora_mode, plan=plan)
        assert sum("hf:other" in record.getMessage() for record in caplog.records) == said
        assert result.plan.provenance.get("trace") == provenance.get("trace")

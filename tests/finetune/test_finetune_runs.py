"""A saved run and a plan belong to the model that they came from: another one is refused, or said."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from models import WordTokenizer
from safetensors.torch import load_file, save_file

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import DataFormatError
from tracescribe.finetune import Prescription, TrainConfig, load_lora, train
from tracescribe.finetune.training.data import TrainingData, training_data
from tracescribe.finetune.training.runs import load_run

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


def test_a_run_of_other_weights_is_refused(model, tmp_path):
    folder = run_of(model).save(tmp_path / "run")
    with torch.no_grad():
        model.source.transformer.resblocks[1].mlp.c_fc.weight[0, 0] += 0.5
    with pytest.raises(DataFormatError, match="other text weights"):
        load_run(model, folder)
    load_lora(model.source, folder / "adapter")  # who asks for the adapters alone gets them


@pytest.mark.parametrize("layers", [2, 4])
def test_adapters_of_a_shorter_or_longer_tower_are_refused(model, make_clip, tmp_path, layers):
    folder = run_of(model).save(tmp_path / "run")
    other = make_clip(layers=layers)
    with pytest.raises(DataFormatError, match="do not fit"):  # peft would pass over the blocks that do not match
        load_lora(other, folder / "adapter")


def test_adapters_with_a_missing_tensor_are_refused(model, tmp_path):
    folder = run_of(model).save(tmp_path / "run")
    path = folder / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    del state[sorted(state)[0]]
    save_file(state, path)
    with pytest.raises(DataFormatError, match="1 tensors are in one of the two only"):
        load_run(model, folder)


def test_damaged_and_missing_adapters_are_refused_without_a_look_at_the_network(model, tmp_path):
    path = run_of(model).save(tmp_path / "run") / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataFormatError, match="cut short"):
        load_run(model, tmp_path / "run")
    path.unlink()
    with pytest.raises(DataFormatError, match="is missing"):
        load_run(model, tmp_path / "run")


def test_a_plan_traced_on_other_weights_is_said(model, caplog):
    own = {"trace": {"model": "mine", "weights_sha256": model.text.fingerprint()}}
    foreign = {"trace": {"model": "hf:other", "weights_sha256": "0" * 64}}
    for provenance, said in ((own, False), (foreign, True), ({}, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="tracescribe.finetune.training.loop"):
            run_of(model, weighting="lr", plan=Prescription(np.array([0.2, 1.0, 0.6]), provenance=provenance))
        assert ("hf:other" in caplog.text) is said

"""The fast training step has the numbers of the plain loop, at a fraction of its operations."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from bounds import TRAINED
from models import WordTokenizer, in_double, open_clip_model, source_encoder, transformers_model
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.finetune import Prescription, ScaleInvariantOptimizerWarning, TrainConfig, train
from tracescribe.finetune.apply.lora import attach_lora, lora_config
from tracescribe.finetune.losses import claim_loss, clip_loss, nast_loss
from tracescribe.finetune.training.data import TrainingData, training_data

FINDINGS = ("effusion", "edema", "nodule", "device", "left sided effusion", "small nodule in the right lung")
CONFIG = {"steps": 8, "batch_size": 4, "lr": 5e-3, "rank": 2, "lora_alpha": 4.0}


def prepared(model: ts.DualEncoder) -> tuple[TrainingData, torch.Tensor]:
    """Captions and claims of two to ten words on 12 images, and the pixels of the images."""
    pixels = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(model.text.dtype)
    captions, claims = [], []
    for i in range(12):
        image, finding = model.encode_images(pixels[i : i + 1])[0], FINDINGS[i % 6]
        text, foil = f"there is {'no ' if i >= 6 else ''}{finding}", f"there is {'' if i >= 6 else 'no '}{finding}"
        captions.append(CaptionRecord(id=str(i), image=image, caption=text, group=str(i)))
        claims.append(
            ClaimRecord(id=str(i), image=image, claims=[foil, text], label=1, attribute="existence", group=str(i))
        )
    return training_data(model, captions, claims), pixels  # embedding i is that of pixels[i]


def plain_loop(
    model: ts.DualEncoder, data: TrainingData, pixels: torch.Tensor, config: TrainConfig, how: str = "uniform"
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """What a user would write: the source's own encoders under peft, every image and every text at every step.

    ``attach_lora`` stands for ``get_peft_model``, whose layer gives the adapter of out_proj half of its gradient.
    """
    source = copy.deepcopy(model.source).requires_grad_(False)
    settings = lora_config(source, config.plan, config.lora_mode, r=config.rank, lora_alpha=4.0)
    source = attach_lora(source, settings, seed=config.seed)
    parameters = [parameter for parameter in source.parameters() if parameter.requires_grad]
    if how == "lr":
        parameters = config.plan.param_groups(source, config.lr)
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    if how == "update":
        config.plan.attach(source, optimizer, mode=how)
    context = torch.zeros(len(data.tokens), model.text.context_length, dtype=torch.long)
    context[:, : data.tokens.shape[1]] = data.tokens
    base, losses = source.get_base_model(), []
    encode_image = model._adapter.encode_image
    places = torch.arange(len(data.images))[:, None]
    numbered = TrainingData(**vars(data) | {"images": places})  # batches of image numbers in place of embeddings
    for batch in numbered.batches(config.batch_size, config.steps, config.seed):
        images = normalize(encode_image(base, pixels[torch.cat([batch.caption_image, batch.claim_image])[:, 0]]))
        texts = normalize(source_encoder(base, context[torch.cat([batch.caption, batch.claims.flatten()])]))
        n = config.batch_size
        clip = clip_loss(images[:n], texts[:n], model.logit_scale)
        claims = texts[n:].unflatten(0, batch.claims.shape)
        loss = nast_loss(
            clip,
            claim_loss(images[n:], claims, batch.label, model.logit_scale, batch.present),
            config.lambda_,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, adapters_of(source)


def adapters_of(source: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in source.named_parameters() if ".lora_" in name}


@pytest.fixture(params=["open_clip", "transformers"])
def model(request) -> ts.DualEncoder:
    build = {"open_clip": open_clip_model, "transformers": transformers_model}[request.param]
    return ts.wrap(build(layers=3), tokenizer=WordTokenizer())


@pytest.fixture
def clip() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer())


# -- the same numbers -----------------------------------------------------------------------------------------------

ARMS = {
    "uniform": {},
    "lowest block held still, scaled steps": {"weighting": "update", "plan": Prescription(np.array([0.0, 1.0, 0.5]))},
    "lowest block held still, rates": {"weighting": "lr", "plan": Prescription(np.array([0.0, 1.0, 0.5]))},
    "adapters in the last block only": {"lora_mode": "mask", "plan": Prescription(np.array([0.0, 0.2, 1.0]))},
}


@pytest.mark.parametrize("arm", ARMS)
def test_losses_and_adapters_are_those_of_the_plain_loop(model, arm):
    config = TrainConfig(**CONFIG, **ARMS[arm], budget="none")
    model = in_double(model)
    data, pixels = prepared(model)
    losses, adapters = plain_loop(model, data, pixels, config, config.weighting)
    result = train(config, model, data=data)
    np.testing.assert_allclose(result.history.loss, losses, rtol=TRAINED)
    ours = adapters_of(result.source)
    assert ours.keys() == adapters.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, adapters[name], rtol=0, atol=TRAINED, msg=name)
    learnt = max(float(value.abs().max()) for name, value in ours.items() if ".lora_B." in name)
    assert learnt > 1e-2  # B starts at 0
    assert all(parameter.requires_grad for name, parameter in result.source.named_parameters() if ".lora_" in name)


@pytest.mark.parametrize("weighting", ["update", "lr"])
def test_adapters_that_the_plan_holds_still_stay_bit_for_bit(clip, weighting):
    data, _ = prepared(clip)
    plan = Prescription(np.array([1.0, 0.0, 0.5]))
    start, end = (
        adapters_of(train(TrainConfig(**CONFIG | {"steps": n}, weighting=weighting, plan=plan), clip, data=data).source)
        for n in (1, 8)
    )
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert {name.split("resblocks.")[1][0] for name in changed} == {"0", "2"}


# -- fewer operations -----------------------------------------------------------------------------------------------


def test_a_step_costs_two_passes_over_distinct_unpadded_texts(monkeypatch):
    """Operations, not seconds: a guard that no other job on the machine can disturb."""
    monkeypatch.setattr(
        "tracescribe.finetune.training.packing.BUCKET_ROWS", 0
    )  # texts as short as these would share buckets
    clip = ts.wrap(open_clip_model(layers=4, width=128, context_length=77), tokenizer=WordTokenizer())
    data, pixels = prepared(clip)

    def operations(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    def config(steps: int) -> TrainConfig:
        return TrainConfig(**CONFIG | {"steps": steps, "rank": 1})

    step = operations(lambda: train(config(2), clip, data=data)) - operations(lambda: train(config(1), clip, data=data))
    _, second = data.batches(4, 2, seed=0)
    texts = torch.unique(torch.cat([second.caption, second.claims.flatten()]))
    rows = int(data.lengths[texts].sum())
    weights = sum(w.numel() for n, w in clip.text.named_parameters() if ".blocks." in f".{n}" and w.ndim == 2)
    passes = step / (2 * rows * weights)
    # forward and gradient of the hidden states: 2; attention and adapters come on top, the rows of the last block
    # that are not read out come off. The gradient of merged weights would make it 3.
    assert 1.5 < passes < 2.2
    plain = operations(lambda: plain_loop(clip, data, pixels, config(1)))
    assert plain > 8 * step  # texts of at most 10 words in a context of 77, a small image tower: 20 times, in fact


def test_layer_scaling_adds_no_operation_per_tensor(clip):
    """The share of a step that it takes is measured by perf/bench_train.py; what would let it grow is held here."""

    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket not in (torch.ops.aten.detach, torch.ops.aten.alias):
                self.count += 1
            return func(*args, **(kwargs or {}))

    def calls(r: int, mode: str | None) -> int:
        source = copy.deepcopy(clip.source)
        source = attach_lora(source, lora_config(source, r=r))
        parameters = [parameter for parameter in source.parameters() if parameter.requires_grad]
        assert len(parameters) == 24
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
        if mode:
            Prescription(np.array([0.0, 1.0, 0.5])).attach(source, optimizer, mode=mode)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with Calls() as counted:
            optimizer.step()
        return counted.count

    assert calls(2, "update") - calls(2, None) == 4  # keep, difference, interpolate, write back


def test_gradient_mode_multiplies_each_gradient_once(clip):
    data, _ = prepared(clip)
    plan = Prescription(np.array([0.0, 1.0, 0.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScaleInvariantOptimizerWarning)
        result = train(TrainConfig(**CONFIG, weighting="gradient", plan=plan, budget="none"), clip, data=data)
    still = [value for name, value in adapters_of(result.source).items() if "s.0." in name and ".lora_B." in name]
    assert still and not any(value.any() for value in still)

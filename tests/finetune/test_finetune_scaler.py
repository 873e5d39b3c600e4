"""Plans under a gradient scaler (fp16): what it skips changes nothing, what it scales is unscaled exactly."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import OptionError, PrescriptionError
from tracescribe.finetune import Prescription, ScaleInvariantOptimizerWarning, TrainConfig, train
from tracescribe.finetune.training import loop
from tracescribe.finetune.training.data import training_data
from tracescribe.patching import text_blocks

ALPHA = np.array([0.3, 1.0, 0.0])
PLAN = Prescription(ALPHA)
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
    "Adagrad, fused": lambda p: torch.optim.Adagrad(p, lr=1e-2, fused=True),
}


def backward(module: torch.nn.Module, seed: int | None, scaler: torch.amp.GradScaler) -> None:
    """Gradients that do not depend on the weights, of a scaled loss; without a seed the loss overflows."""
    generator = torch.Generator().manual_seed(seed or 0)
    draws = [torch.randn(p.shape, generator=generator).to(p) for p in module.parameters()]
    loss = sum((p * g).sum() for p, g in zip(module.parameters(), draws, strict=True))
    (scaler.scale(loss) * (np.inf if seed is None else 1)).backward()


def steps(
    make: Callable[[Any], torch.optim.Optimizer], mode: str, seeds: list[int | None], scaled: bool, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """All that a run ends in: weights, the optimiser's state, the plan's remainders and realised ratios.

    seeds: of each step's gradients; None is a step whose loss overflows.
    """
    module = open_clip_model(layers=3).to(dtype)
    optimizer = make(module.parameters())
    handle = PLAN.attach(module, optimizer, mode=mode)
    scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**10, enabled=scaled)
    for seed in seeds:
        optimizer.zero_grad()
        backward(module, seed, scaler)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    found = {f"weight/{name}": p.detach() for name, p in module.named_parameters()}
    found |= {f"plan/{name}": value for name, value in handle.state().items()}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{number}/{name}": value for name, value in state.items() if torch.is_tensor(value)}
    if mode == "update":
        found["realised"] = torch.from_numpy(handle.realised())
    return found


@pytest.mark.filterwarnings("ignore::tracescribe.finetune.ScaleInvariantOptimizerWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["update", "gradient"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scaler_and_a_step_that_it_skips_leave_no_trace(name, mode, dtype):
    """Scales are powers of two, so that the same bytes come out: of fused steps torch calls the skipped ones too."""
    run = OPTIMIZERS[name], mode
    plain = steps(*run, [1, 2, 3], scaled=False, dtype=dtype)
    scaled = steps(*run, [1, 2, None, 3, None], scaled=True, dtype=dtype)
    assert plain.keys() == scaled.keys()
    for name, value in plain.items():
        assert torch.equal(value, scaled[name]), name
    if mode == "update":  # bfloat16 rounds a step of a few units in the last place
        tolerance = 1e-3 if dtype == torch.float32 else 0.3
        np.testing.assert_allclose(scaled["realised"], ALPHA, atol=tolerance)


@pytest.mark.parametrize("make", [OPTIMIZERS["AdamW"], OPTIMIZERS["AdamW, fused"]], ids=["plain", "fused"])
def test_before_the_first_step_that_is_taken_there_is_no_ratio(make):
    module = open_clip_model(layers=3)
    optimizer = make(module.parameters())
    handle = PLAN.attach(module, optimizer)
    scaler = torch.amp.GradScaler(device="cpu")
    backward(module, None, scaler)
    scaler.step(optimizer)
    with pytest.raises(PrescriptionError, match="no step was seen yet"):
        handle.realised()


@pytest.mark.parametrize("mode", ["update", "gradient"])
def test_accelerates_optimiser_with_a_scaler(mode):
    """accelerate makes no scaler for a CPU; its optimiser is given one here, as on a GPU."""
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    make = OPTIMIZERS["SGD, fused" if mode == "gradient" else "AdamW, fused"]
    before = {name: p.detach() for name, p in open_clip_model(layers=3).named_parameters()}
    moved = []
    for plan in (PLAN, PLAN.uniform()):
        module = open_clip_model(layers=3)
        optimizer = make(module.parameters())
        scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**10)
        stepper = AcceleratedOptimizer(optimizer, device_placement=False, scaler=scaler)
        plan.attach(module, stepper, mode=mode)
        for seed in (1, None):
            stepper.zero_grad()
            backward(module, seed, scaler)
            stepper.step()
        inside = [{id(p) for p in block.parameters()} for block in text_blocks(module)]
        change = [(p, float((p.detach() - before[name]).norm())) for name, p in module.named_parameters()]
        moved.append(np.array([sum(size for p, size in change if id(p) in block) for block in inside]))
    np.testing.assert_allclose(moved[0] / moved[1], ALPHA, atol=1e-3)


# -- our own loop ----------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer())


@pytest.fixture
def data(model):
    generator = torch.Generator().manual_seed(0)
    captions, claims = [], []
    for i in range(8):
        image, finding = torch.randn(16, generator=generator), ("effusion", "edema", "nodule", "device")[i % 4]
        texts = [f"there is {no}{finding} ." for no in ("", "no ")]
        captions.append(CaptionRecord(id=str(i), image=image, caption=texts[i % 2], group=str(i)))
        claims.append(ClaimRecord(id=str(i), image=image, claims=texts, label=i % 2, attribute="existence", group="1"))
    return training_data(model, captions, claims)


@contextlib.contextmanager
def with_scaler(config: TrainConfig, device: torch.device):
    """An Accelerator as on a GPU: autocast to float16, and a scaler that begins too high."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    made = Accelerator(mixed_precision="fp16", cpu=True)
    made.native_amp = True
    made.scaler = torch.amp.GradScaler(device="cpu", init_scale=2.0**20)
    yield made
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("weighting", ["lr", "update", "gradient"])
def test_training_in_fp16_skips_overflows_and_resumes_in_the_same_bytes(model, data, weighting, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "accelerator_for", with_scaler)
    monkeypatch.setattr(loop, "check_precision", lambda config, device: None)
    config = TrainConfig(
        steps=10,
        batch_size=4,
        rank=2,
        lr=5e-3,
        precision="fp16",
        weighting=weighting,
        plan=Prescription(np.array([0.3, 1.0, 0.6])),
        clip_norm=1.0,
        optimizer="sgd" if weighting == "gradient" else "adamw",
    )
    moved: list[bool] = []
    made: list[loop.Progress] = []

    class Watched(loop.Progress):
        def step(self, batches):
            made.append(self)
            before = {name: weight.clone() for name, weight in self.adapters().items()}
            values = super().step(batches)
            moved.append(any(not torch.equal(before[name], weight) for name, weight in self.adapters().items()))
            return values

    monkeypatch.setattr(loop, "Progress", Watched)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's of a schedule before the first step
        warnings.simplefilter("ignore", ScaleInvariantOptimizerWarning)
        straight = train(config, model, data=data)
    skipped = moved.count(False)
    assert 1 <= skipped < 8 and moved == [False] * skipped + [True] * (10 - skipped)
    assert made[-1].accelerator.scaler.get_scale() == 2.0 ** (20 - skipped)
    if config.optimizer == "adamw":
        assert {float(state["step"]) for state in made[-1].optimizer.state.values()} == {10.0 - skipped}
    if weighting == "update":
        np.testing.assert_allclose(made[-1].attached.realised(), straight.plan.multipliers, atol=2e-3)

    class Stop(Exception):
        pass

    def stop(step):
        if step.step == skipped:
            raise Stop

    with pytest.raises(Stop):
        train(config, model, data=data, checkpoints=tmp_path / "c", callbacks=[stop])
    resumed = train(config, model, data=data, checkpoints=tmp_path / "c", resume=True)
    for (name, one), other in zip(
        straight.source.state_dict().items(), resumed.source.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    np.testing.assert_array_equal(straight.history.loss, resumed.history.loss)


def test_fp16_on_a_cpu_is_refused_before_anything_is_read(model, tmp_path):
    config = TrainConfig(steps=1, precision="fp16", captions=tmp_path / "none", claims=tmp_path / "none")
    with pytest.raises(OptionError, match=r"precision 'fp16' needs an accelerator; on a CPU use 'bf16' or 'float32'"):
        train(config, model)


def test_a_precision_that_accelerate_refuses_is_said_in_a_sentence(model, data, monkeypatch):
    import accelerate

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("bf16 mixed precision requires PyTorch >= 1.10 and a supported device.")

    monkeypatch.setattr(accelerate, "Accelerator", refuse)
    with pytest.raises(OptionError, match=r"precision 'bf16' on the device 'cpu': bf16 mixed precision requires"):
        train(TrainConfig(steps=1, batch_size=2, precision="bf16"), model, data=data)

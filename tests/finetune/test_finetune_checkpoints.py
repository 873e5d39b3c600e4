"""Checkpoints: a run that was stopped and goes on ends in the same bytes; nothing is lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model
from safetensors import SafetensorError

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.errors import DataFormatError, NonFiniteError, OutputError
from tracescribe.finetune import Prescription, TrainConfig, train
from tracescribe.finetune.training import checkpoints as checkpoints_module
from tracescribe.finetune.training import loop
from tracescribe.finetune.training.checkpoints import identity
from tracescribe.finetune.training.data import training_data
from tracescribe.finetune.training.progress import rate_factor

STEPS = 6
PLANS = {
    "uniform": {},
    "update": {"weighting": "update", "plan": Prescription(np.array([0.2, 1.0, 0.6]))},
    "lr": {"weighting": "lr", "plan": Prescription(np.array([0.2, 1.0, 0.6]))},
    # block 1 is frozen: its states are kept by text, and must come back as they were computed first
    "frozen": {"weighting": "update", "plan": Prescription(np.array([0.0, 1.0, 0.6]))},
    "rank": {"lora_mode": "rank", "plan": Prescription(np.array([0.0, 1.0, 0.6]))},
}


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer())


@pytest.fixture(scope="module")
def data(model):
    findings = ("effusion", "edema", "nodule", "device")
    generator = torch.Generator().manual_seed(0)
    captions, claims = [], []
    for i in range(10):
        image = torch.randn(16, generator=generator)
        more = " ".join(findings[: 1 + i % 4])
        text, foil = f"there is {more} .", f"there is no {more} ."
        captions.append(CaptionRecord(id=str(i), image=image, caption=text, group=str(i)))
        claims.append(
            ClaimRecord(id=str(i), image=image, claims=[foil, text], label=1, attribute="existence", group=str(i))
        )
    return training_data(model, captions, claims)


def settings(kind: str = "uniform", **options) -> TrainConfig:
    return TrainConfig(
        **{
            "steps": STEPS,
            "batch_size": 3,
            "lr": 5e-3,
            "rank": 2,
            "warmup": 1,
            "schedule": "cosine",
            "clip_norm": 0.5,
            "accumulate": 2,
            "checkpoint_every": 2,
            **PLANS[kind],
            **options,
        }
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file but the manifest, which holds the time."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


class Stop(Exception):
    pass


def stop_after(step: int):
    def callback(at):
        if at.step == step:
            raise Stop

    return callback


@pytest.mark.parametrize("kind", PLANS)
def test_a_run_stopped_after_any_step_ends_in_the_same_bytes(kind, model, data, tmp_path):
    whole = train(settings(kind), model, data=data, checkpoints=tmp_path / "whole-checkpoint")
    expected = files_of(whole.save(tmp_path / "whole"))
    assert {"adapter/adapter_model.safetensors", "log.csv", "config.json", "result.json"} <= set(expected)
    for stops in ((1,), (3,), (2, 4), (1, 2, 3, 4, 5)):
        folder = tmp_path / f"checkpoint-{len(stops)}-{stops[0]}"
        for stop in stops:
            with pytest.raises(Stop):
                train(settings(kind), model, data=data, checkpoints=folder, resume=True, callbacks=[stop_after(stop)])
        result = train(settings(kind), model, data=data, checkpoints=folder, resume=True)
        assert files_of(result.save(tmp_path / f"run-{len(stops)}-{stops[0]}")) == expected


def test_a_kill_between_checkpoints_goes_on_from_the_last_one(model, data, tmp_path, monkeypatch):
    whole = train(settings("frozen"), model, data=data, checkpoints=tmp_path / "whole-checkpoint")
    expected = files_of(whole.save(tmp_path / "whole"))
    # what a process that is killed at step 5 leaves: the checkpoint of step 4
    kept = {}

    def save(folder, *rest, really=checkpoints_module.save_checkpoint):
        if kept.setdefault("n", 0) < 2:
            kept["n"] += 1
            really(folder, *rest)

    monkeypatch.setattr("tracescribe.finetune.training.loop.save_checkpoint", save)
    with pytest.raises(Stop):
        train(settings("frozen"), model, data=data, checkpoints=tmp_path / "c", callbacks=[stop_after(5)])
    monkeypatch.undo()
    seen = []
    result = train(
        settings("frozen"), model, data=data, checkpoints=tmp_path / "c", resume=True, callbacks=[seen.append]
    )
    assert [step.step for step in seen] == [5, 6]
    assert files_of(result.save(tmp_path / "run")) == expected


def test_a_finished_run_needs_no_further_step(model, data, tmp_path):
    first = train(settings(), model, data=data, checkpoints=tmp_path / "c")
    seen = []
    again = train(settings(), model, data=data, checkpoints=tmp_path / "c", resume=True, callbacks=[seen.append])
    assert not seen
    assert files_of(again.save(tmp_path / "b")) == files_of(first.save(tmp_path / "a"))


def test_half_precision_keeps_the_remainders_of_its_rounding(data, tmp_path):
    def trained(folder=None, stop=None):
        parameter = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
        block = torch.nn.Linear(1, 1)
        block.weight, block.bias = parameter, None
        optimizer = torch.optim.SGD([parameter], lr=0.01)
        from tracescribe.finetune.apply.update import ScaledUpdate

        scaled = ScaledUpdate(optimizer, [[parameter]], [0.3])
        for step in range(6):
            if step == stop:  # go on with new objects and the state only
                state, value = scaled.state(), parameter.detach().clone()
                return trained_on(value, state, range(step, 6))
            parameter.grad = torch.full_like(parameter, 1.0 + step)
            optimizer.step()
        return parameter.detach()

    def trained_on(value, state, steps):
        from tracescribe.finetune.apply.update import ScaledUpdate

        parameter = torch.nn.Parameter(value)
        optimizer = torch.optim.SGD([parameter], lr=0.01)
        scaled = ScaledUpdate(optimizer, [[parameter]], [0.3])
        scaled.load_state(state)
        for step in steps:
            parameter.grad = torch.full_like(parameter, 1.0 + step)
            optimizer.step()
        return parameter.detach()

    assert torch.equal(trained(stop=3), trained())


def test_checkpoints_of_other_runs_are_refused(model, data, tmp_path):
    with pytest.raises(Stop):
        train(settings(), model, data=data, checkpoints=tmp_path / "c", callbacks=[stop_after(2)])
    before = files_of(tmp_path / "c")
    with pytest.raises(OutputError, match="go on with it"):
        train(settings(), model, data=data, checkpoints=tmp_path / "c")
    with pytest.raises(DataFormatError, match=r"other settings \(rank, steps\)"):
        train(settings(rank=1, lora_alpha=4, steps=7), model, data=data, checkpoints=tmp_path / "c", resume=True)
    other = ts.wrap(open_clip_model(seed=1, layers=3), tokenizer=WordTokenizer())
    with pytest.raises(DataFormatError, match="model's weights"):
        train(settings(), other, data=data, checkpoints=tmp_path / "c", resume=True)
    with pytest.raises(DataFormatError, match="training data"):
        train(settings(), model, data=replace(data, images=-data.images), checkpoints=tmp_path / "c", resume=True)
    assert files_of(tmp_path / "c") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an earlier result"):
        train(settings(), model, data=data, checkpoints=tmp_path / "mine", resume=True)
    with pytest.raises(DataFormatError, match="need a folder"):
        train(settings(), model, data=data)


def test_a_plan_file_that_was_changed_since_is_refused_and_one_that_was_moved_is_not(model, data, tmp_path):
    plan = PLANS["update"]["plan"]
    first, moved = tmp_path / "plan.json", tmp_path / "elsewhere.json"
    plan.save(first)
    expected = files_of(
        train(settings("update"), model, data=data, checkpoints=tmp_path / "w").save(tmp_path / "whole")
    )
    with pytest.raises(Stop):
        train(settings("update", plan=first), model, data=data, checkpoints=tmp_path / "c", callbacks=[stop_after(3)])
    plan.inverse().save(first)
    with pytest.raises(DataFormatError, match=r"of a run with other settings \(plan\)"):
        train(settings("update", plan=first), model, data=data, checkpoints=tmp_path / "c", resume=True)
    replace(plan, warnings=("said since",)).save(moved)  # training reads the multipliers
    result = train(settings("update", plan=moved), model, data=data, checkpoints=tmp_path / "c", resume=True)
    found = files_of(result.save(tmp_path / "run"))
    assert found["adapter/adapter_model.safetensors"] == expected["adapter/adapter_model.safetensors"]
    assert found["log.csv"] == expected["log.csv"]


@pytest.mark.parametrize("named", [True, False])
def test_a_checkpoint_of_before_plans_had_a_hash_goes_on(named, model, data, tmp_path, monkeypatch, caplog):
    plan = PLANS["update"]["plan"]
    plan.save(tmp_path / "plan.json")

    def older(config, base, untrained):
        found = identity(config, base, untrained)
        del found["plan_sha256"], found["untrained"]
        found["config"]["plan"] = "plan.json" if named else {**found["config"]["plan"], "warnings": ["of then"]}
        return found

    with monkeypatch.context() as patched:
        patched.setattr(loop, "identity", older)
        with pytest.raises(Stop):
            train(settings("update"), model, data=data, checkpoints=tmp_path / "c", callbacks=[stop_after(3)])
    given = settings("update", plan=tmp_path / "plan.json")
    assert len(train(given, model, data=data, checkpoints=tmp_path / "c", resume=True).history.loss) == STEPS
    assert ("names plan.json, and does not hold it" in caplog.text) == named


def test_a_damaged_checkpoint_is_refused(model, data, tmp_path):
    with pytest.raises(Stop):
        train(settings(), model, data=data, checkpoints=tmp_path / "c", callbacks=[stop_after(2)])
    path = tmp_path / "c" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match="damaged"):
        train(settings(), model, data=data, checkpoints=tmp_path / "c", resume=True)


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_before_it(model, data, tmp_path, caplog):
    def break_after(step):
        if step.step == 3:
            data.images[:] = float("nan")

    kept = data.images.clone()
    with pytest.raises(NonFiniteError, match=r"at step 4 .* the checkpoint of step 2 is kept"):
        train(settings(), model, data=data, checkpoints=tmp_path / "c", callbacks=[break_after])
    data.images[:] = kept
    result = train(settings(lr=1e-3), model, data=data, checkpoints=tmp_path / "c", resume=True)
    assert "going on with lr 0.001 in place of 0.005" in caplog.text
    expected = [rate_factor(settings(), done) * (5e-3 if done < 2 else 1e-3) for done in range(STEPS)]
    np.testing.assert_allclose(result.history.lr, expected, rtol=1e-12)


def test_a_loss_that_is_not_finite_at_once_leaves_no_checkpoint(model, data, tmp_path):
    broken = replace(data, images=torch.full_like(data.images, float("nan")))
    with pytest.raises(NonFiniteError, match=r"at step 1 \("):
        train(settings(), model, data=broken, checkpoints=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_full_disk_keeps_the_earlier_checkpoint_and_stops_no_training(model, data, tmp_path, monkeypatch, caplog):
    expected = train(settings(checkpoint_every=0), model, data=data)
    with pytest.raises(Stop):
        train(settings(), model, data=data, checkpoints=tmp_path / "c", callbacks=[stop_after(2)])
    before = files_of(tmp_path / "c")

    def full(*_args, **_options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    ended = train(settings(), model, data=data, checkpoints=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(ended.history.loss, expected.history.loss)
    said = [record.getMessage() for record in caplog.records if "that of step 2 stays" in record.getMessage()]
    assert said and all("No space left" in text for text in said) and len(set(said)) == len(said)
    train(settings(), model, data=data, checkpoints=tmp_path / "none")
    assert "no checkpoint of step 2, there is no earlier one: " in caplog.text
    monkeypatch.undo()
    assert files_of(tmp_path / "c") == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    again = train(settings(), model, data=data, checkpoints=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(again.history.loss, expected.history.loss)


def test_adapters_that_are_not_finite_are_never_kept(model, data, tmp_path, monkeypatch):
    from tracescribe.finetune.training.progress import Progress

    take = Progress.step

    def spoiling(progress, batches):
        values = take(progress, batches)
        if progress.done == 4:
            next(iter(progress.adapters().values())).fill_(float("nan"))
        return values

    monkeypatch.setattr(Progress, "step", spoiling)
    with pytest.raises(NonFiniteError, match=r"NaN or infinity after step 4; .*checkpoint of step 2 is kept"):
        train(settings(checkpoint_every=2), model, data=data, checkpoints=tmp_path / "c")
    monkeypatch.undo()
    expected = train(settings(checkpoint_every=0), model, data=data)
    again = train(settings(checkpoint_every=2), model, data=data, checkpoints=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(again.history.loss, expected.history.loss)


def interrupted_at(call: int, inner):
    """``inner``, at whose n-th call Ctrl-C is pressed."""
    calls = []

    def function(*args, **options):
        calls.append(0)
        if len(calls) == call:
            raise KeyboardInterrupt
        return inner(*args, **options)

    return function


@pytest.mark.parametrize(
    ("owner", "name"), [(torch.optim.lr_scheduler.LambdaLR, "step"), (torch.optim.AdamW, "step")], ids=["after", "in"]
)
def test_an_interrupt_in_the_middle_of_a_step_keeps_no_state_of_it(owner, name, model, data, tmp_path, monkeypatch):
    """Ctrl-C after the optimiser has moved and before the step is counted: such a state would take the step twice."""
    expected = train(settings(checkpoint_every=0), model, data=data)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted_at(4, getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            train(settings(checkpoint_every=2), model, data=data, checkpoints=tmp_path / "c")
    again = train(settings(checkpoint_every=2), model, data=data, checkpoints=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(again.history.loss, expected.history.loss)


def test_a_second_process_cannot_train_with_the_same_checkpoint(model, data, tmp_path):
    said = []

    def second(step) -> None:
        if step.step == 3:
            with pytest.raises(OutputError, match="another process trains with the checkpoint"):
                train(settings(), model, data=data, checkpoints=tmp_path / "c", resume=True)
            said.append(step)

    train(settings(checkpoint_every=2), model, data=data, checkpoints=tmp_path / "c", callbacks=[second])
    assert said and [path.name for path in tmp_path.iterdir()] == ["c"]


# -- a process that is killed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_command_killed_twenty_times_ends_in_the_same_bytes(tmp_path):
    from tracescribe.benchmark.phantom import build_phantom

    build_phantom(tmp_path / "data", 60, 0)
    words = ["finetune", "phantom", "data", "--steps", "40", "--batch-size", "4", "--lr", "0.002"]
    command = [sys.executable, "-m", "tracescribe", *words, "--checkpoint-every", "2", "--json"]
    began = time.monotonic()
    subprocess.run([*command, "-o", "whole"], cwd=tmp_path, check=True, capture_output=True)
    seconds, chance, kills = time.monotonic() - began, Random(0), 0
    for _ in range(200):
        process = subprocess.Popen(
            [*command, "-o", "run", "--resume"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            # starting takes most of the time: moments from the start of training to its end
            process.wait(chance.uniform(0.5, 1.0) * seconds if kills < 20 else None)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run", "whole"]

"""Plans in other people's training loops: open_clip's own epoch, and transformers' Trainer."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from models import open_clip_model
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from tracescribe.errors import PrescriptionError
from tracescribe.finetune import Prescription
from tracescribe.patching import text_blocks

DOCS = Path(__file__).parents[2] / "docs" / "finetuning.md"
ALPHA = np.array([0.3, 1.0, 0.0])
PLAN = Prescription(ALPHA)


def texts_and_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(count, 12, dtype=torch.long)
    ids[:, 0], ids[:, 7] = 62, 63
    ids[:, 1:7] = torch.randint(1, 62, (count, 6), generator=generator)
    return torch.randn(count, 3, 32, 32, generator=generator), ids


def moved(before: torch.nn.Module, after: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        pairs = zip(text_blocks(before), text_blocks(after), strict=True)
        return np.array(
            [sum(float((b - a).norm()) for a, b in zip(x.parameters(), y.parameters(), strict=True)) for x, y in pairs]
        )


# -- open_clip -----------------------------------------------------------------------------------------------------


def recipe() -> str:
    """The code in the documentation that runs open_clip's own epoch."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "train_one_epoch" in block]
    return found


def open_clip_run(plan: Prescription, batches: int) -> tuple[np.ndarray, np.ndarray, torch.nn.Module]:
    """How far each block moved, what the attachment says of the last step, and the trained model."""
    start = open_clip_model(layers=3)
    loader = DataLoader(TensorDataset(*texts_and_images(4 * batches)), batch_size=4)
    loader.num_batches, loader.num_samples = batches, 4 * batches
    given = {"clip": copy.deepcopy(start), "loader": loader, "plan": plan, "torch": torch}
    exec(compile(recipe(), str(DOCS), "exec"), given)
    return moved(start, given["clip"]), given["handle"].realised(), given["clip"]


def test_open_clips_own_epoch_with_a_plan():
    """One step of two accumulated batches, with open_clip's schedule, loss and clipping; as documented."""
    scaled, realised, tuned = open_clip_run(PLAN, batches=2)
    free, _, _ = open_clip_run(PLAN.uniform(), batches=2)
    # float32 parameters of order 1 and a step of 1e-4: a step is rounded by 1e-7 / 1e-4
    np.testing.assert_allclose(scaled / free, ALPHA, atol=2e-3)
    np.testing.assert_allclose(realised, ALPHA, atol=2e-3)
    start = open_clip_model(layers=3)
    for name in ("visual.conv1.weight", "token_embedding.weight", "text_projection", "logit_scale"):
        assert torch.equal(tuned.get_parameter(name), start.get_parameter(name)), name
    longer, realised, _ = open_clip_run(PLAN, batches=6)
    assert (longer[:2] > scaled[:2]).all() and longer[2] == 0
    np.testing.assert_allclose(realised, ALPHA, atol=5e-2)  # the last step of a cosine is a small one: more rounding


# -- transformers ---------------------------------------------------------------------------------------------------


class Aligned(torch.nn.Module):
    """What a Trainer calls: a CLIP that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = open_clip_model(layers=3)

    def forward(self, image, text, return_loss: bool = True) -> dict[str, torch.Tensor]:
        images, texts, _ = self.clip(image, text)
        logits = 20 * images @ texts.T
        return {"loss": torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))), "logits": logits}


class StopAfter(TrainerCallback):
    """Ends training after so many steps, as a time limit does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.steps


def trainer(folder: Path, plan: Prescription | None, steps: int, mode: str = "update", **options):
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "max_grad_norm": 0.1,
        "lr_scheduler_type": "linear",
        "save_strategy": "steps",
        "save_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "optim": "adamw_torch_fused",
    }
    module = Aligned()
    rows = [{"image": image, "text": text} for image, text in zip(*texts_and_images(16), strict=True)]
    callbacks = [] if plan is None else [plan.callback(mode, module=module.clip)]
    made = Trainer(
        module,
        TrainingArguments(output_dir=str(folder), **settings | options),
        train_dataset=rows,
        eval_dataset=rows[:4],
        callbacks=[*callbacks, StopAfter(steps)],
    )
    return made, module


@pytest.mark.parametrize(("mode", "optim"), [("update", "adamw_torch_fused"), ("gradient", "sgd")])
def test_the_trainer_accumulates_and_clips_under_a_plan(tmp_path, mode, optim):
    start, ends = Aligned().clip, []
    for plan in (PLAN, PLAN.uniform()):
        # the norm of scaled gradients is another one: clipping it would change all blocks by one factor
        norm = 0.1 if mode == "update" else 1e6
        made, module = trainer(tmp_path, plan, 1, mode, optim=optim, max_grad_norm=norm, save_strategy="no")
        made.train()
        ends.append(moved(start, module.clip))
    np.testing.assert_allclose(ends[0] / ends[1], ALPHA, atol=2e-3)


@pytest.mark.parametrize("others", [{}, {"others": 0}], ids=["default", "0"])
@pytest.mark.parametrize("mode", ["update", "gradient"])
def test_the_trainer_holds_still_what_others_says(tmp_path, mode, others):
    start = Aligned().clip
    made, module = trainer(tmp_path, None, 1, optim="sgd", weight_decay=0.1, save_strategy="no")
    made.add_callback(PLAN.callback(mode, module=module.clip, **others))
    made.train()
    inside = {id(parameter) for block in text_blocks(module.clip) for parameter in block.parameters()}
    for (name, parameter), before in zip(module.clip.named_parameters(), start.parameters(), strict=True):
        assert id(parameter) in inside or torch.equal(parameter, before), name
    assert (moved(start, module.clip)[:2] > 0).all()
    with pytest.raises(PrescriptionError, match="others must be a finite multiplier of at least 0 or None, not -1"):
        PLAN.callback(mode, others=-1)


def test_a_trainer_that_resumes_ends_where_an_uninterrupted_one_does(tmp_path):
    made, module = trainer(tmp_path / "whole", PLAN, 4)
    made.train()
    stopped, _ = trainer(tmp_path / "stopped", PLAN, 2)
    stopped.train()
    resumed, again = trainer(tmp_path / "stopped", PLAN, 4)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    for (name, ours), theirs in zip(module.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    frozen = zip(text_blocks(Aligned().clip)[2].parameters(), text_blocks(again.clip)[2].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in frozen)


def test_the_best_model_at_the_end_is_not_scaled_again(tmp_path):
    """The Trainer writes the best checkpoint's weights back after the last step: no step, so nothing to scale."""
    from safetensors.torch import load_file

    made, module = trainer(
        tmp_path,
        PLAN,
        4,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    made.train()
    best = load_file(Path(made.state.best_model_checkpoint) / "model.safetensors")
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.detach(), best[name]), name
    optimizer = made.optimizer.optimizer
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks

"""Fine-tunes the text tower by LoRA on L_CLIP and L_claim, with uniform or causally weighted layers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...arguments import explains_arguments
from ...errors import ArgumentError, DataFormatError, NonFiniteError, OutputError
from ...io.quoting import shown
from ...patching.torch_state import neutral_state
from ...processes import is_first
from ...progress import bars
from ..apply.adapters import merged_copy
from ..apply.blocks import say_if_of_other_weights
from ..apply.update_share import update_share
from .accelerating import accelerator_for, check_precision, own_device
from .adapted import rewrap
from .checkpoints import (
    Record,
    check_checkpoint_folder,
    explaining_checkpoint,
    identity,
    load_checkpoint,
    only_one,
    save_checkpoint,
)
from .config import TrainConfig
from .data import TrainingData, training_data
from .embedded import check_data
from .inputs import applied_plan, data_hash, files_hash, plan_hash, with_plan
from .progress import Progress, rate_factor
from .result import History, Step, TrainResult
from .trackers import Track, tracking
from .validation import Validation

if TYPE_CHECKING:
    from ...patching import DualEncoder

logger = logging.getLogger(__name__)

BEST = "best/"  # where a checkpoint holds the adapters of the best evaluation


@explains_arguments
@neutral_state(grad=True)
def train(
    config: TrainConfig,
    model: DualEncoder | None = None,
    *,
    data: TrainingData | None = None,
    callbacks: Sequence[Callable[[Step], None]] = (),
    checkpoints: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Fine-tune a copy of the model's text tower; the model that is passed in stays untouched.

    L = lambda L_CLIP + (1 - lambda) L_claim or another loss (``config.loss``), LoRA on the text tower, AdamW, vision
    tower and projections frozen (NAST, arXiv 2602.12498). Only the text tower runs in the loop: images are embedded
    once, before. Runs with equal data, batch size, steps and seed see the same batches and start from the same
    adapters.

    model: the model to start from (``config.model`` is loaded otherwise). The result's configuration names it, unless
        ``config.model`` was set.
    data: prepared by :func:`tracescribe.finetune.training.data.training_data`, to share cached embeddings between runs
        (``config.captions`` and ``config.claims`` are read otherwise).
    callbacks: called after each step, in every process.
    checkpoints: a folder for the state of the run, written when training is interrupted and, with
        ``config.checkpoint_every``, every so many steps and at the end. It stays until you delete it.
    resume: go on from the checkpoint in that folder, if there is one. On one machine and torch version a run that was
        stopped and went on gives the same adapters, bit for bit, as one that was not (on the CPU). lr and clip_norm
        may be changed; this is logged.
    progress: show a bar on a terminal or in a notebook.

    In one of several processes (accelerate launch, torchrun) the texts of each batch are divided between them, and all
    see the loss of the whole batch: the result is that of one process but for rounding. Only the first writes
    checkpoints; save the result in it alone.

    Raises NonFiniteError naming the step when the loss is not finite, PrescriptionError when the plan does not fit the
    tower, DataFormatError for missing or malformed data or a checkpoint of another run, OptionError for a precision
    that the device does not have, OutputError when checkpoints cannot be written.
    """
    from ...patching import load

    started = time.perf_counter()
    if not all(map(callable, callbacks)):
        raise ArgumentError(f"train: callbacks must be functions, each of a step, not {shown(callbacks)}")
    folder = None if checkpoints is None else Path(checkpoints)
    if folder is None and (resume or config.checkpoint_every):
        raise DataFormatError("resume and checkpoint_every need a folder: train(..., checkpoints=)")
    if folder is not None and is_first():
        check_checkpoint_folder(folder, resume=resume)
    resolved = config = with_plan(config)
    plan = applied_plan(config)
    if model is None:
        model = load(config.model, pretrained=config.pretrained, device=own_device(config.device))
    elif "model" not in config.model_fields_set:
        resolved = config.model_copy(update={"model": model.name})
    check_precision(config, model.device)
    if plan is not None:
        say_if_of_other_weights(plan, model)
    validation = Validation.of(config, model) if config.evaluate_every else None
    files = None
    if data is None:
        if config.captions is None or config.claims is None:
            raise DataFormatError(
                "training needs captions and claims: set both paths in the configuration, or pass data="
            )
        data = training_data(
            model,
            config.captions,
            config.claims,
            split=config.split,
            images=config.images,
            outside_images=config.outside_images,
            image_cache=config.image_cache,
            needs=config.loss.needs,
        )
        files = files_hash(config)
    check_data(config, data, model.embed_dim)

    base = {
        "model": model.name,
        "weights_sha256": model.text.fingerprint(),
        "data_sha256": data_hash(data),
        "plan_sha256": plan_hash(plan),
        "files_sha256": files,
    }
    known = None if plan is None else replace(plan, provenance={})  # what is odd about its origin was said above
    with accelerator_for(config, model.device) as accelerator, only_one(folder):
        run = _Run(config, Progress(config, model, known, data, accelerator), data, validation, folder, base, started)
        if resume:
            run.go_on()
        with (
            run.progress.attached,
            tracking(config) if run.main else nullcontext(_silent) as track,
            bars(progress and run.main) as drawn,
        ):
            bar = drawn.add("fine-tuning", config.steps)
            run.train([lambda step: bar.to(step.step, note=f"loss {step.loss:.3f}"), *callbacks], track)

    trained, record = run.progress, run.record
    if validation is not None and config.select != "last" and record.scores:
        trained.set_adapters(run.best)
    for name, parameter in trained.source.named_parameters():
        parameter.requires_grad_(".lora_" in name)  # also those that the plan held still
    tuned = rewrap(model, merged_copy(trained.source))
    loss, clip, claim, rate = np.asarray(record.losses, dtype=np.float64).T
    history = History(loss, clip, claim, rate, tuple(record.scores))
    update = update_share(model.source, trained.source, plan)
    seconds = time.perf_counter() - started
    logger.info("fine-tuned %s for %d steps in %.1f s", config.weighting, trained.done, seconds)
    return TrainResult(
        resolved,
        trained.source,
        tuned,
        history,
        update,
        plan,
        seconds,
        base,
        record.best,
        record.stopped,
        {} if validation is None else validation.untrained,
    )


class _Run:
    """What :func:`train` does step by step, and what it remembers."""

    def __init__(
        self,
        config: TrainConfig,
        progress: Progress,
        data: TrainingData,
        validation: Validation | None,
        folder: Path | None,
        base: Mapping[str, Any],
        started: float,
    ) -> None:
        self.config, self.data, self.validation, self.folder, self.started = config, data, validation, folder, started
        self.progress, self.accelerator = progress, progress.accelerator
        self.main = self.accelerator is None or self.accelerator.is_main_process
        self.record = Record()
        self.best: dict[str, torch.Tensor] = {}
        self._identity = identity(config, base, {} if validation is None else validation.untrained)
        self._saved = 0

    def go_on(self) -> None:
        """Go back to the checkpoint, if there is one."""
        assert self.folder is not None
        # the first process puts a checkpoint back that a kill left aside
        with nullcontext() if self.accelerator is None else self.accelerator.main_process_first():
            found = load_checkpoint(self.folder, self._identity)
        if found is None:
            return
        tensors, facts, self.record = found
        with explaining_checkpoint(self.folder):
            self.progress.load(tensors, facts)
            if not self.progress.done == len(self.record.losses) <= self.config.steps:
                raise ValueError(f"{len(self.record.losses)} losses of {self.progress.done} steps")
        self.best = {name.removeprefix(BEST): w for name, w in tensors.items() if name.startswith(BEST)}
        self._saved = self.progress.done
        logger.info("going on from step %d of %d", self.progress.done, self.config.steps)

    def train(self, callbacks: Sequence[Callable[[Step], None]], track: Track) -> None:
        """The steps that are missing."""
        config, progress, record = self.config, self.progress, self.record
        left = config.steps - progress.done
        batches = self.data.batches(
            config.batch_size,
            left * config.accumulate,
            config.seed,
            skip=progress.done * config.accumulate,
            needs=config.loss.needs | config.loss.reads,
        )
        try:
            while progress.done < config.steps and record.stopped is None:
                rate = config.lr * rate_factor(config, progress.done)
                values = progress.step(list(islice(batches, config.accumulate)))
                record.losses.append((*values, rate))
                told = dict(zip(("loss", "clip", "claim", "lr"), record.losses[-1], strict=True))
                track({name: value for name, value in told.items() if not math.isnan(value)}, progress.done)
                if self.validation is not None and progress.done % config.evaluate_every == 0:
                    self._evaluate(self.validation, track)
                progress.intact = True
                if config.checkpoint_every and progress.done % config.checkpoint_every == 0:
                    self._save_or_say()
                for callback in callbacks:
                    callback(Step(progress.done, config.steps, *values, time.perf_counter() - self.started))
        except NonFiniteError as problem:
            if self._saved:
                raise NonFiniteError(
                    f"{problem}; the checkpoint of step {self._saved} is kept: go on from it with a lower lr"
                ) from problem
            raise
        except BaseException:  # interrupted
            if progress.intact:  # between two steps, or in one before it changed anything
                self._save()
            raise
        if config.checkpoint_every and progress.done % config.checkpoint_every:  # else it was saved, or not, above
            self._save_or_say()

    def _evaluate(self, validation: Validation, track: Track) -> None:
        record, scores = self.record, {}
        if self.main:
            with torch.no_grad():
                scores = validation.scores(self.progress.encoder.model)
                drift = validation.drift
                if drift is not None and (len(record.scores) + 1) % drift.every == 0:
                    scores |= drift(self.progress.source)
        if self.accelerator is not None and self.accelerator.num_processes > 1:  # all must stop at one step
            from accelerate.utils import broadcast_object_list

            (scores,) = broadcast_object_list([scores])
        record.scores.append({"step": self.progress.done, **scores})
        track({f"val/{name}": value for name, value in scores.items()}, self.progress.done)
        best = validation.best(record.scores)
        record.best = int(record.scores[best]["step"])
        if best == len(record.scores) - 1:
            self.best = {name: weight.clone() for name, weight in self.progress.adapters().items()}
        since = len(record.scores) - 1 - best
        if self.config.patience and since >= self.config.patience:
            record.stopped = f"no better evaluation for {since} evaluations, since step {record.best}"
            logger.info("stopped at step %d: %s", self.progress.done, record.stopped)

    def _save_or_say(self) -> None:
        """Save; a disk that is full is no reason to stop: the earlier checkpoint is there, and a later one may fit."""
        try:
            self._save()
        except OutputError as problem:
            kept = f"that of step {self._saved} stays" if self._saved else "there is no earlier one"
            logger.warning("no checkpoint of step %d, %s: %s", self.progress.done, kept, problem)

    def _save(self) -> None:
        if self.folder is None or self._saved == self.progress.done or not self.main:
            return
        tensors, facts = self.progress.state()
        spoiled = next(
            (n for n, value in tensors.items() if n.startswith("adapter/") and not value.isfinite().all()), None
        )
        if spoiled is not None:
            raise NonFiniteError(
                f"{spoiled!r} holds NaN or infinity after step {self.progress.done}; lower lr (now {self.config.lr:g})"
            )
        best = {f"{BEST}{name}": weight for name, weight in self.best.items()}
        save_checkpoint(self.folder, self._identity, {**tensors, **best}, facts, self.record)
        self._saved = self.progress.done


def _silent(values: dict[str, float], step: int) -> None:
    """What processes other than the first track."""

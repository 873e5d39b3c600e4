"""Checkpoints: the complete state of a run in one folder, which the next one replaces in one step."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataFormatError, OutputError, TracescribeError
from ...io.folders import check_folder, put_back, read_folder, write_folder
from ...io.json_lines import read_json
from ...io.quoting import shown_path
from ...processes import is_first

if TYPE_CHECKING:
    from .config import TrainConfig

logger = logging.getLogger(__name__)

FORMAT = "tracescribe.checkpoint/1"
STATE, TENSORS = "state.json", "state.safetensors"
IRRELEVANT = (
    *("checkpoint_every", "images", "outside_images", "image_cache"),
    *("trackers", "captions", "claims", "validation"),
)
BY_CONTENT = {"weights_sha256": "model's weights", "data_sha256": "training data", "plan_sha256": "plan"}
MAY_CHANGE = ("lr", "clip_norm")  # of a run that goes on, for instance after a loss that was not finite


@dataclass
class Record:
    """What a run has seen so far. losses: L, L_CLIP, L_claim and the rate of each step, before it was taken.

    scores: of each evaluation, with its ``step``. best: the step of the best one, or None; stopped: why training ended
    before the last step, or None.
    """

    losses: list[tuple[float, float, float, float]] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    best: int | None = None
    stopped: str | None = None


def identity(config: TrainConfig, base: Mapping[str, Any], untrained: Mapping[str, float]) -> dict[str, Any]:
    """What a checkpoint belongs to: the configuration, the weights that were started from, the data, the plan.

    untrained: scores of the model before training, by which other validation data are noticed.
    """
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in IRRELEVANT}
    if settings["loss"] == "nast":  # which checkpoints of versions without other losses do not say
        del settings["loss"]
    return {"config": settings, **{name: base[name] for name in BY_CONTENT}, "untrained": dict(untrained)}


def save_checkpoint(
    folder: Path,
    belongs_to: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    record: Record,
) -> None:
    """Replace the checkpoint in ``folder``; at every moment the earlier or the new one is there, complete.

    Raises OutputError when it cannot be written; the earlier one stays.
    """
    from safetensors.torch import save_file

    losses = torch.from_numpy(np.asarray(record.losses, dtype=np.float64).reshape(-1, 4))
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = {
        "belongs_to": belongs_to,
        "facts": facts,
        "record": {"scores": record.scores, "best": record.best, "stopped": record.stopped},
    }
    with write_folder(folder, FORMAT, overwrite=True) as fresh:
        save_file({**stored, "losses": losses}, str(fresh / TENSORS))
        (fresh / STATE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_checkpoint(
    folder: Path, belongs_to: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any], Record] | None:
    """Tensors, facts and record of the checkpoint in ``folder``; None where there is none.

    Raises DataFormatError when it is damaged, or belongs to a run with other settings, weights or data.
    """
    from safetensors.torch import load_file

    put_back(folder.absolute())
    if not folder.exists():
        return None
    read_folder(folder, FORMAT, needs=(STATE, TENSORS))
    with explaining_checkpoint(folder):
        content = read_json(folder / STATE)
        _check_same(folder, content["belongs_to"], belongs_to)
        tensors = load_file(str(folder / TENSORS))
        losses = [tuple(row) for row in tensors.pop("losses").tolist()]
        return tensors, content["facts"], Record(losses, **content["record"])


@contextmanager
def explaining_checkpoint(folder: Path) -> Iterator[None]:
    """Say which checkpoint it was where a run cannot go on from what it holds, although its checksums fit.

    Raises DataFormatError in place of another error.
    """
    from safetensors import SafetensorError

    try:
        yield
    except TracescribeError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as problem:
        raise DataFormatError(
            f"the checkpoint {shown_path(folder)} is damaged, or of another version: it holds no state of such a run "
            f"({type(problem).__name__}: {str(problem)[:200]}); delete it and begin anew"
        ) from problem


@contextmanager
def only_one(folder: Path | None) -> Iterator[None]:
    """Hold a lock beside ``folder`` while this process trains there, where the system has locks.

    Raises OutputError when another process does.
    """
    try:
        import fcntl
    except ImportError:  # Windows: a second process is not noticed
        folder = None
    if folder is None or not is_first():  # it locks for all
        yield
        return
    place = folder.with_name(f".{folder.name}.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = place.open("w")
    except OSError as problem:
        raise OutputError(f"cannot write {shown_path(place)}: {problem.strerror}") from problem
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"another process trains with the checkpoint {shown_path(folder)}") from None
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint whose run is saved; nothing else is deleted."""
    if folder.exists():
        check_folder(folder, FORMAT, overwrite=True)  # raises where it holds anything else
        shutil.rmtree(folder)


def check_checkpoint_folder(folder: Path, *, resume: bool) -> None:
    """Raises OutputError when checkpoints cannot be written to ``folder``, or it holds one and is not to be resumed."""
    check_folder(folder, FORMAT, overwrite=True)
    if not resume and folder.exists() and any(folder.iterdir()):
        raise OutputError(
            f"{shown_path(folder)} holds the checkpoint of a run that was stopped: go on with it (--resume, "
            "resume=True), or delete it"
        )


def _check_same(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    known = [name for name in BY_CONTENT if name in theirs or name != "plan_sha256"]  # older versions kept no such hash
    different, what = [name for name in known if theirs.get(name) != ours[name]], dict(BY_CONTENT)
    if not different:
        their_config, our_config = dict(theirs["config"]), dict(ours["config"])
        names = sorted(n for n in {*their_config, *our_config} if their_config.get(n) != our_config.get(n))
        names = [name for name in names if name != "plan" or not _one_plan(theirs, ours)]
        for name in (n for n in names if n in MAY_CHANGE):
            logger.warning("going on with %s %s in place of %s", name, our_config.get(name), their_config.get(name))
        names = [name for name in names if name not in MAY_CHANGE]
        different, what = names, dict(zip(names, names, strict=True))
        before, now = theirs.get("untrained", ours["untrained"]), ours["untrained"]
        other = next((name for name in now if before.get(name) != now[name]), None)
        if other is not None:
            logger.warning(
                "the model before training has %s %s on the validation data, and had %s when this run began: the data "
                "were changed, or this is another machine; its evaluations until now cannot be compared with the next",
                *(other, now[other], before.get(other)),
            )
    if different:
        raise DataFormatError(
            f"the checkpoint {shown_path(folder)} is of a run with other settings ({_listed(different, what)}): go on "
            "with the same ones, or delete it and begin anew"
        )


def _one_plan(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether two plans that are told differently are the same to training."""
    if "plan_sha256" in theirs:
        return bool(theirs["plan_sha256"] == ours["plan_sha256"])
    before, now = theirs["config"].get("plan"), ours["config"]["plan"]
    if isinstance(before, dict) and isinstance(now, dict):
        return bool(before["multipliers"] == now["multipliers"])
    if isinstance(before, str) and isinstance(now, dict):
        logger.warning(
            "going on with the plan that is there now; the checkpoint names %s, and does not hold it", before
        )
        return True
    return False


def _listed(names: Sequence[str], what: Mapping[str, str]) -> str:
    return ", ".join(what[name] for name in names[:5])

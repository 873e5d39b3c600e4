"""A run's configuration as a file: YAML in sections, or JSON as a saved run has it; with changes by key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ...arguments import explains_arguments
from ...errors import DataFormatError, PrescriptionError
from ...io.json_lines import read_json
from ...io.quoting import shown
from ...io.yaml_files import parse_yaml, read_yaml
from .config import TrainConfig

# section -> key in the file -> field of TrainConfig; "" is the top level
SECTIONS: dict[str, dict[str, str]] = {
    "": {"seed": "seed", "loss": "loss"},
    "model": {"name": "model", "pretrained": "pretrained", "device": "device"},
    "data": {name: name for name in ("captions", "claims", "split", "images", "outside_images", "image_cache")},
    "plan": {"file": "plan", "weighting": "weighting", "budget": "budget"},
    "lora": {"rank": "rank", "alpha": "lora_alpha", "mode": "lora_mode"},
    "optim": {
        "optimizer": "optimizer",
        "lr": "lr",
        "weight_decay": "weight_decay",
        "batch_size": "batch_size",
        "accumulate": "accumulate",
        "clip_norm": "clip_norm",
        "precision": "precision",
        "repeats": "repeats",
        "lambda": "lambda_",
    },
    "schedule": {"steps": "steps", "kind": "schedule", "warmup": "warmup"},
    "eval": {
        "every": "evaluate_every",
        "data": "validation",
        "select": "select",
        "patience": "patience",
        "retrace": "retrace",
        "retrace_every": "retrace_every",
        "retrace_pairs": "retrace_pairs",
    },
    "output": {"checkpoint_every": "checkpoint_every", "trackers": "trackers"},
}
# What transformers' TrainingArguments and other loops call these options, where the spelling does not lead there.
ELSEWHERE = {
    "learning_rate": "optim.lr",
    "wd": "optim.weight_decay",
    "bs": "optim.batch_size",
    "max_grad_norm": "optim.clip_norm",
    "epochs": "schedule.steps",
    "max_steps": "schedule.steps",
    "lr_scheduler_type": "schedule.kind",
    "scheduler": "schedule.kind",
    "save_steps": "output.checkpoint_every",
    "eval_steps": "eval.every",
    **dict.fromkeys(("dtype", "fp16", "bf16", "amp"), "optim.precision"),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), "eval.patience"),
    **dict.fromkeys(("report_to", "logger", "wandb", "tensorboard", "trackio"), "output.trackers"),
}
PLACES = ("captions", "claims", "images", "validation", "plan", "image_cache", "retrace")  # paths, relative to the file


@explains_arguments
def read_config(path: str | Path, changes: Iterable[str] = ()) -> TrainConfig:
    """A configuration from a YAML file in sections, or from a run's ``config.json``; paths in it are relative to it.

    changes: ``section.key=value`` (or ``key=value`` where only one section has the key), with values as in YAML; paths
        in them are relative to the working directory.

    Raises DataFormatError naming the file or the change, the field and what was expected.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise DataFormatError(f"{path}: expected sections such as data: and optim:, not {shown(content)}")
        fields = _from_sections(path, content)
    else:
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataFormatError(f"{path}: expected an object of options, not {shown(content)}")
        fields = dict(content)
    beside = {n: moved(v, lambda place: str(path.parent / place)) for n, v in fields.items() if n in PLACES}
    config = _validated({**fields, **beside}, f"{path}: ", sections=path.suffix != ".json")
    return changed_config(config, changes)


def changed_config(
    config: TrainConfig | None, changes: Iterable[str], fields: Mapping[str, Any] | None = None
) -> TrainConfig:
    """A configuration (None: the defaults) with changes as for :func:`read_config`, or by field, which come last.

    Raises DataFormatError naming the change, the field and what was expected.
    """
    changed = {**_changes(changes), **(fields or {})}
    if not changed and config is not None:
        return config
    if changed.get("split") == "all":
        changed["split"] = None
    before = {} if config is None else config.model_dump(mode="json")
    if "rank" in changed and "lora_alpha" not in changed:
        before.pop("lora_alpha", None)  # it follows from the rank
    return _validated({**before, **changed}, "", sections=True)


def as_yaml(config: TrainConfig) -> str:
    """The configuration as the text of a YAML file that :func:`read_config` reads.

    >>> print(as_yaml(TrainConfig(steps=200)).splitlines()[2:4])
    ['model:', '  name: phantom']
    """
    values = config.model_dump(mode="json")
    content: dict[str, Any] = {}
    for section, keys in SECTIONS.items():
        found = {key: values[name] for key, name in keys.items()}
        content |= found if not section else {section: found}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def moved(value: Any, move: Callable[[str], str]) -> Any:
    """A path, or each of ``{path: weight}``, moved; None and a plan that is written out stay as they are."""
    if isinstance(value, dict) and "alpha" not in value:
        return {move(str(place)): weight for place, weight in value.items()}
    return move(value) if isinstance(value, str) else value


def _from_sections(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in content.items():
        if name in SECTIONS[""]:
            fields[SECTIONS[""][name]] = value
        elif name == "model" and isinstance(value, str):
            fields["model"] = value
        elif name in SECTIONS and name:
            if value is None:  # a section with nothing in it
                continue
            if not isinstance(value, dict):
                raise DataFormatError(f"{path}: section {shown(name)} holds {shown(value)}, expected key: value lines")
            for key, inner in value.items():
                fields[_field(str(path), f"{name}.{key}")] = inner
        else:
            raise DataFormatError(f"{path}: {_unknown(str(name))}")
    return fields


def _changes(changes: Iterable[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise DataFormatError(f"{shown(change)} is no change: write section.key=value, such as optim.lr=0.001")
        fields[_field(shown(change), key.strip())] = parse_yaml(value, f"{shown(change)}: the value is not YAML")
    return fields


def _field(where: str, key: str) -> str:
    """The field of TrainConfig that ``section.key``, or a key that one section alone has, stands for."""
    section, _, name = key.rpartition(".")
    if section in SECTIONS and name in SECTIONS[section]:
        return SECTIONS[section][name]
    if key == "model":
        return "model"
    holding = [found for found in SECTIONS if key in SECTIONS[found]]
    if len(holding) == 1:
        return SECTIONS[holding[0]][key]
    raise DataFormatError(f"{where}: {_unknown(key)}")


def _unknown(key: str) -> str:
    known = [f"{section}.{name}".lstrip(".") for section, names in SECTIONS.items() for name in names]
    last_word = key.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == last_word]  # in a wrong section
    near = near or ([ELSEWHERE[last_word]] if last_word in ELSEWHERE else [])
    near = near or difflib.get_close_matches(key, [*known, *filter(None, SECTIONS)], n=1, cutoff=0.5)
    if not near:
        last = {name.rpartition(".")[2]: name for name in known}
        near = [last[found] for found in difflib.get_close_matches(last_word, last, n=1, cutoff=0.5)]
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
    return f"there is no option {shown(key)}{hint}"


def _validated(fields: dict[str, Any], where: str, *, sections: bool) -> TrainConfig:
    names = {name: f"{section}.{key}".lstrip(".") for section, keys in SECTIONS.items() for key, name in keys.items()}
    if not sections:
        names = {}
    try:
        return TrainConfig(**json.loads(json.dumps(fields, default=str)))
    except PrescriptionError as problem:
        if not isinstance(problem.__cause__, ValidationError):
            raise DataFormatError(f"{where}{problem}") from problem
        # of a field that may be this or that the deepest reason is the one about what was given
        problems = problem.__cause__.errors()
        found = max((e for e in problems if e["loc"][:1] == problems[0]["loc"][:1]), key=lambda e: len(e["loc"]))
        first = str(found["loc"][0]) if found["loc"] else ""
        inside = [] if first in ("captions", "claims") else found["loc"][1:]  # there the names of pydantic's branches
        field = ".".join([names.get(first, first), *map(str, inside)]) or "the configuration"
        raise DataFormatError(f"{where}field {shown(field)}: {found['msg'].removeprefix('Value error, ')}") from problem
    except ValueError as problem:  # numbers that JSON does not have
        raise DataFormatError(f"{where}a value is no JSON number or text ({problem})") from problem

"""Saves and loads finished runs: adapters, configuration, results, written completely or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...arguments import explains_arguments
from ...errors import DataFormatError, OutputError
from ...io.folders import check_folder, read_folder, write_folder
from ...io.json_lines import read_json
from ...io.provenance import creation_time
from ...io.quoting import shown, shown_path
from .card import model_card
from .config_files import PLACES, moved
from .environment import environment
from .inputs import applied_plan, files_hash, plan_hash

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from .config import TrainConfig
    from .result import TrainResult

FORMAT = "tracescribe.run/2"
OUTDATED = {
    "tracescribe.run/1": "in some versions that wrote it an adapter on `out_proj` of torch's attention counted once, "
    "and stock peft and this version count it twice; train again with its config.json (tracescribe finetune "
    "config.json -o NEW)"
}
CONFIG, RESULT, LOG = "config.json", "result.json", "log.csv"
NEEDED = (CONFIG, RESULT, LOG, "adapter/adapter_config.json", "adapter/adapter_model.safetensors")


def save_run(result: TrainResult, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``adapter/`` (peft's format), ``config.json``, ``result.json``, ``log.csv``, a model card and a manifest.

    The folder appears with everything in it, or not at all. :func:`load_run` puts the adapters into a model again,
    :func:`~tracescribe.finetune.training.config.read_config` reads the configuration.

    overwrite: replace an earlier run, if the folder holds nothing else.

    Raises OutputError when the folder cannot be written, or holds anything else. The run is then kept beside it, or in
    the folder for temporary files: the message says where.
    """
    try:
        return _save(result, Path(folder), overwrite)
    except OutputError as problem:
        kept = _keep(result, Path(folder))
        if kept is None:
            raise
        raise OutputError(f"{problem}; the run was kept in {shown_path(kept)}") from problem


def check_run_folder(folder: str | Path, *, overwrite: bool = False) -> Path:
    """The folder, if a run can be saved there; ask before training, which may take hours.

    Raises OutputError when it holds something else, or an earlier run without ``overwrite``, or cannot be written.
    """
    return check_folder(folder, FORMAT, overwrite=overwrite)


@explains_arguments
def is_finished(folder: str | Path, config: TrainConfig) -> bool:
    """Whether ``folder`` holds a complete run of this very configuration, plan and data files."""
    from .config_files import read_config

    def told(given: TrainConfig) -> dict[str, Any]:
        values = given.model_dump(mode="json", exclude={"plan"})
        return values | {name: moved(values[name], os.path.realpath) for name in PLACES if name != "plan"}

    path = Path(folder)
    try:
        read_folder(folder, FORMAT, needs=NEEDED)
        base = read_json(path / RESULT)["base"]
        if told(read_config(path / CONFIG)) != told(config) or base["plan_sha256"] != plan_hash(applied_plan(config)):
            return False
    except (DataFormatError, KeyError, TypeError):
        return False
    try:  # of versions that kept no such hash, and of files that are gone since, nothing more can be told
        return base.get("files_sha256") in (None, files_hash(config))
    except OSError:
        return True


@explains_arguments
def load_run(model: DualEncoder, folder: str | Path) -> DualEncoder:
    """The model with a saved run's adapters merged into a copy of it; ``model`` itself stays as it is.

    Raises DataFormatError when the folder is no run, or one of an earlier format whose adapters meant something else; a
    file of it was changed; its adapters do not fit the model; or they were trained on other weights: to these they
    would add a change that was never meant for them (:func:`load_lora` loads adapters from elsewhere and asks for none
    of this).
    """
    from ..apply.adapters import merged_copy
    from ..apply.load import load_lora
    from .adapted import rewrap, starting_copy

    read_folder(folder, FORMAT, needs=NEEDED, outdated=OUTDATED)
    _check_base(model, Path(folder))
    return rewrap(model, merged_copy(load_lora(starting_copy(model.source), Path(folder) / "adapter")))


def _check_base(model: DualEncoder, folder: Path) -> None:
    """Refuse a model whose text tower is not the one that was trained on."""
    path = folder / RESULT
    try:
        base = read_json(path)["base"]
        name, trained_on = base["model"], base["weights_sha256"]
    except (KeyError, TypeError) as problem:
        raise DataFormatError(f"{path}: does not say which model was trained ({problem!r})") from problem
    if trained_on != model.text.fingerprint():
        raise DataFormatError(
            f"the run {shown_path(folder)} was trained on {shown(name)} with other text weights (or another precision) "
            f"than those of {model.name!r}: load the model that it started from"
        )


def _save(result: TrainResult, folder: Path, overwrite: bool) -> Path:
    # the time goes into the manifest: a run that was stopped and went on has the same files otherwise
    facts = {"seconds": result.seconds, "created": creation_time(), "versions": environment()}
    with write_folder(folder, FORMAT, overwrite=overwrite, facts=facts) as fresh:
        _write(result, fresh, folder)
    return folder


def _keep(result: TrainResult, folder: Path) -> Path | None:
    """Save a finished run where it was not meant to go, rather than lose it."""
    for parent in (folder.absolute().parent, Path(tempfile.gettempdir())):
        with suppress(OSError):  # OutputError is one
            place = Path(tempfile.mkdtemp(prefix="tracescribe-run-", dir=parent))
            try:
                return _save(result, place, overwrite=False)
            except OutputError:
                place.rmdir()
    return None


def _write(result: TrainResult, folder: Path, target: Path) -> None:
    # no search for embedding layers: it would look up the base model by name on the network
    result.source.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # a template, all "More Information Needed"
    config = result.config.model_dump(mode="json")
    for name in PLACES:  # read_config takes them as relative to the file
        config[name] = moved(config[name], lambda place: _relative(place, target))
    _write_json(folder / CONFIG, config)
    (folder / "README.md").write_text(model_card(result), encoding="utf-8", newline="\n")
    result.history.to_frame().to_csv(folder / LOG, index=False, lineterminator="\n")
    _write_json(
        folder / RESULT,
        {
            "base": result.base,
            "before": result.before,
            "best": result.best,
            "stopped": result.stopped,
            "multipliers": None if result.plan is None else result.plan.multipliers.tolist(),
            "update": {
                "size": result.update.size.tolist(),
                "share": result.update.share.tolist(),
                "order": None if result.update.order is None else list(result.update.order),
                "effective_layers": result.update.effective_layers,
            },
        },
    )


def _relative(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return os.path.abspath(path)  # noqa: PTH100


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

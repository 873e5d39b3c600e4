"""A finished run on disk: adapters, configuration, results, written whole or not at all."""

from __future__ import annotations

import copy
import json
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataFormatError, OutputError

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from .loop import TrainResult

MANIFEST, RESULT = "manifest.json", "result.json"


def save_run(result: TrainResult, folder: str | Path) -> Path:
    """Write ``adapter/`` (peft's own format), ``config.json``, ``result.json`` and a manifest of SHA-256 hashes.

    The folder appears with everything in it, or not at all; an earlier run in its place is replaced.
    :func:`load_run` puts them into a model again.

    Raises OutputError when the folder cannot be written, or holds something that is no run.
    """
    target = check_run_folder(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            fresh = Path(scratch) / "run"
            _write(result, fresh)
            if target.exists():
                target.replace(Path(scratch) / "earlier")
            fresh.replace(target)
    except OSError as problem:
        raise OutputError(f"cannot write the run to {target}: {problem.strerror or problem}") from problem
    return target


def check_run_folder(folder: str | Path) -> Path:
    """The folder, if a run may be saved there; ask before training, which may take hours.

    Raises OutputError when it holds something that is no run.
    """
    target = Path(folder)
    if target.exists() and not (target.is_dir() and ((target / MANIFEST).is_file() or not any(target.iterdir()))):
        raise OutputError(f"{target} exists and is not a run of ours; choose another folder")
    return target


def load_run(model: DualEncoder, folder: str | Path) -> DualEncoder:
    """The model with a saved run's adapters merged into a copy of it; ``model`` itself stays as it is.

    Raises DataFormatError when the folder is no run, its adapters do not fit the model, or they were trained on other
    weights: to these they would add a change that was never meant for them (:func:`load_lora` does not ask).
    """
    from ..apply.adapters import merged_copy
    from ..apply.load import load_lora
    from .adapted import rewrap

    adapter = Path(folder) / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise DataFormatError(f"{str(folder)!r} is not a run of fine-tuning: it has no adapter/adapter_config.json")
    _check_base(model, Path(folder) / RESULT)
    return rewrap(model, merged_copy(load_lora(copy.deepcopy(model.source), adapter)))


def _check_base(model: DualEncoder, path: Path) -> None:
    """Refuse a model whose text tower is not the one that was trained on."""
    if not path.is_file():  # adapters from elsewhere do not say what they were trained on
        return
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base"]
        name, trained_on = base["model"], base["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataFormatError(f"{path}: does not say which model was trained ({problem!r})") from problem
    if trained_on != model.text.fingerprint():
        raise DataFormatError(
            f"the run {str(path.parent)!r} was trained on {name!r} with other text weights (or another precision) than "
            f"those of {model.name!r}: load the model that it started from"
        )


def _write(result: TrainResult, folder: Path) -> None:
    folder.mkdir()
    # no search for embedding layers: it would look up the base model by name on the network
    result.source.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # a template, all "More Information Needed"
    _write_json(folder / "config.json", result.config.model_dump(mode="json"))
    _write_json(
        folder / RESULT,
        {
            "base": result.base,
            "seconds": result.seconds,
            "history": {name: values.tolist() for name, values in vars(result.history).items()},
            "multipliers": None if result.plan is None else result.plan.multipliers.tolist(),
            "update": {
                "size": result.update.size.tolist(),
                "share": result.update.share.tolist(),
                "order": None if result.update.order is None else list(result.update.order),
                "effective_layers": result.update.effective_layers,
            },
        },
    )
    hashes = {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    _write_json(folder / MANIFEST, {"format": "tracescribe.run/1", "sha256": hashes})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

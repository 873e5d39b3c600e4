"""Merged weights of a run as files that other programs load: a state dict, or a folder of open_clip or transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ...arguments import explains_arguments
from ...errors import OutputError, PrescriptionError
from ...io.folders import check_folder, write_folder
from ...io.quoting import shown, shown_path
from ...io.reading import is_folder
from ...validation import is_number
from .adapted import rewrap

if TYPE_CHECKING:
    from ...patching import DualEncoder

FORMAT = "tracescribe.export/1"
Kind = Literal["state-dict", "open_clip", "transformers"]
KINDS: tuple[Kind, ...] = ("state-dict", "open_clip", "transformers")


@explains_arguments
@torch.no_grad()
def interpolate(base: DualEncoder, tuned: DualEncoder, weight: float) -> DualEncoder:
    """The model whose weights are ``(1 - weight) * base + weight * tuned``; both models stay as they are.

    Between the two lies a curve of gain against preservation, by which methods can be compared at equal preservation.
    Source: WiSE-FT (arXiv 2109.01903).

    tuned: of the same kind, adapters merged (``TrainResult.model``, ``load_run``).

    Raises PrescriptionError when the two have other parameters, or the weight is no finite number.

    >>> import tracescribe as ts
    >>> model = ts.load("phantom")
    >>> between = interpolate(model, model, 0.5)
    >>> bool((between.encode_texts(["no edema"]) - model.encode_texts(["no edema"])).abs().max() < 1e-6)
    True
    """
    if not is_number(weight, -10, 10):
        raise PrescriptionError(f"the weight between two models is a number such as 0.5, not {shown(weight)}")
    source = copy.deepcopy(base.source)
    ours, theirs = source.state_dict(), tuned.source.state_dict()
    if {n: v.shape for n, v in ours.items()} != {n: v.shape for n, v in theirs.items()}:
        raise PrescriptionError("the two models have other parameters: give a model and one that was tuned from it")
    for name, value in ours.items():
        if value.is_floating_point():
            value.lerp_(theirs[name].to(value), float(weight))
    return rewrap(base, source)


def check_export(folder: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()) -> Path:
    """The folder, if an export can be written there. Raises OutputError otherwise, also if it holds an input."""
    return check_folder(folder, FORMAT, overwrite=overwrite, inputs=inputs)


@explains_arguments
def export(model: DualEncoder, folder: str | Path, kind: Kind | None = None, *, overwrite: bool = False) -> Path:
    """Write a model with all its weights into ``folder``, complete or not at all.

    "state-dict": ``model.safetensors`` by the parameters' names. "open_clip": what
    ``ts.load("open_clip:local-dir:FOLDER")`` and open_clip load. "transformers": what ``ts.load("hf:FOLDER")`` and
    ``AutoModel.from_pretrained`` load. None: the folder of the library that the model is of.

    model: adapters merged (``TrainResult.model``, ``load_run``).

    Raises OutputError when the folder cannot be written or holds something else; PrescriptionError when the model is
    not of that library, or has parts that the library does not write.
    """
    kind = _kind_of(model) if kind is None else kind
    if kind not in KINDS:
        raise PrescriptionError(f"there is no format {shown(kind)}; choose one of: {', '.join(KINDS)}")
    check_export(folder, overwrite=overwrite, inputs=[model_place(model.name)])
    write = {"state-dict": _state_dict, "open_clip": _open_clip, "transformers": _transformers}[kind]
    facts = {"model": model.name, "kind": kind, "weights_sha256": model.text.fingerprint()}
    with write_folder(folder, FORMAT, overwrite=overwrite, facts=facts) as fresh:
        write(model, fresh)
    return Path(folder)


def model_place(name: str) -> str | None:
    """The folder that a model's name says it was loaded from; None where it says none, or one that is not there."""
    place = name.removeprefix("open_clip:").partition(":")[2]
    return place if place and is_folder(place) else None


def _kind_of(model: DualEncoder) -> Kind:
    if hasattr(model.source, "save_pretrained"):
        return "transformers"
    return "open_clip" if model.name.startswith("open_clip:") else "state-dict"


def _state_dict(model: DualEncoder, folder: Path) -> None:
    from safetensors.torch import save_file

    # tied weights are written under each of their names
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.source.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _open_clip(model: DualEncoder, folder: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    name = model.name.removeprefix("open_clip:")
    config = _open_clip_config(name)
    if config is None:
        raise PrescriptionError(
            f"{model.name!r} is none of open_clip's architectures, so that its folder could not say what to build; "
            "export a state dict"
        )
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.source.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    preprocess = config.get("preprocess_cfg") or _preprocess_of(model)
    content = {"model_cfg": config["model_cfg"], "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer = open_clip.get_tokenizer(name)
    if hasattr(tokenizer, "tokenizer") and hasattr(tokenizer.tokenizer, "save_pretrained"):
        tokenizer.tokenizer.save_pretrained(str(folder))


def _open_clip_config(name: str) -> dict[str, Any] | None:
    import open_clip

    if name.startswith("local-dir:"):
        content: dict[str, Any] = json.loads((Path(name[10:]) / "open_clip_config.json").read_text(encoding="utf-8"))
        return content
    config = None if ":" in name else open_clip.get_model_config(name.replace("/", "-"))
    return None if config is None else {"model_cfg": config}


def _preprocess_of(model: DualEncoder) -> dict[str, Any]:
    found = getattr(getattr(model.source, "visual", None), "preprocess_cfg", None)
    return dict(found) if isinstance(found, dict) else {}


def _transformers(model: DualEncoder, folder: Path) -> None:
    source: Any = model.source
    if not hasattr(source, "save_pretrained") or not hasattr(model.tokenizer, "save_pretrained"):
        raise PrescriptionError(
            f"{model.name!r} is no model of transformers with its tokenizer; export a state dict, or open_clip's format"
        )
    source.save_pretrained(str(folder))
    model.tokenizer.save_pretrained(str(folder))
    if model.name.startswith("hf:"):
        from transformers import AutoImageProcessor

        try:
            processor = AutoImageProcessor.from_pretrained(model.name.removeprefix("hf:"))
        except Exception as problem:  # it has none, or the hub cannot be reached
            raise OutputError(
                f"cannot write {shown_path(folder)}: the image processor of {model.name!r} cannot be read ({problem})"
            ) from problem
        processor.save_pretrained(str(folder))

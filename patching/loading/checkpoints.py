"""Checkpoint files: read without running code; what they tell of the activation they were trained with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import DataFormatError, UnknownModelError
from ...io.quoting import first_line, shown_path
from ...io.reading import MAX_DOCUMENT, open_regular
from .archives import ArchiveError, archive_state, is_archive

MAX_CHECKPOINT = 2**36  # bytes
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".npy", ".onnx", ".ot")
_SIZES = ("input_resolution", "context_length", "vocab_size")  # what only OpenAI's archives hold beside weights
_OPENAI_NAMES = r"openai|chexzero|best_64_|^(ViT-[BL]-\d\d(-336px)?|RN\d+(x\d+)?)\.pt$"
_GELU_NAMES = r"laion|datacomp|commonpool"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of a file by name; what else it held; and whether it is a TorchScript archive."""

    path: Path
    state: dict[str, Tensor]
    extra: Mapping[str, Any]
    archive: bool = False

    @property
    def openai(self) -> bool:
        """Whether this is OpenAI's own format: an archive, or weights beside the model's sizes."""
        return self.archive or any(name in self.extra for name in _SIZES)


def read_checkpoint(path: str | Path, *, run_pickled_code: bool = False) -> Checkpoint:
    """The weights of a ``.pt``, ``.bin``, ``.ckpt`` or ``.safetensors`` file, on the CPU.

    run_pickled_code: let Python unpickle whatever the file names, which may run any code; never by default. A
        TorchScript program is not run even so.

    Raises:
        UnknownModelError: there is no such file, or it holds no weights that can be read safely.
    """
    path = regular_file(path)
    name = f"the checkpoint {shown_path(path)}"
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open
            from safetensors.torch import load_file

            with safe_open(path, "pt") as file:
                stated = file.metadata() or {}
            return _split(path, load_file(path), {key: _boolean(text) for key, text in stated.items()})
        if is_archive(path):
            return _split(path, _archive(path), {}, archive=True)
        content = torch.load(path, map_location="cpu", weights_only=not run_pickled_code)
    except UnknownModelError:
        raise
    except Exception as error:
        if any(sign in str(error).lower() for sign in ("unsupported global", "unsupported class")):
            raise UnknownModelError(
                f"{name} holds more than weights, and unpickling that may run any code: if you trust its source, pass "
                f"trust_remote_code=True"
            ) from error
        reason = first_line(error)[:200]
        if path.stat().st_size == 0:
            reason = "it is empty"
        elif reason.startswith("Weights only load failed"):
            reason = "it is no file of torch.save"
        raise UnknownModelError(f"{name} cannot be read: {reason}") from error
    if not isinstance(content, Mapping):
        raise UnknownModelError(
            f"{name} holds a {type(content).__name__}, not weights by name: save the model's state_dict()"
        )
    nested = content.get("state_dict")
    if isinstance(nested, Mapping):
        return _split(path, nested, {name: value for name, value in content.items() if name != "state_dict"})
    return _split(path, content, {})


def regular_file(path: str | Path) -> Path:
    """``path`` if it is a regular file of at most :data:`MAX_CHECKPOINT` bytes; never waits for a pipe or device.

    Raises:
        UnknownModelError: it is not.
    """
    try:
        open_regular(path, MAX_CHECKPOINT).close()
    except DataFormatError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UnknownModelError(f"there is no checkpoint file {shown_path(path)}") from None
        raise UnknownModelError(f"no checkpoint: {error}") from None
    return Path(path)


def check_model_folder(folder: str | Path) -> None:
    """Refuse a folder whose files a library must not open: pipes and devices, and files of more than a stated size.

    The libraries' loaders read such folders themselves, without a limit.

    Raises:
        UnknownModelError: names the file.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            limit = MAX_CHECKPOINT if path.suffix in _WEIGHTS else MAX_DOCUMENT
            try:
                open_regular(path, limit).close()
            except DataFormatError as error:
                raise UnknownModelError(f"the model's folder {shown_path(folder)} is not opened: {error}") from None


def _archive(path: Path) -> Mapping[str, Tensor]:
    """The weights of a TorchScript archive, read as data; a program is never run, whatever the user trusts."""
    try:
        return archive_state(path)
    except ArchiveError as error:
        raise UnknownModelError(
            f"the checkpoint {shown_path(path)} is a TorchScript program whose weights cannot be read without running "
            f"it ({error}): if you trust its source, save torch.jit.load(...).state_dict() with torch.save and give "
            f"that file"
        ) from error


def _boolean(text: str) -> str | bool:
    return {"true": True, "false": False}.get(text.lower(), text)


def _split(path: Path, content: Mapping[str, Any], extra: Mapping[str, Any], *, archive: bool = False) -> Checkpoint:
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor) and k not in _SIZES}
    if not state:
        raise UnknownModelError(
            f"the checkpoint {shown_path(path)} holds no weights, only {sorted(map(str, content))[:5]}"
        )
    rest = {str(k): v for k, v in content.items() if k not in state}
    return Checkpoint(path, unwrapped_names(state), {**extra, **rest}, archive)


def unwrapped_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that the bare model gives them.

    ``_orig_mod`` of torch.compile is left out wherever it stands, ``module`` of (Distributed)DataParallel and
    AveragedModel where every name begins with it, in any nesting; so is AveragedModel's count ``n_averaged``.

    >>> list(unwrapped_names({"module._orig_mod.visual._orig_mod.proj": torch.zeros(1), "n_averaged": torch.zeros(1)}))
    ['visual.proj']
    """
    names = {name: [part for part in name.split(".") if part != "_orig_mod"] for name in state}
    if len(names) > 1 and all(parts[0] == "module" for name, parts in names.items() if name != "n_averaged"):
        names.pop("n_averaged", None)
    while all(len(parts) > 1 and parts[0] == "module" for parts in names.values()):
        names = {name: parts[1:] for name, parts in names.items()}
    out = {".".join(parts): state[name] for name, parts in names.items()}
    return out if len(out) == len(names) else dict(state)


def trained_with_quick_gelu(checkpoint: Checkpoint) -> tuple[bool, str] | None:
    """Whether a file's weights were trained with QuickGELU, and what tells; None where nothing does.

    Weights do not show their activation. These signs do, in this order: OpenAI's own format; the run name that
    open_clip's training notes in a checkpoint; the file's name; blocks whose attention stands before its norm, the
    order in which OpenAI's class, and CheXzero's copy of it, saves itself. open_clip's saves the norm first since its
    version 2; its older checkpoints look like OpenAI's and may have had either activation.

    >>> from pathlib import Path
    >>> import torch
    >>> block = "transformer.resblocks.0"
    >>> weights = {f"{block}.{name}": torch.zeros(1) for name in ("mlp.c_fc.bias", "attn.in_proj_bias", "ln_1.bias")}
    >>> trained_with_quick_gelu(Checkpoint(Path("model.pt"), weights, {}))
    (True, "its weights are in the order in which OpenAI's class saves itself")
    >>> trained_with_quick_gelu(Checkpoint(Path("model.pt"), dict(reversed(weights.items())), {})) is None
    True
    """
    if isinstance(stated := checkpoint.extra.get("quick_gelu"), bool):
        return stated, f"the file says quick_gelu={stated}"
    if checkpoint.openai:
        return True, "it is in OpenAI's own format"
    run = str(checkpoint.extra.get("name", ""))
    if "quickgelu" in run.lower():  # without it, training may still have begun from OpenAI's weights, with QuickGELU
        return True, f"open_clip noted the run {run!r} in it"
    for pattern, quick in ((_OPENAI_NAMES, True), (_GELU_NAMES, False)):
        if re.search(pattern, checkpoint.path.name, re.IGNORECASE):
            return quick, f"its name is {checkpoint.path.name!r}"
    names = list(checkpoint.state)
    within = [name.partition("resblocks.0.")[2] for name in names if "transformer.resblocks.0." in name]
    parts = [name.split(".")[0] for name in within if not name.startswith("mlp")]
    if checkpoint.path.suffix != ".safetensors" and names != sorted(names) and parts[:1] == ["attn"]:
        return True, "its weights are in the order in which OpenAI's class saves itself"
    return None


def explain(error: Exception) -> str:
    """What went wrong in a sentence; of torch's pages about keys that do not fit, the first three of each kind."""
    text = str(error)
    found = []
    for kind, pattern in (("missing", r"Missing key\(s\) in state_dict: (.+)"), ("unexpected", r"Unexpected.+?: (.+)")):
        names = [name for line in re.findall(pattern, text) for name in re.findall(r'"([^"]+)"', line)]
        found += [f"{len(names)} {kind} ({_some(names)})"] if names else []
    shapes = re.findall(r"size mismatch for (\S+):", text)
    found += [f"{len(shapes)} of another shape ({_some(shapes)})"] if shapes else []
    return _misfit(found) if found else first_line(error)


def lacking(names: list[str]) -> str:
    """That weights are missing, in the same words."""
    return _misfit([f"{len(names)} missing ({_some(names)})"])


def _misfit(kinds: list[str]) -> str:
    return f"its weights do not fit: {'; '.join(kinds)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

"""Loads sentence-transformers folders: the transformer, its pooling, dense layers and default prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import UnknownModelError, UnsupportedTowerError
from ...io.json_lines import read_json
from ...io.quoting import shown, shown_path
from ..adapters.sentence_encoder import SentenceEncoder, SentencePooling
from ..towers.tokenizers import TransformersTokenizer
from .checkpoints import lacking, read_checkpoint
from .dual_encoder import DualEncoder, wrap
from .hub import hub_or_cache
from .sources import Request, loading

_MODES: dict[str, SentencePooling] = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken"}
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
}
_WANTED = ("*.json", "*.txt", "*.model", "*.safetensors", "*/config.json", "*/*.safetensors", "*/pytorch_model.bin")


def from_sentence_transformers(rest: str, request: Request) -> DualEncoder:
    """A sentence-transformers model from a folder or its hub id.

    The package sentence-transformers is not needed. Exactly read are: one transformer; mean, CLS or last-token pooling;
    dense layers; normalisation (embeddings have length 1 here in any case).

    Raises:
        UnknownModelError: there is no such folder, or a file of it is missing or no such file.
        UnsupportedTowerError: another module or pooling; names it.
    """
    folder = Path(rest).expanduser()
    if not folder.is_dir():
        folder = _download(rest)
    parts = _modules(folder)
    if [kind for kind, _ in parts[:2]] != ["Transformer", "Pooling"]:
        raise UnsupportedTowerError(
            f"{shown_path(folder)} begins with {' and '.join(kind for kind, _ in parts[:2]) or 'no module'}: only a "
            f"Transformer and a Pooling can be traced"
        )
    (_, first), (_, second), *further = parts
    pooling, scaled, without_prompt = _pooling(folder / second)
    dense: list[nn.Module] = []
    for kind, place in further:
        if kind == "Dense":
            dense += _dense(folder / place, request)
        elif kind not in ("Normalize", "Dropout"):
            raise UnsupportedTowerError(f"{shown_path(folder)} has a module of type {kind!r}, which is not read here")
    if scaled and dense:
        raise UnsupportedTowerError(
            f"{shown_path(folder)} divides by the square root of the length before a dense layer; only a mean over "
            f"tokens is read there"
        )
    settings = _settings(folder / "config_sentence_transformers.json")
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    prompt = str(prompts.get(default, "")) if default is not None else ""
    if prompt and without_prompt:
        raise UnsupportedTowerError(
            f"{shown_path(folder)} leaves its prompt {shown(prompt)} out of the pooling, which is not read here"
        )
    transformer, tokenizer = _transformer(folder / first, request, prompt)
    model = SentenceEncoder(transformer, pooling, dense, prompts)
    if request.dtype is not None:
        model.to(request.dtype)
    return wrap(model.to(request.device).eval(), tokenizer=tokenizer, name=request.name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    what = f"the sentence-transformers model {shown(name)} is no folder here and cannot be downloaded"
    with loading(what), hub_or_cache(what):
        return Path(snapshot_download(name, allow_patterns=list(_WANTED)))


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Class and folder of every module, in order."""
    path = folder / "modules.json"
    if not path.exists():
        raise UnknownModelError(
            f"{shown_path(folder)} has no modules.json, so it is no sentence-transformers folder; a plain transformers "
            f"model is loaded by 'hf:{folder}'"
        )
    with loading(f"{shown_path(path)} is no list of modules"):
        listed = read_json(path)
        found = [(str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in listed]
    for _, place in found:
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise UnknownModelError(f"{shown_path(path)} leads out of its folder, to {shown(place)}")
    return found


def _settings(path: Path) -> Mapping[str, Any]:
    """A JSON object, empty where there is no such file."""
    if not path.exists():
        return {}
    with loading(f"{shown_path(path)} cannot be read"):
        found = read_json(path)
        if not isinstance(found, dict):
            raise TypeError(f"it is not an object but {shown(found)}")
    return found


def _pooling(folder: Path) -> tuple[SentencePooling, bool, bool]:
    """The pooling; whether it is a mean that is scaled by the length; whether it leaves the prompt out."""
    settings = _settings(folder / "config.json")
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or [])
    modes += [
        key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
    ]
    where = shown_path(folder / "config.json")
    if len(modes) != 1:
        raise UnsupportedTowerError(
            f"{where} asks for {' and '.join(modes) or 'no'} pooling: one of CLS, mean and last token can be traced"
        )
    [mode] = modes
    mode = {"cls": "cls_token", "mean": "mean_tokens"}.get(mode, mode)
    scaled = mode == "mean_sqrt_len_tokens"  # the same direction as the mean
    if scaled:
        mode = "mean_tokens"
    if mode not in _MODES:
        raise UnsupportedTowerError(
            f"{where} asks for {shown(mode)} pooling: one of CLS, mean and last token can be traced exactly"
        )
    return _MODES[mode], scaled, settings.get("include_prompt") is False


def _dense(folder: Path, request: Request) -> list[nn.Module]:
    """A linear layer and its activation."""
    settings = _settings(folder / "config.json")
    name = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if name not in _ACTIVATIONS:
        raise UnsupportedTowerError(f"{shown_path(folder)} has the activation {name!r}, which is not read here")
    files = [folder / file for file in ("model.safetensors", "pytorch_model.bin") if (folder / file).exists()]
    if not files:
        raise UnknownModelError(f"{shown_path(folder)} has no weights")
    state = read_checkpoint(files[0], run_pickled_code=request.trust_remote_code).state
    with loading(f"the dense layer of {shown_path(folder)} cannot be loaded"):
        weight, bias = state["linear.weight"], state.get("linear.bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return [layer, *([] if name == "Identity" else [_ACTIVATIONS[name]()])]


def _transformer(folder: Path, request: Request, prompt: str) -> tuple[nn.Module, TransformersTokenizer]:
    from transformers import AutoModel, AutoTokenizer

    settings = _settings(folder / "sentence_bert_config.json")
    place = str(folder)
    with loading(f"transformers cannot load {shown_path(folder)}"):
        model, found = AutoModel.from_pretrained(
            place,
            output_loading_info=True,
            local_files_only=True,
            dtype=request.dtype or "auto",
            trust_remote_code=request.trust_remote_code,
        )
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))  # which nothing reads
    if missing:
        name = type(model).__name__
        raise UnknownModelError(f"{shown_path(folder)} cannot be loaded as a {name}: {lacking(missing)}")
    lower = bool(settings.get("do_lower_case", False))

    def clean(text: str) -> str:
        whole = prompt + text.strip()
        return whole.lower() if lower else whole

    adapted = TransformersTokenizer(tokenizer, clean)
    limits = [settings.get("max_seq_length"), getattr(tokenizer, "model_max_length", None)]
    adapted.context_length = min((int(limit) for limit in limits if limit), default=512)
    return model, adapted

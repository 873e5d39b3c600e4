"""Loads sentence-transformers folders: the transformer, its pooling, dense layers and default prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import UnknownModelError, UnsupportedTowerError
from ...io.json_lines import read_json
from ...io.quoting import shown, shown_path
from ..adapters.sentence_encoder import SentenceEncoder, check_modules, pooling_of, sentence_tokenizer
from ..towers.tokenizers import TransformersTokenizer
from .checkpoints import lacking, read_checkpoint
from .dual_encoder import DualEncoder, wrap
from .hub import hub_or_cache
from .sources import Request, loading

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
    check_modules([kind for kind, _ in parts], shown_path(folder))
    (_, first), (_, second), *further = parts
    dense = [layer for kind, place in further if kind == "Dense" for layer in _dense(folder / place, request)]
    settings = _settings(folder / "config_sentence_transformers.json")
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    prompt = str(prompts.get(default, "")) if default is not None else ""
    pooling = pooling_of(_settings(folder / second / "config.json"), prompt, dense, shown_path(folder))
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
    limits = [settings.get("max_seq_length"), getattr(tokenizer, "model_max_length", None)]
    lower = bool(settings.get("do_lower_case", False))
    return model, sentence_tokenizer(tokenizer, prompt, limits, lower=lower)

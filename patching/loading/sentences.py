"""Loads sentence-transformers folders: the transformer, its pooling, dense layers and default prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ...errors import UnknownModelError, UnsupportedTowerError
from ...io.quoting import shown, shown_path
from ..adapters.sentence_encoder import (
    SentenceEncoder,
    UnitLength,
    encoder_of,
    pooling_of,
    sentence_tokenizer,
    without_last_length,
)
from ..towers.tokenizers import TransformersTokenizer
from .checkpoints import lacking, read_checkpoint
from .dual_encoder import DualEncoder, wrap
from .hub import hub_or_cache
from .sentence_folder import DensePart, SentenceFolder, read_sentence_folder
from .sources import Request, loading

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
}
_WANTED = ("*.json", "*.txt", "*.model", "*.safetensors", "*_Dense/pytorch_model.bin")
_PICKLED = ("pytorch_model*.bin", "0_Transformer/pytorch_model*.bin")  # of the transformer, where nothing else is
_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel"}  # of which AutoModel would make encoder and decoder


def from_sentence_transformers(rest: str, request: Request) -> DualEncoder:
    """A sentence-transformers model from a folder or its hub id.

    The package sentence-transformers is not needed. Exactly read are: one transformer; mean, CLS or last-token pooling;
    dense layers; normalisation (embeddings have length 1 here in any case).

    Raises:
        UnknownModelError: there is no such folder, or a file of it is missing or no such file.
        UnsupportedTowerError: another module or pooling; names it.
    """
    folder = Path(rest).expanduser()
    is_here = folder.is_dir()
    found = read_sentence_folder(folder if is_here else _download(rest, _WANTED))
    if not is_here and not any(found.transformer.glob("*.safetensors")):
        _download(rest, (*_WANTED, *_PICKLED))  # into the same folder
    layers = [layer for part in found.head for layer in ([UnitLength()] if part is None else _dense(part, request))]
    dense = without_last_length(layers)
    pooling = pooling_of(found.pooling, found.prompt, dense, shown_path(folder))
    transformer, tokenizer = _transformer(found, request)
    model = SentenceEncoder(transformer, pooling, dense, found.prompts)
    # a dense layer may be stored in another precision; rotary frequencies of the transformer stay in float32
    model.dense.to(request.dtype or next(transformer.parameters()).dtype)
    with loading(f"{shown(request.name)} cannot be put on {shown(str(request.device))}"):
        model.to(request.device)
    return wrap(model.eval(), tokenizer=tokenizer, name=request.name)


def _download(name: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    what = f"the sentence-transformers model {shown(name)} is no folder here and cannot be downloaded"
    with loading(what), hub_or_cache(what):
        return Path(snapshot_download(name, allow_patterns=list(files)))


def _dense(part: DensePart, request: Request) -> list[nn.Module]:
    """A linear layer and its activation."""
    package, _, name = part.activation.rpartition(".")
    if package.partition(".")[0] != "torch" or name not in _ACTIVATIONS:
        raise UnsupportedTowerError(
            f"{shown_path(part.place)} has the activation {shown(part.activation)}, which is not read here"
        )
    files = [part.place / file for file in ("model.safetensors", "pytorch_model.bin") if (part.place / file).exists()]
    if not files:
        raise UnknownModelError(f"{shown_path(part.place)} has no weights")
    state = read_checkpoint(files[0], run_pickled_code=request.trust_remote_code).state
    with loading(f"the dense layer of {shown_path(part.place)} cannot be loaded"):
        weight, bias = state["linear.weight"], state.get("linear.bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return [layer, *([] if name == "Identity" else [_ACTIVATIONS[name]()])]


def _transformer(folder: SentenceFolder, request: Request) -> tuple[nn.Module, TransformersTokenizer]:
    import transformers

    place = str(folder.transformer)
    with loading(f"transformers cannot load {shown_path(folder.transformer)}"):
        here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": request.trust_remote_code}
        config = transformers.AutoConfig.from_pretrained(place, **here)
        kind: Any = getattr(transformers, _ENCODERS.get(config.model_type, "AutoModel"))
        model, found = kind.from_pretrained(place, output_loading_info=True, dtype=request.dtype or "auto", **here)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **here)
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))  # which nothing reads
    if missing:
        name = type(model).__name__
        raise UnknownModelError(f"{shown_path(folder.transformer)} cannot be loaded as a {name}: {lacking(missing)}")

    limits = [folder.limit or tokenizer.model_max_length]
    adapted = sentence_tokenizer(tokenizer, folder.prompt, limits, lower=folder.lower)
    return encoder_of(model), adapted

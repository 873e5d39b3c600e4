"""Models of the package sentence-transformers, as they stand in memory: read like the folders they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from ..towers.text_tower import TextTower
from . import sentence_encoder
from .base import Adapter
from .sentence_encoder import (
    SentenceEncoder,
    UnitLength,
    check_dense,
    check_modules,
    check_transformer,
    encoder_of,
    pooling_of,
    sentence_tokenizer,
    without_last_length,
)
from .wrappers import class_names, kinds, unwrapped


def _described(source: Any) -> SentenceEncoder:
    """The same modules as one :class:`SentenceEncoder`."""
    modules = [unwrapped(module) for module in unwrapped(source)]
    where = f"this {type(unwrapped(source)).__name__}"
    names = [_package_class(module) for module in modules]
    check_modules(names, where)
    check_transformer(_settings(modules[0]), where)
    dense: list[nn.Module] = []
    for name, module in zip(names, modules, strict=True):
        if name == "Dense":
            check_dense(_settings(module), where)
            dense += [module.linear, module.activation_function]
        elif name == "Normalize":
            dense.append(UnitLength())
    dense = without_last_length(dense)
    pooling = pooling_of(_settings(modules[1]), _prompt(source), dense, where)
    return SentenceEncoder(encoder_of(modules[0].auto_model), pooling, dense, source.prompts)


def _settings(module: Any) -> Mapping[str, Any]:
    """What a module of the package would write into its folder."""
    return getattr(module, "get_config_dict", dict)()


def _package_class(module: nn.Module) -> str:
    """The nearest class of ``module`` that the package itself defines."""
    for kind in type(module).__mro__:
        if kind.__module__.partition(".")[0] == "sentence_transformers":
            return kind.__name__
    return type(module).__name__


def _prompt(source: Any) -> str:
    name = source.default_prompt_name
    return "" if name is None else str(source.prompts.get(name, ""))


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    described = _described(source)
    if "transformers.PreTrainedTokenizerBase" in class_names(tokenizer):
        limits = [source.max_seq_length, tokenizer.model_max_length]
        lower = bool(getattr(source[0], "do_lower_case", False))
        tokenizer = sentence_tokenizer(tokenizer, _prompt(source), limits, lower=lower)
    return sentence_encoder.ADAPTER.build_tower(described, tokenizer)


def _encode_text(source: Any, ids: Int[Tensor, "n context"]) -> Tensor:
    mask = sentence_encoder.mask_of(_described(source), ids)
    embeddings: Tensor = source({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
    return embeddings


def _of_parts(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda source: function(_described(source))


ADAPTER = Adapter(
    name="sentence_transformers",
    matches=lambda source: "sentence_transformers.SentenceTransformer" in kinds(source),
    build_tower=_build_tower,
    blocks=_of_parts(sentence_encoder.ADAPTER.blocks),
    block_linears=_of_parts(sentence_encoder.ADAPTER.block_linears),
    embedding_stage=_of_parts(sentence_encoder.ADAPTER.embedding_stage),
    encode_text=_encode_text,
    encode_image=sentence_encoder.ADAPTER.encode_image,
    logit_scale=sentence_encoder.ADAPTER.logit_scale,
)

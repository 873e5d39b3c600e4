"""Sentence encoders (sentence-transformers' kind): a transformer, a pooling, dense layers; and their adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ...io.quoting import shown
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from ..towers.tokenizers import TransformersTokenizer
from .base import Adapter, EncoderReader
from .encoders import reader_for
from .weights import head
from .wrappers import kinds

SentencePooling = Literal["cls", "mean", "lasttoken"]
_SCALED = "mean_sqrt_len_tokens"  # the same direction as the mean
_MODES: dict[str, SentencePooling] = {"cls": "cls", "mean": "mean", _SCALED: "mean", "lasttoken": "lasttoken"}
_FLAGS = {  # before a pooling had a name
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": _SCALED,
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_NO_LIMIT = 10**9  # what transformers says for "no limit" is larger
# of what the package hands on to transformers: what changes neither a token nor a state
_HARMLESS = {
    "attn_implementation",
    "cache_dir",
    "device_map",
    "dtype",
    "local_files_only",
    "low_cpu_mem_usage",
    "revision",
    "token",
    "torch_dtype",
    "trust_remote_code",
    "use_safetensors",
}
_POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean", "lasttoken": "last"}


class UnitLength(nn.Module):
    """Divides embeddings by their length."""

    def forward(self, embeddings: Float[Tensor, "*n embed"]) -> Float[Tensor, "*n embed"]:
        return nn.functional.normalize(embeddings, dim=-1)


class SentenceEncoder(nn.Module):
    """What a folder of sentence-transformers describes, without that package: token states, one pooling, dense layers.

    pooling: the first token's state, the mean over tokens, or the last token's state. dense: linear layers, activations
    and :class:`UnitLength` behind it. prompts: what the folder would have put before texts, by name; nothing is put
    before them here but the default prompt, by the tokenizer.
    """

    def __init__(
        self,
        transformer: nn.Module,
        pooling: SentencePooling,
        dense: Sequence[nn.Module] = (),
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.transformer, self.dense = transformer, nn.Sequential(*dense)
        self.pooling, self.prompts = pooling, dict(prompts or {})

    def forward(self, ids: Int[Tensor, "n context"], mask: Int[Tensor, "n context"]) -> Float[Tensor, "n embed"]:
        """Embeddings (not normalised) of padded texts; the mask is 1 where a token stands."""
        states = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "mean":
            weights = mask[..., None].to(states.dtype)
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        else:
            pooled = states[range(len(ids)), mask.sum(dim=1) - 1]
        embeddings: Tensor = self.dense(pooled)
        return embeddings


def check_modules(names: Sequence[str], where: str) -> None:
    """Raise unless modules of these classes, in this order, are one transformer, one pooling and what follows it.

    Raises:
        UnsupportedTowerError: names ``where`` and the module.
    """
    if list(names[:2]) != ["Transformer", "Pooling"]:
        raise UnsupportedTowerError(
            f"{where} begins with {' and '.join(names[:2]) or 'no module'}: only a Transformer and a Pooling can be "
            f"traced"
        )
    for name in names[2:]:
        if name not in ("Dense", "Normalize", "Dropout"):
            raise UnsupportedTowerError(f"{where} has a module of type {name!r}, which is not read here")


def pooling_of(settings: Mapping[str, Any], prompt: str, dense: Sequence[nn.Module], where: str) -> SentencePooling:
    """From the configuration of a Pooling module, of any version of the package.

    Raises:
        UnsupportedTowerError: names ``where`` and the pooling that is not read here, before ``dense`` or behind
            ``prompt``.
    """
    named = settings.get("pooling_mode")
    if named is None:
        named = [mode for flag, mode in _FLAGS.items() if settings.get(flag)]
    modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UnsupportedTowerError(
            f"{where} asks for {' and '.join(map(str, modes)) or 'no'} pooling: one of CLS, mean and last token can be "
            f"traced"
        )
    if modes[0] == _SCALED and dense and not isinstance(dense[0], UnitLength):
        raise UnsupportedTowerError(
            f"{where} divides by the square root of the length before a dense layer; only a mean over tokens is read "
            f"there"
        )
    if prompt and settings.get("include_prompt") is False:
        raise UnsupportedTowerError(
            f"{where} leaves its prompt {shown(prompt)} out of the pooling, which is not read here"
        )
    return _MODES[modes[0]]


def check_dense(settings: Mapping[str, Any], where: str) -> None:
    """Raise unless a Dense module is a linear layer and an activation, of the embedding.

    Raises:
        UnsupportedTowerError: names ``where`` and what it is besides.
    """
    for name in ("module_input_name", "module_output_name"):
        if settings.get(name) not in (None, "sentence_embedding"):
            raise UnsupportedTowerError(
                f"{where} has a dense layer of {shown(settings[name])}; only those of embeddings are read"
            )
    if settings.get("use_residual"):
        raise UnsupportedTowerError(
            f"{where} has a dense layer that adds its input to its output (use_residual), which is not read here"
        )


def check_transformer(settings: Mapping[str, Any], where: str) -> None:
    """Raise unless a Transformer module tokenizes texts as they are and gives the last states.

    Raises:
        UnsupportedTowerError: names ``where`` and the setting.
    """
    handed = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
    odd = {
        f"{name}: {key}": value
        for name in handed
        for key, value in (settings.get(name) or {}).items()
        if key not in _HARMLESS
    }
    odd |= {name: settings[name] for name in ("tokenizer_name_or_path", "processing_kwargs") if settings.get(name)}
    for name, usual in (("transformer_task", "feature-extraction"), ("module_output_name", "token_embeddings")):
        if settings.get(name) not in (None, usual):
            odd[name] = settings[name]
    modalities = settings.get("modality_config")
    if modalities is not None and ("message" in modalities or not _is_last_state(modalities.get("text"))):
        odd["modality_config"] = modalities
    if odd:
        name, value = next(iter(odd.items()))
        raise UnsupportedTowerError(f"{where} has {name} = {shown(value)}, which is not read here")


def _is_last_state(modality: Any) -> bool:
    """Whether a text's ids are given to the transformer, and its last states are taken."""
    told = modality if isinstance(modality, Mapping) else {}
    output = told.get("method_output_name")
    if isinstance(output, (list, tuple)) and len(output) == 1:
        [output] = output
    return told.get("method") == "forward" and output == "last_hidden_state"


def without_last_length(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Layers behind the pooling without what only scales the embedding at the end."""
    found = list(layers)
    while found and isinstance(found[-1], UnitLength):
        found.pop()
    return found


def sentence_tokenizer(
    tokenizer: Any, prompt: str, limits: Sequence[int | None], *, lower: bool = False
) -> TransformersTokenizer:
    """A transformers tokenizer as the package uses it: stripped texts behind the default prompt, of limited length."""

    def clean(text: str) -> str:
        prompted = prompt + text.strip()
        return prompted.lower() if lower else prompted

    adapted = TransformersTokenizer(tokenizer, clean)
    adapted.context_length = min((int(limit) for limit in limits if limit and limit < _NO_LIMIT), default=None)
    return adapted


def encoder_of(transformer: Any) -> Any:
    """The encoder inside T5's and mT5's models of an encoder alone; any other transformer as it is."""
    holders = {"transformers.T5EncoderModel", "transformers.MT5EncoderModel"}
    return transformer.encoder if kinds(transformer) & holders else transformer


def _reader(source: Any) -> EncoderReader:
    return reader_for(source.transformer)


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    return _reader(source).tower(source.transformer, tokenizer, _POOLINGS[source.pooling], head(source.dense))


def mask_of(source: Any, ids: Int[Tensor, "n context"]) -> Int[Tensor, "n context"]:
    """1 where a token stands, as the transformer inside ``source`` hides padding.

    Raises:
        UnsupportedTowerError: it hides none.
    """
    mask = _reader(source).mask(source.transformer, ids)
    if mask is None:
        raise UnsupportedTowerError(f"a {type(source.transformer).__name__} is called without an attention mask")
    return mask


def _encode_text(source: Any, ids: Int[Tensor, "n context"]) -> Tensor:
    embeddings: Tensor = source(ids, mask_of(source, ids))
    return embeddings


def _embedding_stage(source: Any) -> tuple[nn.Module, bool]:
    name, read_input = _reader(source).embedding_stage
    return source.transformer.get_submodule(name), read_input


def _no_images(source: Any, pixels: Tensor) -> Tensor:
    raise UnsupportedTowerError("a sentence encoder encodes no images: score captions against texts, ts.Text(...)")


ADAPTER = Adapter(
    name="sentence_encoder",
    matches=lambda source: "tracescribe.SentenceEncoder" in kinds(source),
    build_tower=_build_tower,
    blocks=lambda source: _reader(source).blocks_of(source.transformer),
    block_linears=lambda source: _reader(source).block_linears,
    embedding_stage=_embedding_stage,
    encode_text=_encode_text,
    encode_image=_no_images,
    logit_scale=lambda source: None,
)

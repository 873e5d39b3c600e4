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
_MODES: dict[str, SentencePooling] = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    _SCALED: "mean",
    "lasttoken": "lasttoken",
}
_POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean", "lasttoken": "last"}


class SentenceEncoder(nn.Module):
    """What a folder of sentence-transformers describes, without that package: token states, one pooling, dense layers.

    pooling: the first token's state, the mean over tokens, or the last token's state. dense: linear layers and
    activations behind it. prompts: what the folder would have put before texts, by name; nothing is put before them
    here but the default prompt, by the tokenizer.
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
    modes = [named] if isinstance(named, str) else list(named or [])
    modes += [
        key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
    ]
    if len(modes) != 1:
        raise UnsupportedTowerError(
            f"{where} asks for {' and '.join(modes) or 'no'} pooling: one of CLS, mean and last token can be traced"
        )
    [mode] = modes
    if mode not in _MODES:
        raise UnsupportedTowerError(
            f"{where} asks for {shown(mode)} pooling: one of CLS, mean and last token can be traced exactly"
        )
    if mode == _SCALED and dense:
        raise UnsupportedTowerError(
            f"{where} divides by the square root of the length before a dense layer; only a mean over tokens is read "
            f"there"
        )
    if prompt and settings.get("include_prompt") is False:
        raise UnsupportedTowerError(
            f"{where} leaves its prompt {shown(prompt)} out of the pooling, which is not read here"
        )
    return _MODES[mode]


def sentence_tokenizer(
    tokenizer: Any, prompt: str, limits: Sequence[int | None], *, lower: bool = False
) -> TransformersTokenizer:
    """A transformers tokenizer as the package uses it: stripped texts behind the default prompt, of limited length."""

    def clean(text: str) -> str:
        prompted = prompt + text.strip()
        return prompted.lower() if lower else prompted

    adapted = TransformersTokenizer(tokenizer, clean)
    adapted.context_length = min((int(limit) for limit in limits if limit), default=512)
    return adapted


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
    blocks=lambda source: list(source.transformer.get_submodule(_reader(source).blocks)),
    block_linears=lambda source: _reader(source).block_linears,
    embedding_stage=_embedding_stage,
    encode_text=_encode_text,
    encode_image=_no_images,
    logit_scale=lambda source: 1.0,
)

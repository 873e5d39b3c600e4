"""Sentence encoders (sentence-transformers' kind): a transformer, a pooling, dense layers; and their adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import Adapter, EncoderReader
from .encoders import reader_for
from .weights import head
from .wrappers import kinds

SentencePooling = Literal["cls", "mean", "lasttoken"]
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


def _reader(source: Any) -> EncoderReader:
    return reader_for(source.transformer)


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    return _reader(source).tower(source.transformer, tokenizer, _POOLINGS[source.pooling], head(source.dense))


def _encode_text(source: Any, ids: Int[Tensor, "n context"]) -> Tensor:
    mask = _reader(source).mask(source.transformer, ids)
    if mask is None:
        raise UnsupportedTowerError(f"a {type(source.transformer).__name__} is called without an attention mask")
    embeddings: Tensor = source(ids, mask)
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

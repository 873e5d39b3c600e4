"""open_clip's ``CustomTextCLIP`` over a transformers encoder (``HFTextEncoder``): BiomedCLIP and its kind."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..text_tower import TextTower
from .bert import BLOCK_LINEARS, bert_tower, is_bert_like, pooler
from .open_clip import clip_logit_scale
from .registry import Adapter
from .weights import kinds, linear, stateless


def _matches(source: Any) -> bool:
    return "open_clip.CustomTextCLIP" in kinds(source) and "open_clip.HFTextEncoder" in kinds(source.text)


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text
    encoder = text.transformer
    if not is_bert_like(encoder):
        raise UnsupportedTowerError(
            f"open_clip's HFTextEncoder holds a {type(encoder).__name__}; only BERT-like encoders are supported in it"
        )
    how = type(text.pooler).__name__
    if how not in ("ClsPooler", "ClsLastHiddenStatePooler"):
        raise UnsupportedTowerError(f"HFTextEncoder with {how} is not supported yet, only reading at the CLS token")
    own_pooler = how == "ClsPooler" and text.pooler.use_pooler_output and encoder.pooler is not None
    head = (pooler(encoder) if own_pooler else []) + _projection(text.proj)
    return bert_tower(encoder, tokenizer, head=head)


def _projection(projection: nn.Module) -> list[nn.Module]:
    layers = projection if isinstance(projection, nn.Sequential) else [projection]
    return [linear(layer) if hasattr(layer, "weight") else stateless(layer) for layer in layers]


ADAPTER = Adapter(
    name="open_clip_hf",
    matches=_matches,
    build_tower=_build_tower,
    blocks=lambda source: list(source.text.transformer.encoder.layer),
    block_linears=BLOCK_LINEARS,
    block_prefix=lambda source: "text.transformer.encoder.layer",
    embedding_stage=lambda source: (source.text.transformer.embeddings, False),
    encode_text=lambda source, ids: source.encode_text(ids),
    encode_image=lambda source, pixels: source.encode_image(pixels),
    logit_scale=clip_logit_scale,
)

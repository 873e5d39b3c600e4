"""transformers' dual encoders with a BERT-like text tower: ChineseCLIP, ALIGN, VisionTextDualEncoder."""

from __future__ import annotations

from typing import Any

from ..text_tower import TextTower
from .bert import BLOCK_LINEARS, bert_tower, is_bert_like, pooler
from .registry import Adapter
from .transformers_clip import features
from .weights import kinds, linear

_FIRST_TOKEN = {"transformers.ChineseCLIPModel", "transformers.AlignModel"}
_POOLER = {"transformers.VisionTextDualEncoderModel"}


def _matches(source: Any) -> bool:
    return bool(kinds(source) & (_FIRST_TOKEN | _POOLER)) and is_bert_like(source.text_model)


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    head = pooler(source.text_model) if kinds(source) & _POOLER else []
    return bert_tower(source.text_model, tokenizer, head=[*head, linear(source.text_projection)])


def _encode_text(source: Any, ids: Any) -> Any:
    attended = ids != source.text_model.config.pad_token_id
    return features(source.get_text_features(input_ids=ids, attention_mask=attended.long()))


def _logit_scale(source: Any) -> float:
    if hasattr(source, "logit_scale"):
        return float(source.logit_scale.detach().exp())
    return 1 / float(source.temperature.detach())  # ALIGN


ADAPTER = Adapter(
    name="transformers_bert",
    matches=_matches,
    build_tower=_build_tower,
    blocks=lambda source: list(source.text_model.encoder.layer),
    block_linears=BLOCK_LINEARS,
    block_prefix=lambda source: "text_model.encoder.layer",
    embedding_stage=lambda source: (source.text_model.embeddings, False),
    encode_text=_encode_text,
    encode_image=lambda source, pixels: features(source.get_image_features(pixel_values=pixels)),
    logit_scale=_logit_scale,
)

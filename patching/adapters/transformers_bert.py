"""transformers' dual encoders over a text encoder of their own kind: ChineseCLIP, ALIGN, VisionTextDualEncoder."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..text_tower import TextTower
from .bert import pooler
from .encoders import reader_for, reads
from .registry import Adapter
from .transformers_clip import build_clip_image_tower, features
from .weights import kinds, linear

_FIRST_TOKEN = {"transformers.ChineseCLIPModel", "transformers.AlignModel"}
_POOLER = {"transformers.VisionTextDualEncoderModel"}


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    encoder = source.text_model
    head = pooler(encoder) if kinds(source) & _POOLER else []
    return reader_for(encoder).build(encoder, tokenizer, "first", [*head, linear(source.text_projection)])


def _encode_text(source: Any, ids: Any) -> Any:
    attended = ids != source.text_model.config.pad_token_id
    return features(source.get_text_features(input_ids=ids, attention_mask=attended.long()))


def _logit_scale(source: Any) -> float:
    if hasattr(source, "logit_scale"):
        return float(source.logit_scale.detach().exp())
    return 1 / float(source.temperature.detach())  # ALIGN


def _embedding_stage(source: Any) -> tuple[nn.Module, bool]:
    name, read_input = reader_for(source.text_model).embedding_stage
    return source.text_model.get_submodule(name), read_input


ADAPTER = Adapter(
    name="transformers_bert",
    matches=lambda source: bool(kinds(source) & (_FIRST_TOKEN | _POOLER)) and reads(source.text_model),
    build_tower=_build_tower,
    blocks=lambda source: list(source.text_model.get_submodule(reader_for(source.text_model).blocks)),
    block_linears=lambda source: reader_for(source.text_model).block_linears,
    block_prefix=lambda source: f"text_model.{reader_for(source.text_model).blocks}",
    embedding_stage=_embedding_stage,
    encode_text=_encode_text,
    encode_image=lambda source, pixels: features(source.get_image_features(pixel_values=pixels)),
    logit_scale=_logit_scale,
    build_image_tower=build_clip_image_tower,
)

"""open_clip's dual encoders over a transformers encoder (``HFTextEncoder``): BiomedCLIP, XLM-R, mT5, NLLB, CoCa."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..towers.text_tower import TextTower
from .base import Adapter
from .encoders import reader_for
from .open_clip import clip_logit_scale, encode_text
from .vision_open_clip import build_image_tower
from .weights import head
from .wrappers import kinds


def _matches(source: Any) -> bool:
    return bool(kinds(source) & {"open_clip.CustomTextCLIP", "open_clip.CoCa"}) and (
        "open_clip.HFTextEncoder" in kinds(source.text)
    )


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text
    encoder = text.transformer
    how = type(text.pooler).__name__
    if how not in ("ClsPooler", "ClsLastHiddenStatePooler", "MeanPooler"):
        raise UnsupportedTowerError(
            f"HFTextEncoder with {how} is not supported, only reading CLS or a mean over tokens"
        )
    reader = reader_for(encoder)
    uses_pooler = how == "ClsPooler" and text.pooler.use_pooler_output and getattr(encoder, "pooler", None) is not None
    pooling, pooler = reader.pooled(encoder) if uses_pooler else ("mean" if how == "MeanPooler" else "first", [])
    return reader.tower(encoder, tokenizer, pooling, [*pooler, *head(text.proj)])


def _embedding_stage(source: Any) -> tuple[nn.Module, bool]:
    encoder = source.text.transformer
    name, read_input = reader_for(encoder).embedding_stage
    return encoder.get_submodule(name), read_input


ADAPTER = Adapter(
    name="open_clip_hf",
    matches=_matches,
    build_tower=_build_tower,
    blocks=lambda source: reader_for(source.text.transformer).blocks_of(source.text.transformer),
    block_linears=lambda source: reader_for(source.text.transformer).block_linears,
    embedding_stage=_embedding_stage,
    encode_text=encode_text,
    encode_image=lambda source, pixels: source.encode_image(pixels),
    logit_scale=clip_logit_scale,
    build_image_tower=build_image_tower,
)

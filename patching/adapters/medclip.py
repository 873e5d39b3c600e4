"""MedCLIP (Wang et al. 2022): a linear map of the mean over all tokens of hidden states 1, 2 and the last.

The original averages padding too, so that a text's embedding depends on its batch; a tower, and what it is compared
with, runs every text in its own length. ``encode_text`` needs a GPU, so that its parts are called instead.
"""

from __future__ import annotations

from typing import Any

from ..towers.text_tower import TextTower
from .bert import attended, bert_adapter, bert_tower
from .open_clip import clip_logit_scale
from .weights import linear


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text_model
    read = (1, 2, len(text.model.encoder.layer))
    return bert_tower(text.model, tokenizer, "mean", [linear(text.projection_head)], readout_layers=read)


ADAPTER = bert_adapter(
    "medclip",
    {"medclip.MedCLIPModel"},
    "text_model.model",
    _build_tower,
    encode_text=lambda source, ids: source.text_model(ids, attended(source.text_model.model, ids)),
    encode_image=lambda source, pixels: source.vision_model(pixels),
    logit_scale=clip_logit_scale,
    own_length=True,
)

"""GLoRIA (Huang et al. 2021): the last layers' states of all tokens from [CLS] to [SEP], summed, without a projection.

The original divides the sum by the padded length; the cosine does not see a positive factor, so that the tower reads
the mean over layers and tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedTowerError
from ..towers.text_tower import TextTower
from .bert import attended, bert_adapter, bert_tower


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text_encoder
    if not text.agg_tokens or text.aggregate_method != "sum" or text.emb_global is not None:
        raise UnsupportedTowerError(
            f"GLoRIA's text encoder is read with summed word pieces and no embedding layer, as the released weights "
            f"are; this one has agg_tokens={text.agg_tokens}, aggregate_method={text.aggregate_method!r} and "
            f"{'an' if text.emb_global is not None else 'no'} embedding layer"
        )
    last = len(text.model.encoder.layer)
    read = tuple(range(last - text.last_n_layers + 1, last + 1))
    return bert_tower(text.model, tokenizer, "mean", [], readout_layers=read)


def _encode_text(source: Any, ids: Tensor) -> Tensor:
    mask = attended(source.text_encoder.model, ids)
    return source.text_encoder_forward(ids, mask, torch.zeros_like(ids))[1]


ADAPTER = bert_adapter(
    "gloria",
    {"gloria.GLoRIA"},
    "text_encoder.model",
    _build_tower,
    encode_text=_encode_text,
    encode_image=lambda source, pixels: source.image_encoder_forward(pixels)[1],
    logit_scale=lambda source: float(source.temp3),  # of the global loss
)

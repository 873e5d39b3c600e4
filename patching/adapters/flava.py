"""FLAVA's text encoder: BERT's embeddings, pre-norm blocks, a final norm."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import Attention, Block
from ..towers.layers import SplitQKV
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, masked_tower
from .bert import bert_embedding, bert_mlp
from .weights import layer_norm, linear
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    embedding, places = bert_embedding(encoder.embeddings)
    blocks = [_block(layer) for layer in encoder.encoder.layer]
    return masked_tower(tokenizer, places, embedding, blocks, pooling, head, ln_final=layer_norm(encoder.layernorm))


def _block(layer: Any) -> Block:
    attention = layer.attention.attention
    return Block(
        ln_1=layer_norm(layer.layernorm_before),
        attn=Attention(
            SplitQKV(linear(attention.query), linear(attention.key), linear(attention.value)),
            linear(layer.attention.output.dense),
            attention.num_attention_heads,
        ),
        ln_2=layer_norm(layer.layernorm_after),
        mlp=bert_mlp(layer),
    )


READERS = (
    EncoderReader(
        name="flava",
        matches=lambda encoder: "transformers.FlavaTextModel" in kinds(encoder),
        build=_build,
        blocks="encoder.layer",
        block_linears=(
            r"attention\.attention\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense"
        ),
        embedding_stage=("embeddings", False),
    ),
)

"""MPNet: BERT's post-norm blocks without token types, and one table of biases by distance that all blocks share."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import Attention, Block
from ..towers.layers import SplitQKV
from ..towers.relative_positions import DistanceBias
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, masked_tower
from .bert import bert_embedding, bert_mlp
from .weights import layer_norm, linear, table
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    embedding, places = bert_embedding(encoder.embeddings)
    trunk = encoder.encoder
    bias = DistanceBias(table(trunk.relative_attention_bias), trunk.relative_position_bucket)
    blocks = [_block(layer, bias) for layer in trunk.layer]
    return masked_tower(tokenizer, places, embedding, blocks, pooling, head)


def _block(layer: Any, bias: DistanceBias) -> Block:
    attention = layer.attention.attn
    return Block(
        ln_1=layer_norm(layer.attention.LayerNorm),
        attn=Attention(
            SplitQKV(linear(attention.q), linear(attention.k), linear(attention.v)),
            linear(attention.o),
            attention.num_attention_heads,
            relative=bias,
        ),
        ln_2=layer_norm(layer.output.LayerNorm),
        mlp=bert_mlp(layer),
        post_norm=True,
    )


READERS = (
    EncoderReader(
        name="mpnet",
        matches=lambda encoder: "transformers.MPNetModel" in kinds(encoder),
        build=_build,
        blocks="encoder.layer",
        block_linears=r"attention\.attn\.(q|k|v|o)|intermediate\.dense|output\.dense",
        embedding_stage=("embeddings", False),
    ),
)

"""MPNet: BERT's post-norm blocks without token types, and one table of biases by distance that all blocks share."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import Attention, Block
from ..towers.layers import SplitQKV
from ..towers.relative_positions import DistanceBias
from ..towers.spec import Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import EncoderReader, context_of
from .bert import bert_embedding, bert_mlp
from .weights import layer_norm, linear, table
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    embedding, places = bert_embedding(encoder.embeddings)
    context = context_of(tokenizer, places)
    trunk = encoder.encoder
    bias = DistanceBias(table(trunk.relative_attention_bias), trunk.relative_position_bucket)
    return TextTower(
        spec=TowerSpec(causal=False, pooling=pooling, padding="mask", context_length=context),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=embedding,
        blocks=[_block(layer, bias) for layer in trunk.layer],
        ln_final=None,
        projection=nn.Sequential(*head),
    )


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

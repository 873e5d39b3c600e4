"""ALBERT: BERT's post-norm blocks, few of which run many times, behind an embedding narrower than the states."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import MLP, Attention, Block
from ..towers.layers import SplitQKV
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, Pooled, masked_tower, pooler_of
from .bert import bert_embedding
from .weights import layer_norm, linear, stateless
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    embedding, places = bert_embedding(encoder.embeddings, widen=encoder.encoder.embedding_hidden_mapping_in)
    blocks = [_block(layer) for layer in _blocks(encoder)]  # each with hook points of its own, over shared weights
    return masked_tower(tokenizer, places, embedding, blocks, pooling, head)


def _blocks(encoder: Any) -> list[nn.Module]:
    """The source's blocks as they run: a group of them serves several layers in a row."""
    groups, n_layers = encoder.encoder.albert_layer_groups, encoder.config.num_hidden_layers
    return [layer for at in range(n_layers) for layer in groups[int(at / (n_layers / len(groups)))].albert_layers]


def _block(layer: Any) -> Block:
    attention = layer.attention
    return Block(
        ln_1=layer_norm(attention.LayerNorm),
        attn=Attention(
            SplitQKV(linear(attention.query), linear(attention.key), linear(attention.value)),
            linear(attention.dense),
            attention.num_attention_heads,
        ),
        ln_2=layer_norm(layer.full_layer_layer_norm),
        mlp=MLP(linear(layer.ffn), stateless(layer.activation), linear(layer.ffn_output)),
        post_norm=True,
    )


def _pooled(encoder: Any) -> Pooled:
    """ALBERT's pooler: the first token through a linear layer and tanh, which are no module together."""
    return "first", [linear(pooler_of(encoder)), stateless(encoder.pooler_activation)]


READERS = (
    EncoderReader(
        name="albert",
        matches=lambda encoder: "transformers.AlbertModel" in kinds(encoder),
        build=_build,
        blocks=_blocks,
        block_linears=r"attention\.(query|key|value|dense)|ffn|ffn_output",
        embedding_stage=("encoder.embedding_hidden_mapping_in", False),
        pooled=_pooled,
    ),
)

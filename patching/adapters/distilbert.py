"""DistilBERT: BERT's post-norm blocks under other names, without token types and without a pooler."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import MLP, Attention, Block
from ..towers.layers import SplitQKV
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, masked_tower
from .bert import bert_embedding
from .weights import layer_norm, linear, stateless
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    embedding, places = bert_embedding(encoder.embeddings)
    blocks = [_block(layer) for layer in encoder.transformer.layer]
    return masked_tower(tokenizer, places, embedding, blocks, pooling, head)


def _block(layer: Any) -> Block:
    attention, feed_forward = layer.attention, layer.ffn
    return Block(
        ln_1=layer_norm(layer.sa_layer_norm),
        attn=Attention(
            SplitQKV(linear(attention.q_lin), linear(attention.k_lin), linear(attention.v_lin)),
            linear(attention.out_lin),
            attention.n_heads,
        ),
        ln_2=layer_norm(layer.output_layer_norm),
        mlp=MLP(linear(feed_forward.lin1), stateless(feed_forward.activation), linear(feed_forward.lin2)),
        post_norm=True,
    )


READERS = (
    EncoderReader(
        name="distilbert",
        matches=lambda encoder: "transformers.DistilBertModel" in kinds(encoder),
        build=_build,
        blocks="transformer.layer",
        block_linears=r"attention\.(q_lin|k_lin|v_lin|out_lin)|ffn\.(lin1|lin2)",
        embedding_stage=("embeddings", False),
    ),
)

"""The encoder of M2M100 (NLLB's): pre-norm, bidirectional, sinusoidal positions, scaled token embeddings."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import MLP, Block
from ..towers.layers import TokenEmbedding
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, masked_tower
from .weights import attention, layer_norm, linear, stateless, table
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    positions, offset = encoder.embed_positions.weights, encoder.padding_idx + 1
    embedding = TokenEmbedding(
        table(encoder.embed_tokens), positions, offset=offset, scale=encoder.embed_tokens.embed_scale
    )
    blocks, ln_final = [_block(layer) for layer in encoder.layers], layer_norm(encoder.layer_norm)
    return masked_tower(tokenizer, len(positions) - offset, embedding, blocks, pooling, head, ln_final=ln_final)


def _block(layer: Any) -> Block:
    return Block(
        ln_1=layer_norm(layer.self_attn_layer_norm),
        attn=attention(layer.self_attn),
        ln_2=layer_norm(layer.final_layer_norm),
        mlp=MLP(linear(layer.fc1), stateless(layer.activation_fn), linear(layer.fc2)),
    )


READERS = (
    EncoderReader(
        name="m2m100",
        matches=lambda encoder: "transformers.M2M100Encoder" in kinds(encoder),
        build=_build,
        blocks="layers",
        block_linears=r"self_attn\.(q_proj|k_proj|v_proj|out_proj)|fc1|fc2",
        embedding_stage=("layers.0", True),
    ),
)

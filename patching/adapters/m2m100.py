"""The encoder of M2M100 (NLLB's): pre-norm, bidirectional, sinusoidal positions, scaled token embeddings."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import MLP, Block
from ..towers.layers import TokenEmbedding
from ..towers.spec import Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import EncoderReader, context_of
from .weights import attention, layer_norm, linear, stateless, table
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    positions, offset = encoder.embed_positions.weights, encoder.padding_idx + 1
    context = context_of(tokenizer, len(positions) - offset)
    return TextTower(
        spec=TowerSpec(causal=False, pooling=pooling, padding="mask", context_length=context),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=TokenEmbedding(
            table(encoder.embed_tokens), positions, offset=offset, scale=encoder.embed_tokens.embed_scale
        ),
        blocks=[_block(layer) for layer in encoder.layers],
        ln_final=layer_norm(encoder.layer_norm),
        projection=nn.Sequential(*head),
    )


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

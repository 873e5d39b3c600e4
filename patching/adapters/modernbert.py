"""ModernBERT: pre-norm, rotary positions, gated MLPs, global blocks between blocks that attend within a window."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..towers.block import MLP, Attention, Block
from ..towers.layers import FusedQKV, GatedHalves, TokenEmbedding
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, masked_tower
from .weights import layer_norm, linear, plain, rotary, stateless, table
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    embedding = TokenEmbedding(table(encoder.embeddings.tok_embeddings), None, norm=layer_norm(encoder.embeddings.norm))
    blocks, ln_final = [_block(layer, encoder) for layer in encoder.layers], layer_norm(encoder.final_norm)
    places = encoder.config.max_position_embeddings
    return masked_tower(tokenizer, places, embedding, blocks, pooling, head, ln_final=ln_final)


def _block(layer: Any, encoder: Any) -> Block:
    attention: Any = layer.attn
    qkv: Any = plain(attention.Wqkv)
    return Block(
        ln_1=stateless(layer.attn_norm) if isinstance(layer.attn_norm, nn.Identity) else layer_norm(layer.attn_norm),
        attn=Attention(
            FusedQKV(qkv.weight, qkv.bias),
            linear(attention.Wo),
            encoder.config.num_attention_heads,
            relative=rotary(
                encoder,
                layer.attention_type,
                encoder.config.sliding_window if layer.attention_type == "sliding_attention" else None,
            ),
        ),
        ln_2=layer_norm(layer.mlp_norm),
        mlp=MLP(linear(layer.mlp.Wi), GatedHalves(stateless(layer.mlp.act)), linear(layer.mlp.Wo)),
    )


READERS = (
    EncoderReader(
        name="modernbert",
        matches=lambda encoder: "transformers.ModernBertModel" in kinds(encoder),
        build=_build,
        blocks="layers",
        block_linears=r"attn\.(Wqkv|Wo)|mlp\.(Wi|Wo)",
        embedding_stage=("embeddings", False),
    ),
)

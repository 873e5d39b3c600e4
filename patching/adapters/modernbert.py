"""ModernBERT: pre-norm, rotary positions, gated MLPs, global blocks between blocks that attend within a window."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..towers.block import MLP, Attention, Block
from ..towers.layers import FusedQKV, GatedHalves, TokenEmbedding
from ..towers.relative_positions import Rotary
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, masked_tower
from .weights import layer_norm, linear, plain, stateless, table
from .wrappers import kinds

_GROWING = {"dynamic", "longrope"}  # whose frequencies depend on the longest text seen so far


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
            relative=_rotary(layer.attention_type, encoder),
        ),
        ln_2=layer_norm(layer.mlp_norm),
        mlp=MLP(linear(layer.mlp.Wi), GatedHalves(stateless(layer.mlp.act)), linear(layer.mlp.Wo)),
    )


def _rotary(kind: str, encoder: Any) -> Rotary:
    rotary = encoder.rotary_emb
    if rotary.rope_type[kind] in _GROWING:
        raise UnsupportedTowerError(
            f"ModernBERT with rotary positions of type {rotary.rope_type[kind]!r} is not supported: what a text means "
            f"would depend on the texts before it"
        )
    return Rotary(
        getattr(rotary, f"{kind}_inv_freq"),
        scaling=getattr(rotary, f"{kind}_attention_scaling"),
        window=encoder.config.sliding_window if kind == "sliding_attention" else None,
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

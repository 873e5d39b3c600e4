"""Decoders as text encoders (Qwen2, Qwen3, Mistral, Llama): pre-norm, rotary, heads that share keys and values.

Qwen3-Embedding, gte-Qwen2, e5-mistral and their like read the last token's state. Their tokenizers often pad with the
token that ends every text, so that padding cannot be told by its id: texts run in their own length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..towers.block import MLP, Attention, Block
from ..towers.layers import GroupedQKV, TokenEmbedding
from ..towers.relative_positions import NormedHeads
from ..towers.spec import Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import EncoderReader, context_of
from .weights import linear, rms_norm, rotary, stateless, table
from .wrappers import kinds

_KINDS = {f"transformers.{name}Model" for name in ("Qwen2", "Qwen3", "Mistral", "Llama")}


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    config = encoder.config
    context = context_of(tokenizer, config.max_position_embeddings)
    return TextTower(
        spec=TowerSpec(causal=_causal(encoder), pooling=pooling, padding="own", context_length=context),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=TokenEmbedding(table(encoder.embed_tokens), None),
        blocks=[_block(layer, encoder) for layer in encoder.layers],
        ln_final=rms_norm(encoder.norm, single=True),
        projection=nn.Sequential(*head),
    )


def _block(layer: Any, encoder: Any) -> Block:
    attention, mlp, config = layer.self_attn, layer.mlp, encoder.config
    positions: nn.Module = rotary(encoder, window=_window(attention, encoder))
    if hasattr(attention, "q_norm"):  # Qwen3's
        q_norm, k_norm = (rms_norm(norm, single=True) for norm in (attention.q_norm, attention.k_norm))
        positions = NormedHeads(q_norm, k_norm, positions)
    q, k, v = (linear(layer) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    group = config.num_attention_heads // config.num_key_value_heads
    return Block(
        ln_1=rms_norm(layer.input_layernorm, single=True),
        attn=Attention(
            GroupedQKV(q, k, v, attention.head_dim, group),
            linear(attention.o_proj),
            config.num_attention_heads,
            relative=positions,
        ),
        ln_2=rms_norm(layer.post_attention_layernorm, single=True),
        mlp=MLP(linear(mlp.up_proj), stateless(mlp.act_fn), linear(mlp.down_proj), gate=linear(mlp.gate_proj)),
    )


def _causal(encoder: Any) -> bool:
    """Whether tokens see those before them only; some decoders were made bidirectional (gte-Qwen2)."""
    return bool(getattr(encoder.config, "is_causal", True))


def _window(attention: Any, encoder: Any) -> int | None:
    """The largest distance that a block attends to, None for all; causal windows count the token itself too."""
    # Mistral's configuration has one for all blocks, Qwen's blocks their own, and Llama has none whatever it says
    one = "transformers.MistralModel" in kinds(encoder)
    size = encoder.config.sliding_window if one else getattr(attention, "sliding_window", None)
    return None if size is None else int(size) - _causal(encoder)


READERS = (
    EncoderReader(
        name="decoders",
        matches=lambda encoder: bool(kinds(encoder) & _KINDS),
        build=_build,
        blocks="layers",
        block_linears=r"self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj)",
        embedding_stage=("embed_tokens", False),
        mask=lambda encoder, ids: torch.ones_like(ids),  # texts come in their own length
    ),
)

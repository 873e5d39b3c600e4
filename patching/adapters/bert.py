"""BERT-like encoders (BERT, RoBERTa, XLM-R and their copies in other families): blocks, embeddings, pooled head."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..block import MLP, Attention, Block
from ..layers import SplitQKV, TokenEmbedding
from ..text_tower import TextTower
from ..tokens import adapt_tokenizer
from ..tower import TowerSpec
from .weights import layer_norm, linear, stateless

BLOCK_LINEARS = r"attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense"


def is_bert_like(encoder: Any) -> bool:
    """Whether ``encoder`` is built as BERT is: word + position + type embeddings, post-norm layers."""
    layers = getattr(getattr(encoder, "encoder", None), "layer", None)
    first = layers[0] if isinstance(layers, nn.ModuleList) and len(layers) else None
    parts = (
        "attention.self.query",
        "attention.output.LayerNorm",
        "intermediate.intermediate_act_fn",
        "output.LayerNorm",
    )
    embeddings = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
    return all(_has(first, part) for part in parts) and all(_has(encoder, f"embeddings.{e}") for e in embeddings)


def bert_tower(encoder: Any, tokenizer: Any, *, head: list[nn.Module]) -> TextTower:
    """A tower over a BERT-like encoder read at its first token, then through ``head``.

    Raises:
        UnsupportedTowerError: a decoder, or relative position embeddings.
    """
    config = encoder.config
    if getattr(config, "is_decoder", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise UnsupportedTowerError(
            f"a {type(encoder).__name__} with is_decoder or position_embedding_type="
            f"{getattr(config, 'position_embedding_type', None)!r} is not supported"
        )
    embeddings = encoder.embeddings
    positions = embeddings.position_embeddings.weight
    # RoBERTa counts positions from padding_idx + 1; its embedding says so by a padding index of its own
    padding_idx = embeddings.position_embeddings.padding_idx
    offset = 0 if padding_idx is None else padding_idx + 1
    context = min(len(positions) - offset, getattr(tokenizer, "context_length", None) or len(positions))
    return TextTower(
        spec=TowerSpec(causal=False, pooling="first", padding="mask", context_length=context),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=TokenEmbedding(
            embeddings.word_embeddings.weight,
            positions,
            types=embeddings.token_type_embeddings.weight,
            norm=layer_norm(embeddings.LayerNorm),
            offset=offset,
        ),
        blocks=[_block(layer) for layer in encoder.encoder.layer],
        ln_final=None,
        projection=nn.Sequential(*head),
    )


def pooler(encoder: Any) -> list[nn.Module]:
    """BERT's own pooler: a linear layer and an activation on the first token."""
    return [linear(encoder.pooler.dense), stateless(encoder.pooler.activation)]


def _block(layer: Any) -> Block:
    attention = layer.attention.self
    return Block(
        ln_1=layer_norm(layer.attention.output.LayerNorm),
        attn=Attention(
            SplitQKV(linear(attention.query), linear(attention.key), linear(attention.value)),
            linear(layer.attention.output.dense),
            attention.num_attention_heads,
        ),
        ln_2=layer_norm(layer.output.LayerNorm),
        mlp=MLP(
            linear(layer.intermediate.dense),
            stateless(layer.intermediate.intermediate_act_fn),
            linear(layer.output.dense),
        ),
        post_norm=True,
    )


def _has(module: Any, path: str) -> bool:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module is not None

"""BERT-like encoders (BERT, RoBERTa, XLM-R and their copies in other families): post-norm, bidirectional."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..block import MLP, Attention, Block
from ..layers import SplitQKV, TokenEmbedding
from ..text_tower import TextTower
from ..tokens import adapt_tokenizer
from ..tower import Pooling, TowerSpec
from .encoders import EncoderReader, context_of
from .weights import has, layer_norm, linear, stateless


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
    return all(has(first, part) for part in parts) and all(has(encoder, f"embeddings.{e}") for e in embeddings)


def bert_tower(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module], **readout: Any) -> TextTower:
    """A tower over a BERT-like encoder, read through ``head``; ``readout``: further fields of its TowerSpec.

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
    context = context_of(tokenizer, len(positions) - offset)
    return TextTower(
        spec=TowerSpec(causal=False, pooling=pooling, padding="mask", context_length=context, **readout),
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


READER = EncoderReader(
    name="bert",
    matches=is_bert_like,
    build=bert_tower,
    blocks="encoder.layer",
    block_linears=r"attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense",
    embedding_stage=("embeddings", False),
)

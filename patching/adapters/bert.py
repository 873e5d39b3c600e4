"""BERT-like encoders (BERT, RoBERTa, XLM-R and their copies in BLIP, AltCLIP and others): post-norm, bidirectional."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.block import MLP, Attention, Block
from ..towers.layers import SplitQKV, TokenEmbedding
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import Adapter, EncoderReader, masked_tower
from .weights import has, layer_norm, linear, stateless, table
from .wrappers import kinds


def is_bert_like(encoder: Any, layers: str = "layer") -> bool:
    """Whether ``encoder`` is built as BERT is: word and position embeddings, post-norm ``encoder.{layers}``."""
    blocks = getattr(getattr(encoder, "encoder", None), layers, None)
    first = blocks[0] if isinstance(blocks, nn.ModuleList) and len(blocks) else None
    parts = (
        "attention.self.query",
        "attention.output.LayerNorm",
        "intermediate.intermediate_act_fn",
        "output.LayerNorm",
    )
    embeddings = ("word_embeddings", "position_embeddings", "LayerNorm")
    return all(has(first, part) for part in parts) and all(has(encoder, f"embeddings.{e}") for e in embeddings)


def bert_tower(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module], **readout: Any) -> TextTower:
    """A tower over a BERT-like encoder, read through ``head``; ``readout``: further fields of its TowerSpec.

    Raises:
        UnsupportedTowerError: a decoder, relative position embeddings, or sparse attention.
    """
    config = encoder.config
    if getattr(encoder, "attention_type", "original_full") != "original_full":  # BigBird's
        raise UnsupportedTowerError(
            f"a {type(encoder).__name__} with attention_type={encoder.attention_type!r} is not supported: it attends "
            f"sparsely in long texts, until it has read a short one; set_attention_type('original_full') makes it one "
            f"model for all texts"
        )
    # BLIP's configuration says decoder for its captioning half; its text encoder is one only when it is called as one
    decoder = getattr(config, "is_decoder", False) and "transformers.BlipTextModel" not in kinds(encoder)
    if decoder or getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise UnsupportedTowerError(
            f"a {type(encoder).__name__} with is_decoder or position_embedding_type="
            f"{getattr(config, 'position_embedding_type', None)!r} is not supported"
        )
    embedding, places = bert_embedding(encoder.embeddings, getattr(encoder, "embeddings_project", None))
    layers = encoder.encoder.layer if hasattr(encoder.encoder, "layer") else encoder.encoder.layers
    blocks = [_block(layer) for layer in layers]
    return masked_tower(tokenizer, places, embedding, blocks, pooling, head, **readout)


def bert_embedding(embeddings: Any, widen: nn.Module | None = None) -> tuple[TokenEmbedding, int]:
    """BERT's embeddings (token types only where there are any), and how many tokens they have positions for.

    widen: a linear layer behind them, to the width of the states.
    """
    positions = embeddings.position_embeddings
    # RoBERTa counts positions from padding_idx + 1; its embedding says so by a padding index of its own
    offset = 0 if positions.padding_idx is None else positions.padding_idx + 1
    types = getattr(embeddings, "token_type_embeddings", None)
    embedding = TokenEmbedding(
        table(embeddings.word_embeddings),
        table(positions),
        types=None if types is None else table(types),
        norm=layer_norm(embeddings.LayerNorm),
        widen=None if widen is None else linear(widen),
        offset=offset,
    )
    return embedding, len(table(positions)) - offset


def bert_mlp(layer: Any) -> MLP:
    """The MLP of a block, as BERT names its parts."""
    up, down = layer.intermediate, layer.output
    return MLP(linear(up.dense), stateless(up.intermediate_act_fn), linear(down.dense))


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
        mlp=bert_mlp(layer),
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
# AltCLIP's copy of XLM-R
_ALT = replace(READER, name="altclip", matches=lambda encoder: is_bert_like(encoder, "layers"), blocks="encoder.layers")
# whose embeddings may be narrower than the states
_ELECTRA = replace(
    READER,
    name="electra",
    matches=lambda encoder: "transformers.ElectraModel" in kinds(encoder),
    embedding_stage=("encoder.layer.0", True),
)
READERS = (_ELECTRA, READER, _ALT)


def bert_adapter(
    name: str,
    classes: set[str],
    path: str,
    build_tower: Callable[[Any, Any], TextTower],
    **reading: Any,
) -> Adapter:
    """The adapter of source models that keep a BERT at ``path``; ``reading``: the remaining fields of the adapter."""
    stage, read_input = READER.embedding_stage
    return Adapter(
        name=name,
        matches=lambda source: bool(kinds(source) & classes),
        build_tower=build_tower,
        blocks=lambda source: READER.blocks_of(source.get_submodule(path)),
        block_linears=lambda source: READER.block_linears,
        embedding_stage=lambda source: (source.get_submodule(f"{path}.{stage}"), read_input),
        **reading,
    )


def attended(encoder: Any, ids: Tensor) -> Tensor:
    """The attention mask [text, pos] of padded ids: 1 where a token stands, 0 at padding."""
    return (ids != encoder.config.pad_token_id).long()

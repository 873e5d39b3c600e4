"""The text transformers that transformers builds as CLIP's: pre-norm, one table of positions, read at one row.

CLIP, CLIPSeg, GroupViT, MetaCLIP 2, OWL-ViT, OWLv2 and X-CLIP are causal and differ in how they find the text's end.
SigLIP and SigLIP 2 are bidirectional, attend to padding and read the last place; TIPSv2 averages the tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.block import MLP, Block
from ..towers.layers import TokenEmbedding
from ..towers.spec import Padding, Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import EncoderReader, Pooled, padding_mask
from .weights import attention, head, layer_norm, linear, stateless, table
from .wrappers import kinds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Reading:
    """How one class reads a text. scale and positions: of its embeddings."""

    pooling: Callable[[Any], Pooling]
    causal: bool = True
    padding: Padding = "trim"
    scale: Callable[[Any], float] = lambda embeddings: 1.0
    positions: Callable[[Any], Tensor] = lambda embeddings: table(embeddings.position_embedding)


def _end_of_text(encoder: Any) -> Pooling:
    # configs written before transformers' #24773 carry eos_token_id 2 and mean "the largest id"
    return "argmax" if encoder.eos_token_id == 2 else "eos"


def _sinusoids(embeddings: Any) -> Tensor:
    return embeddings.position_embedding.weights.to(table(embeddings.token_embedding).dtype)


_CLIP = _Reading(_end_of_text)
_LARGEST_ID = _Reading(lambda encoder: "argmax")
_SIGLIP = _Reading(lambda encoder: "last", causal=False, padding="attend")
_READINGS = {
    "transformers.CLIPTextModel": _CLIP,
    "transformers.CLIPSegTextModel": _CLIP,
    "transformers.GroupViTTextTransformer": _CLIP,
    "transformers.MetaClip2TextModel": _Reading(lambda encoder: "eos"),  # whose end token really is 2
    "transformers.OwlViTTextTransformer": _LARGEST_ID,
    "transformers.Owlv2TextTransformer": _LARGEST_ID,
    "transformers.XCLIPTextModel": _LARGEST_ID,
    "transformers.SiglipTextModel": _SIGLIP,
    "transformers.Siglip2TextModel": _SIGLIP,
    "transformers.Tipsv2TextModel": _Reading(
        lambda encoder: "mean",
        causal=False,
        padding="mask",
        scale=lambda embeddings: embeddings.embed_scale,
        positions=_sinusoids,
    ),
}


def _reading(encoder: Any) -> _Reading:
    return next(_READINGS[kind] for kind in kinds(encoder) if kind in _READINGS)


def _pooled(encoder: Any) -> Pooled:
    return _reading(encoder).pooling(encoder), head(encoder.head) if hasattr(encoder, "head") else []


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    reading, embeddings = _reading(encoder), encoder.embeddings
    if pooling != reading.pooling(encoder):
        raise UnsupportedTowerError(
            f"a {type(encoder).__name__} is read at {reading.pooling(encoder)!r}, not at {pooling!r}"
        )
    context = encoder.config.max_position_embeddings
    adapted = adapt_tokenizer(tokenizer, context)
    if reading.padding == "attend" and getattr(adapted, "gives_mask", False):
        logger.warning(
            "the tokenizer gives an attention mask, which hides padding where it is passed on; a %s was trained to "
            "attend to padding, and is traced so: its embeddings are those of input_ids alone",
            type(encoder).__name__,
        )
    return TextTower(
        spec=TowerSpec(
            causal=reading.causal,
            pooling=pooling,
            padding=reading.padding,
            context_length=context,
            eos_id=encoder.config.eos_token_id if pooling == "eos" else None,
        ),
        tokenizer=adapted,
        embedding=TokenEmbedding(
            table(embeddings.token_embedding), reading.positions(embeddings), scale=reading.scale(embeddings)
        ),
        blocks=[clip_block(layer) for layer in encoder.encoder.layers],
        ln_final=layer_norm(encoder.final_layer_norm),
        projection=nn.Sequential(*head),
    )


def clip_block(layer: Any) -> Block:
    """A block as these classes build it, in their image encoders too."""
    return Block(
        ln_1=layer_norm(layer.layer_norm1),
        attn=attention(layer.self_attn),
        ln_2=layer_norm(layer.layer_norm2),
        mlp=MLP(linear(layer.mlp.fc1), stateless(layer.mlp.activation_fn), linear(layer.mlp.fc2)),
    )


READERS = (
    EncoderReader(
        name="clip_text",
        matches=lambda encoder: bool(kinds(encoder) & _READINGS.keys()),
        build=_build,
        blocks="encoder.layers",
        block_linears=r"self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc1|mlp\.fc2",
        embedding_stage=("embeddings", False),
        pooled=_pooled,
        # a causal encoder is read before its padding, and SigLIP's attends to it
        mask=lambda encoder, ids: padding_mask(encoder, ids) if _reading(encoder).padding == "mask" else None,
    ),
)

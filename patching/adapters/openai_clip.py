"""OpenAI's own ``clip`` class, and CheXzero's copy of it: sequence-first blocks with their own mask, QuickGELU."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedTowerError
from ..towers.layers import Project, TokenEmbedding
from ..towers.spec import TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import Adapter
from .open_clip import NATIVE_LINEARS, clip_logit_scale, open_clip_block
from .weights import has, layer_norm, table
from .wrappers import kinds

_CLASSES = {"clip.CLIP", "model.CLIP"}  # CheXzero's repository keeps its copy in a top-level model.py


def _matches(source: Any) -> bool:
    return bool(kinds(source) & _CLASSES) and has(source, "transformer.resblocks") and has(source, "text_projection")


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    # on a GPU: weights of linear layers in half precision, embeddings and norms in single
    precision, positions = source.text_projection.dtype, source.positional_embedding
    inside = source.transformer.resblocks[0].mlp.c_fc.weight.dtype
    if inside != precision:
        raise UnsupportedTowerError(
            f"this CLIP keeps its text projection in {precision} and its blocks in {inside}, which it cannot run: "
            f"bring it to one precision, model.float()"
        )
    return TextTower(
        spec=TowerSpec(causal=True, pooling="argmax", padding="trim", context_length=source.context_length),
        tokenizer=adapt_tokenizer(tokenizer, source.context_length),
        embedding=TokenEmbedding(
            table(source.token_embedding), positions, cast=None if precision == positions.dtype else precision
        ),
        blocks=[open_clip_block(block) for block in source.transformer.resblocks],
        ln_final=layer_norm(source.ln_final),
        projection=Project(source.text_projection),
    )


ADAPTER = Adapter(
    name="openai_clip",
    matches=_matches,
    build_tower=_build_tower,
    blocks=lambda source: list(source.transformer.resblocks),
    block_linears=lambda source: NATIVE_LINEARS,
    embedding_stage=lambda source: (source.transformer, True),
    encode_text=lambda source, ids: source.encode_text(ids),
    encode_image=lambda source, pixels: source.encode_image(pixels),
    logit_scale=clip_logit_scale,
    sequence_first=True,
)

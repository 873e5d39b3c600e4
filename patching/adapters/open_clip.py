"""open_clip's native text transformers: ``CLIP`` (text tower at the root) and ``CustomTextCLIP`` (under ``.text``)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..block import MLP, Attention, Block
from ..layers import FusedQKV, Project, Scale, TokenEmbedding
from ..text_tower import TextTower
from ..tokens import adapt_tokenizer
from ..tower import TowerSpec
from .registry import Adapter
from .weights import kinds, layer_norm, linear, plain, stateless


def _text(source: Any) -> Any:
    """The module that holds the text transformer: the model itself, or its ``.text``."""
    return source.text if "open_clip.CustomTextCLIP" in kinds(source) else source


def _matches(source: Any) -> bool:
    if "open_clip.CustomTextCLIP" in kinds(source):
        return "open_clip.HFTextEncoder" not in kinds(source.text)
    return "open_clip.CLIP" in kinds(source)


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = _text(source)
    _refuse_unsupported(text)
    pooling = getattr(text, "pool_type", None) or text.text_pool_type
    causal = text.attn_mask is not None
    return TextTower(
        spec=TowerSpec(
            causal=causal,
            pooling=pooling,
            # what follows the pooled token cannot reach it in a causal tower, and does everywhere else
            padding="trim" if causal and pooling in ("argmax", "eos") else "attend",
            context_length=text.context_length,
            eos_id=getattr(text, "eos_id", None) if hasattr(text, "pool_type") else text.text_eos_id,
        ),
        tokenizer=adapt_tokenizer(tokenizer, text.context_length),
        embedding=TokenEmbedding(text.token_embedding.weight, text.positional_embedding),
        blocks=[_block(block) for block in text.transformer.resblocks],
        ln_final=layer_norm(text.ln_final),
        projection=_projection(text.text_projection),
    )


def _refuse_unsupported(text: Any) -> None:
    found = kinds(text)
    if not found & {"open_clip.CLIP", "open_clip.TextTransformer"}:
        raise UnsupportedTowerError(
            f"open_clip's text tower is a {type(text).__name__}; this version reads open_clip's own text transformer"
        )
    if getattr(text, "cls_emb", None) is not None:
        raise UnsupportedTowerError("CoCa text towers (a CLS token appended at the end) are not supported yet")
    if getattr(text, "use_pad_mask", False):
        raise UnsupportedTowerError("open_clip text towers with a padding mask (use_pad_mask) are not supported yet")
    pooling = getattr(text, "pool_type", None) or text.text_pool_type
    if pooling not in ("argmax", "eos", "last", "first"):
        raise UnsupportedTowerError(f"open_clip's text pooling {pooling!r} is not one of argmax, eos, last, first")
    block = text.transformer.resblocks[0]
    if type(block).__name__ != "ResidualAttentionBlock":
        raise UnsupportedTowerError(f"open_clip text blocks of type {type(block).__name__} are not supported yet")


def _block(block: Any) -> Block:
    attention: Any = plain(block.attn)
    return Block(
        ln_1=layer_norm(block.ln_1),
        attn=Attention(
            FusedQKV(attention.in_proj_weight, attention.in_proj_bias), linear(attention.out_proj), attention.num_heads
        ),
        ln_2=layer_norm(block.ln_2),
        mlp=MLP(linear(block.mlp.c_fc), stateless(block.mlp.gelu), linear(block.mlp.c_proj)),
        scale_attn=_scale(block.ls_1),
        scale_mlp=_scale(block.ls_2),
    )


def _scale(layer: Any) -> Scale | None:
    return Scale(layer.gamma) if hasattr(layer, "gamma") else None


def _projection(projection: Any) -> nn.Module | None:
    if projection is None:
        return None
    return Project(projection) if isinstance(projection, nn.Parameter) else linear(projection)


def clip_logit_scale(source: Any) -> float:
    """exp(logit_scale) of an open_clip model."""
    return float(source.logit_scale.detach().exp().mean())


ADAPTER = Adapter(
    name="open_clip",
    matches=_matches,
    build_tower=_build_tower,
    blocks=lambda source: list(_text(source).transformer.resblocks),
    block_linears=r"attn|mlp\.c_fc|mlp\.c_proj",
    block_prefix=lambda source: "transformer.resblocks" if _text(source) is source else "text.transformer.resblocks",
    embedding_stage=lambda source: (_text(source).transformer, True),
    encode_text=lambda source, ids: source.encode_text(ids),
    encode_image=lambda source, pixels: source.encode_image(pixels),
    logit_scale=clip_logit_scale,
)

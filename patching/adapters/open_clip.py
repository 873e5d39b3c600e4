"""open_clip's native text transformers: ``CLIP`` (at the root), ``CustomTextCLIP`` and ``CoCa`` (under ``.text``)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.block import MLP, Attention, Block, OpaqueBlock
from ..towers.layers import FusedQKV, Project, Scale, TokenEmbedding
from ..towers.spec import Padding, Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import Adapter, check_padding
from .vision_open_clip import build_image_tower
from .weights import layer_norm, linear, plain, stateless, table
from .wrappers import kinds, unwrapped

NATIVE_LINEARS = r"attn|mlp\.c_fc|mlp\.c_proj"
OWN_ATTENTION_LINEARS = NATIVE_LINEARS.replace("attn", r"attn\.out_proj")
# open_clip's own class, and the one of the shipped miniature, which has the same parts
_ROOT_TEXT = {"open_clip.CLIP", "tracescribe.MiniatureCLIP"}
OWN_TEXT = {"open_clip.CustomTextCLIP", "open_clip.CoCa"}  # classes that keep the text tower under ``.text``


def _text(source: Any) -> Any:
    """The module that holds the text transformer: the model itself, or its ``.text``."""
    return source.text if kinds(source) & OWN_TEXT else source


def _matches(source: Any) -> bool:
    if kinds(source) & OWN_TEXT:
        return not kinds(source.text) & {"open_clip.HFTextEncoder", "open_clip.ModernTextTransformer"}
    return bool(kinds(source) & _ROOT_TEXT)


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = _text(source)
    _refuse_unsupported(text)
    return native_tower(text, tokenizer, text.context_length)


def native_tower(text: Any, tokenizer: Any, context_length: int) -> TextTower:
    """A tower over a text transformer with open_clip's attributes, whose texts hold ``context_length`` ids."""
    appended = _appended(text)
    pooling: Pooling = "last" if appended else _pool_type(text)
    causal = text.attn_mask is not None
    adapted = adapt_tokenizer(tokenizer, context_length)
    if appended or getattr(text, "use_pad_mask", False):
        check_padding(text.pad_id, adapted)
    return TextTower(
        spec=TowerSpec(
            causal=causal,
            pooling=pooling,
            padding=_padding(text, causal, pooling),
            context_length=context_length,
            eos_id=getattr(text, "eos_id", None) if hasattr(text, "pool_type") else getattr(text, "text_eos_id", None),
            appended=appended,
            pad_in_text=True,
        ),
        tokenizer=adapted,
        embedding=TokenEmbedding(
            table(text.token_embedding),
            text.positional_embedding,
            appended=getattr(text, "cls_emb", None),
            cast=_cast(text),
        ),
        blocks=[open_clip_block(block) for block in text.transformer.resblocks],
        ln_final=layer_norm(text.ln_final),
        projection=_projection(text.text_projection),
    )


def _cast(text: Any) -> torch.dtype | None:
    """The precision of the states, where it is not that of the positions: that of the blocks' weights."""
    if not hasattr(text.transformer, "get_cast_dtype"):
        return None
    dtype: torch.dtype = text.transformer.get_cast_dtype()
    return None if dtype == text.positional_embedding.dtype else dtype


def _pool_type(text: Any) -> Any:
    return getattr(text, "pool_type", None) or text.text_pool_type


def _appended(text: Any) -> Literal["legacy", "correct"] | None:
    """CoCa's token behind the text, and whether its mask is the shifted one of the weights that exist."""
    if getattr(text, "cls_emb", None) is None:
        return None
    return "correct" if getattr(text, "correct_cls_mask", False) else "legacy"


def _padding(text: Any, causal: bool, pooling: str) -> Padding:
    if getattr(text, "use_pad_mask", False):
        return "mask"
    # what follows the pooled token cannot reach it in a causal tower, and does everywhere else
    return "trim" if causal and (pooling in ("argmax", "eos") or _appended(text)) else "attend"


def _refuse_unsupported(text: Any) -> None:
    found = kinds(text)
    if not found & {*_ROOT_TEXT, "open_clip.TextTransformer"}:
        raise UnsupportedTowerError(
            f"open_clip's text tower is a {type(text).__name__}; this version reads open_clip's own text transformer"
        )
    if _appended(text) is None and _pool_type(text) not in ("argmax", "eos", "last", "first"):
        raise UnsupportedTowerError(
            f"open_clip's text pooling {_pool_type(text)!r} is not one of argmax, eos, last, first"
        )


def open_clip_block(block: Any) -> Block | OpaqueBlock:
    """A block as OpenAI and open_clip build it, in text and image transformers alike, with or without LayerScale."""
    if type(unwrapped(block)).__name__ != "ResidualAttentionBlock":  # query/key norms, scaled heads: run as a whole
        return OpaqueBlock(block, _run_whole)
    attention: Any = plain(block.attn)
    return Block(
        ln_1=layer_norm(block.ln_1),
        attn=Attention(
            FusedQKV(attention.in_proj_weight, attention.in_proj_bias), linear(attention.out_proj), attention.num_heads
        ),
        ln_2=layer_norm(block.ln_2),
        mlp=MLP(linear(block.mlp.c_fc), stateless(block.mlp.gelu), linear(block.mlp.c_proj)),
        scale_attn=_scale(getattr(block, "ls_1", None)),
        scale_mlp=_scale(getattr(block, "ls_2", None)),
    )


def _linears(source: Any) -> str:
    """peft wraps torch's MultiheadAttention as a whole; open_clip's own attention only has its output layer to wrap."""
    has_own_attention = type(unwrapped(_text(source).transformer.resblocks[0])).__name__ != "ResidualAttentionBlock"
    return OWN_ATTENTION_LINEARS if has_own_attention else NATIVE_LINEARS


def _run_whole(block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """A block by its own forward, which takes an additive mask [pos, pos] or [batch * head, pos, pos]."""
    if mask is None:
        return block(x)
    additive = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, float("-inf"))
    if additive.ndim > 2:
        n, length = x.shape[:2]
        heads = block.attn.num_heads
        additive = additive.expand(n, heads, length, length).reshape(n * heads, length, length)
    return block(x, attn_mask=additive)


def _scale(layer: Any) -> Scale | None:
    return Scale(layer.gamma) if hasattr(layer, "gamma") else None


def _projection(projection: Any) -> nn.Module | None:
    # a tensor that is no parameter: a parametrized one
    if projection is None:
        return None
    return Project(projection) if isinstance(projection, Tensor) else linear(projection)


def encode_text(source: Any, ids: Tensor) -> Tensor:
    """The source's own embeddings, with or without ``output_tokens``, by which it gives the tokens' states too."""
    found: Tensor | tuple[Tensor, ...] = source.encode_text(ids)
    return found if isinstance(found, Tensor) else found[0]


def clip_logit_scale(source: Any) -> float:
    """exp(logit_scale) of an open_clip model."""
    return float(source.logit_scale.detach().exp().mean())


ADAPTER = Adapter(
    name="open_clip",
    matches=_matches,
    build_tower=_build_tower,
    blocks=lambda source: list(_text(source).transformer.resblocks),
    block_linears=_linears,
    embedding_stage=lambda source: (_text(source).transformer, True),
    encode_text=encode_text,
    encode_image=lambda source, pixels: source.encode_image(pixels),
    logit_scale=clip_logit_scale,
    build_image_tower=build_image_tower,
)

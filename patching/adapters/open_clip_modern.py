"""open_clip 4's ``ModernTextTransformer`` (``moderntext-*``): rotary positions, gates, texts of any length."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.block import MLP, Attention, Block
from ..towers.layers import FusedQKV, GatedHalves, Scale, TokenEmbedding, hold
from ..towers.relative_positions import NormedHeads, Rotary
from ..towers.spec import Padding, Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import Adapter, check_padding
from .open_clip import OWN_TEXT, clip_logit_scale, encode_text
from .vision_open_clip import build_image_tower
from .weights import layer_norm, linear, plain, rms_norm, stateless, table
from .wrappers import kinds

_POOLING: dict[str, Pooling] = {"eos": "eos", "mean": "mean", "map": "head"}


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text
    _refuse_unsupported(text)
    causal, pooling = text.cfg.attention_mode == "causal", _POOLING[text.pool.pool_type]
    padding: Padding = "trim" if causal and pooling == "eos" else "mask"
    adapted = adapt_tokenizer(tokenizer, text.context_length)
    if padding == "mask":
        check_padding(text.pad_id, adapted)
    tokens, precision = table(text.token_embedding), text.get_cast_dtype()
    return TextTower(
        spec=TowerSpec(
            causal=causal,
            pooling=pooling,
            padding=padding,
            context_length=text.context_length,
            eos_id=text.eos_id if pooling == "eos" else None,
            pad_in_text=True,
        ),
        tokenizer=adapted,
        embedding=TokenEmbedding(
            tokens, None, norm=_norm(text.norm_pre), cast=None if precision == tokens.dtype else precision
        ),
        blocks=[_block(block, text.rope) for block in text.blocks],
        ln_final=_norm(text.ln_final),
        projection=None if text.text_projection is None else linear(text.text_projection),
        head=QueryPool(text.pool) if pooling == "head" else None,
    )


def _refuse_unsupported(text: Any) -> None:
    unread = [
        (text.reg_tokens is not None, "register tokens (reg_tokens)"),
        (any(block.attn.value_residual for block in text.blocks), "value residuals (value_residual)"),
        (text.pool.pool_type not in _POOLING, f"pooling {text.pool.pool_type!r}"),
        # with it, padding would be attended to, and how much of it there is depends on the batch
        (text.pad_id is None and text.cfg.attention_mode != "causal", "bidirectional attention without pad_id"),
        (text.pad_id is None and text.pool.pool_type != "eos", "pooling over all tokens without pad_id"),
    ]
    found = [name for present, name in unread if present]
    if found:
        raise UnsupportedTowerError(
            f"open_clip's modern text tower with {' and '.join(found)} is not supported; read here are towers with "
            f"rotary or no positions, gated attention, norms of queries and keys, SwiGLU, GELU or squared ReLU, and "
            f"pooling by eos, mean or map"
        )


def _block(block: Any, rope: Any) -> Block:
    attention: Any = plain(block.attn)
    qkv: Any = plain(attention.qkv)
    positions = None if rope is None else Rotary(rope.inv_freq, adjacent=True)
    q_norm, k_norm = _norm(attention.q_norm), _norm(attention.k_norm)
    return Block(
        ln_1=_norm(block.norm1) or nn.Identity(),
        attn=Attention(
            FusedQKV(qkv.weight, qkv.bias),
            linear(attention.proj),
            attention.heads,
            relative=positions if q_norm is None or k_norm is None else NormedHeads(q_norm, k_norm, positions),
            gate=None if attention.gate is None else linear(attention.gate),
        ),
        ln_2=_norm(block.norm2) or nn.Identity(),
        mlp=_mlp(block.mlp),
        scale_attn=_behind(block.norm1_post, block.ls1),
        scale_mlp=_behind(block.norm2_post, block.ls2),
    )


def _norm(layer: Any) -> nn.Module | None:
    """None for no norm."""
    source = plain(layer)
    if isinstance(source, nn.Identity):
        return None
    return layer_norm(layer) if isinstance(source, nn.LayerNorm) else rms_norm(layer, cast=True)


def _mlp(mlp: Any) -> MLP:
    if hasattr(mlp, "w12"):
        return MLP(linear(mlp.w12), GatedHalves(nn.SiLU(), gate_last=True), linear(mlp.w3))
    return MLP(linear(mlp.c_fc), stateless(mlp.act), linear(mlp.c_proj))


def _behind(norm: Any, scale: Any) -> nn.Module | None:
    """What acts on a sub-layer's output before it is added: a norm ("sandwich") and LayerScale."""
    parts = [_norm(norm), Scale(scale.gamma) if hasattr(scale, "gamma") else None]
    present = [part for part in parts if part is not None]
    return nn.Sequential(*present) if present else None


class QueryPool(nn.Module):
    """A learned query attends to all tokens that are not padding ("map": multi-head attention pooling)."""

    query: Tensor

    def __init__(self, pool: Any) -> None:
        super().__init__()
        hold(self, "query", pool.query)
        self.q, self.kv, self.heads = linear(pool.q), linear(pool.kv), pool.heads
        self.q_norm, self.k_norm = (_norm(norm) or nn.Identity() for norm in (pool.q_norm, pool.k_norm))

    def forward(
        self, x: Float[Tensor, "batch pos d"], counted: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch d"]:
        """counted: True where a token is no padding; None for all."""
        q = self.q(self.query.to(x.dtype).expand(len(x), -1, -1))
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, head, 1 or pos, d_head)
            for t in (q, *self.kv(x).chunk(2, dim=-1))
        )
        mask = None if counted is None else counted[:, None, None]
        pooled = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=mask)
        return pooled.transpose(1, 2).reshape(len(x), -1)


ADAPTER = Adapter(
    name="open_clip_modern",
    matches=lambda source: bool(kinds(source) & OWN_TEXT and kinds(source.text) & {"open_clip.ModernTextTransformer"}),
    build_tower=_build_tower,
    blocks=lambda source: list(source.text.blocks),
    block_linears=lambda source: r"attn\.(qkv|proj|gate)|mlp\.(w12|w3|c_fc|c_proj)",
    embedding_stage=lambda source: (source.text.blocks[0], True),
    encode_text=encode_text,
    encode_image=lambda source, pixels: source.encode_image(pixels),
    logit_scale=clip_logit_scale,
    build_image_tower=build_image_tower,
)

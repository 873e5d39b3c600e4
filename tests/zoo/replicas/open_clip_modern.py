"""The modern text tower of open_clip 4 (``text_cfg.text_arch = "modern"``), which no release on PyPI has yet.

The same names of modules and options. Texts are padded on the right; padding is never seen by a token.
"""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODULE = "open_clip.transformer"
DEFAULTS = {
    "attention_mode": "causal",
    "pool_type": "eos",
    "pos_embed": "rope",
    "mlp_type": "swiglu",
    "norm_type": "rmsnorm",
    "norm_placement": "pre",
    "pre_norm": False,
    "qk_norm": False,
    "attn_gated": False,
    "bias": False,
    "ls_init_value": None,
    "value_residual": False,
    "reg_tokens": 0,
    "pad_id": 0,
    "eos_id": None,
    "proj_type": "linear",
    "output_tokens": False,
}


class ModernRMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide / (wide.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return scaled.to(x.dtype) * self.weight.to(x.dtype)


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(dim, 2 * hidden, bias), nn.Linear(hidden, dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.w12(x).tensor_split(2, dim=-1)
        return self.w3(F.silu(gate) * values)


class ReLUSquared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) ** 2


class LayerScale(nn.Module):
    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class RotaryEmbedding1D(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** -(torch.arange(0, dim, 2) / dim), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        """Channels 2i and 2i + 1 as one complex number, turned by its position times its frequency."""
        angles = torch.arange(x.shape[-2])[:, None] * self.inv_freq
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)


class ModernTextAttention(nn.Module):
    def __init__(self, cfg: Any, norm: Any, number: int) -> None:
        super().__init__()
        self.heads = cfg.heads
        self.qkv, self.proj = nn.Linear(cfg.width, 3 * cfg.width, cfg.bias), nn.Linear(cfg.width, cfg.width, cfg.bias)
        self.q_norm, self.k_norm = (norm(cfg.width // cfg.heads) if cfg.qk_norm else nn.Identity() for _ in range(2))
        self.gate = nn.Linear(cfg.width, cfg.width, cfg.bias) if cfg.attn_gated else None
        self.value_residual = cfg.value_residual
        self.vr_lambda = nn.Parameter(torch.full((1,), 0.5)) if cfg.value_residual and number else None

    def forward(self, x: Tensor, rope: RotaryEmbedding1D | None, mask: Tensor, first: Tensor | None) -> Any:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).tensor_split(3, dim=-1))
        if self.value_residual and first is not None:
            v = first + self.vr_lambda * (v - first)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope.turned(q), rope.turned(k)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        if self.gate is not None:
            out = out * torch.sigmoid(self.gate(x))
        return self.proj(out), v if first is None else first


class ModernTextBlock(nn.Module):
    def __init__(self, cfg: Any, norm: Any, number: int) -> None:
        super().__init__()
        after = norm if cfg.norm_placement == "sandwich" else nn.Identity
        scale = nn.Identity if cfg.ls_init_value is None else lambda dim: LayerScale(dim, cfg.ls_init_value)
        self.norm1, self.norm1_post, self.ls1 = norm(cfg.width), after(cfg.width), scale(cfg.width)
        self.norm2, self.norm2_post, self.ls2 = norm(cfg.width), after(cfg.width), scale(cfg.width)
        self.attn = ModernTextAttention(cfg, norm, number)
        hidden = int(cfg.width * 2.6666667)
        if cfg.mlp_type == "swiglu":
            self.mlp: nn.Module = SwiGLU(cfg.width, hidden, cfg.bias)
        else:
            layers = [("c_fc", nn.Linear(cfg.width, hidden, cfg.bias))]
            layers += [("act", nn.GELU() if cfg.mlp_type == "mlp" else ReLUSquared())]  # type: ignore[list-item]
            self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(hidden, cfg.width, cfg.bias))]))

    def forward(self, x: Tensor, rope: RotaryEmbedding1D | None, mask: Tensor, first: Tensor | None) -> Any:
        added, first = self.attn(self.norm1(x), rope, mask, first)
        x = x + self.ls1(self.norm1_post(added))
        return x + self.ls2(self.norm2_post(self.mlp(self.norm2(x)))), first


class ModernTextPool(nn.Module):
    def __init__(self, cfg: Any, norm: Any) -> None:
        super().__init__()
        self.pool_type, self.heads = "eos" if cfg.pool_type == "argmax" else cfg.pool_type, cfg.heads
        self.query = nn.Parameter(torch.randn(1, 1, cfg.width)) if cfg.pool_type == "map" else None
        if self.query is not None:
            self.q, self.kv = nn.Linear(cfg.width, cfg.width, cfg.bias), nn.Linear(cfg.width, 2 * cfg.width, cfg.bias)
            self.q_norm, self.k_norm = (
                norm(cfg.width // cfg.heads) if cfg.qk_norm else nn.Identity() for _ in range(2)
            )

    def forward(self, x: Tensor, text: Tensor, valid: Tensor, eos_id: int | None) -> Tensor:
        if self.pool_type == "mean":
            return torch.stack([row[kept].mean(dim=0) for row, kept in zip(x, valid, strict=True)])
        if self.pool_type == "eos":
            return torch.stack([row[ids.tolist().index(eos_id)] for row, ids in zip(x, text, strict=True)])
        q = self.q(self.query.to(x.dtype)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.kv(x).tensor_split(2, dim=-1))
        scores = self.q_norm(q) @ self.k_norm(k).mT / k.shape[-1] ** 0.5
        return (scores.masked_fill(~valid[:, None, None], -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(1)


class ModernTextTransformer(nn.Module):
    def __init__(self, cfg: Any, output_dim: int) -> None:
        super().__init__()
        self.cfg = cfg = SimpleNamespace(**DEFAULTS | cfg)
        self.context_length, self.pad_id, self.eos_id = cfg.context_length, cfg.pad_id, cfg.eos_id

        def norm(dim: int) -> nn.Module:
            return ModernRMSNorm(dim, 1e-6) if cfg.norm_type == "rmsnorm" else nn.LayerNorm(dim)

        self.token_embedding = nn.Embedding(cfg.vocab_size, cfg.width)
        self.reg_tokens = nn.Parameter(torch.randn(1, cfg.reg_tokens, cfg.width)) if cfg.reg_tokens else None
        self.rope = RotaryEmbedding1D(cfg.width // cfg.heads) if cfg.pos_embed == "rope" else None
        self.norm_pre = norm(cfg.width) if cfg.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(ModernTextBlock(cfg, norm, number) for number in range(cfg.layers))
        self.ln_final, self.pool = norm(cfg.width), ModernTextPool(cfg, norm)
        self.text_projection = None if cfg.proj_type == "none" else nn.Linear(cfg.width, output_dim, bias=False)

    def get_cast_dtype(self) -> torch.dtype:
        return self.blocks[0].attn.qkv.weight.dtype

    def forward(self, text: Tensor) -> Any:
        x = self.token_embedding(text).to(self.get_cast_dtype())
        valid = torch.ones_like(text, dtype=torch.bool) if self.pad_id is None else text != self.pad_id
        if self.reg_tokens is not None:
            x = torch.cat([self.reg_tokens.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        n, registers = x.shape[1], x.shape[1] - text.shape[1]
        keys = F.pad(valid, (registers, 0), value=True)
        mask = torch.ones(n, n, dtype=torch.bool).tril() if self.cfg.attention_mode == "causal" else keys[:, None, None]
        x, first = self.norm_pre(x), None
        for block in self.blocks:
            x, first = block(x, self.rope, mask, first)
        tokens = self.ln_final(x)[:, registers:]
        pooled = self.pool(tokens, text, valid, self.eos_id)
        pooled = pooled if self.text_projection is None else self.text_projection(pooled)
        return (pooled, tokens) if self.cfg.output_tokens else pooled


for _class in (ModernRMSNorm, ReLUSquared, SwiGLU, ModernTextAttention, ModernTextBlock, ModernTextTransformer):
    _class.__module__ = MODULE

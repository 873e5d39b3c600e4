"""One transformer block of a text tower, which can run whole or resume from clean keys and values."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .hooks import HookPoint
from .layers import FusedQKV, LayerNorm, Linear, SplitQKV


class KeyValues(NamedTuple):
    """The keys and values of some positions of one block."""

    k: Float[Tensor, "n pos head d_head"]
    v: Float[Tensor, "n pos head d_head"]


class Attention(nn.Module):
    """Multi-head self-attention of m rows over the rows themselves and, when resuming, clean positions before them.

    ``explicit`` computes the attention pattern as a tensor, so that ``hook_pattern`` fires; otherwise torch's fused
    kernel does the same sum faster.
    """

    def __init__(self, qkv: FusedQKV | SplitQKV, out: Linear, n_heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.n_heads, self.explicit = qkv, out, n_heads, False
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_pattern, self.hook_z = HookPoint(), HookPoint()

    def forward(
        self,
        x: Float[Tensor, "n m d"],
        mask: Bool[Tensor, "*n m keys"] | None,
        prefix: KeyValues | None = None,
        rows: slice | None = None,
    ) -> tuple[Float[Tensor, "n queries d"], KeyValues]:
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)) for t in self.qkv(x, rows))  # (n, m, head, d_head)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        if prefix is not None:
            k, v = torch.cat([prefix.k, k], dim=1), torch.cat([prefix.v, v], dim=1)
        seen = mask if rows is None or mask is None else mask[rows]
        z = self._attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), seen).transpose(1, 2)
        return self.out(self.hook_z(z).flatten(-2)), KeyValues(k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Float[Tensor, "n head m d_head"]:
        if not self.explicit:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return self.hook_pattern(scores.softmax(dim=-1)) @ v


class MLP(nn.Module):
    """Two linear layers around a stateless activation."""

    def __init__(self, up: Linear, activation: nn.Module, down: Linear) -> None:
        super().__init__()
        self.up, self.activation, self.down = up, activation, down

    def forward(self, x: Float[Tensor, "n m d"]) -> Float[Tensor, "n m d"]:
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """A transformer block with TransformerLens' hook points around each part.

    Pre-LN: x + attn(ln_1 x), then + mlp(ln_2 ·). ``post_norm`` (BERT): ln_1(x + attn x), then ln_2(· + mlp ·).
    """

    def __init__(
        self,
        ln_1: LayerNorm,
        attn: Attention,
        ln_2: LayerNorm,
        mlp: MLP,
        scale_attn: nn.Module | None = None,
        scale_mlp: nn.Module | None = None,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.ln_1, self.attn, self.ln_2, self.mlp = ln_1, attn, ln_2, mlp
        self.scale_attn, self.scale_mlp = scale_attn or nn.Identity(), scale_mlp or nn.Identity()
        self.hook_resid_pre, self.hook_resid_mid, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "n m d"], mask: Bool[Tensor, "*n m m"] | None = None) -> Float[Tensor, "n m d"]:
        """The whole block: hidden states in, hidden states out."""
        return self.body(self.hook_resid_pre(x), mask)[0]

    def body(
        self,
        x: Float[Tensor, "n m d"],
        mask: Bool[Tensor, "*n m keys"] | None,
        prefix: KeyValues | None = None,
        rows: slice | None = None,
    ) -> tuple[Float[Tensor, "n queries d"], KeyValues]:
        """The block after ``hook_resid_pre``, and its keys and values; ``rows``: the output of those rows only."""
        before, after = (_unchanged, self.ln_1) if self.post_norm else (self.ln_1, _unchanged)
        attended, kv = self.attn(before(x), mask, prefix, rows)
        x = after((x if rows is None else x[:, rows]) + self.hook_attn_out(self.scale_attn(attended)))
        x = self.hook_resid_mid(x)
        before, after = (_unchanged, self.ln_2) if self.post_norm else (self.ln_2, _unchanged)
        x = after(x + self.hook_mlp_out(self.scale_mlp(self.mlp(before(x)))))
        return self.hook_resid_post(x), kv


def _unchanged(x: Tensor) -> Tensor:
    return x

"""One transformer block of a text tower. What its rows attend to is an argument, so that it can also resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .hooks import HookPoint, share
from .layers import FusedQKV, Linear, SplitQKV

# (attention, q, k, v) -> z, all [*rows, head, d_head]: which rows attend to which, by Attention.mix
Attend = Callable[["Attention", Tensor, Tensor, Tensor], Tensor]


class Fresh(NamedTuple):
    """Rows whose queries, keys and values are computed; of these, the ones whose queries are (None: all)."""

    rows: slice
    queries: Int[Tensor, " query"] | None


class Attention(nn.Module):
    """Multi-head self-attention.

    relative: positions that the attention itself knows, a module of :mod:`.relative_positions`; ``hook_q`` and
    ``hook_k`` stand before it. scale: factor on the scores, by default d_head ** -0.5. gate: z is multiplied by
    sigmoid(gate x), channel by channel, behind ``hook_z``.

    ``explicit`` computes the attention pattern and each head's contribution as tensors, so that ``hook_pattern`` and
    ``hook_result`` fire; otherwise torch's fused kernel does the same sum faster.
    """

    def __init__(
        self,
        qkv: FusedQKV | SplitQKV,
        out: Linear,
        n_heads: int,
        *,
        relative: nn.Module | None = None,
        scale: float | None = None,
        gate: Linear | None = None,
    ) -> None:
        super().__init__()
        self.qkv, self.out, self.n_heads, self.explicit = qkv, out, n_heads, False
        self.relative, self.scale, self.gate = relative, scale, gate
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_pattern, self.hook_z, self.hook_result = HookPoint(), HookPoint(), HookPoint()

    def forward(
        self,
        x: Float[Tensor, "*rows d"],
        attend: Attend,
        queries: Int[Tensor, " query"] | None = None,
        asked: Float[Tensor, "*queries d"] | None = None,
    ) -> Float[Tensor, "*queries d"]:
        """asked: the input of the rows whose output is computed, where ``attend`` adds some to those of ``x``."""
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)) for t in self.qkv(x, queries))
        z = self.hook_z(attend(self, self.hook_q(q), self.hook_k(k), self.hook_v(v)))  # (*queries, head, d_head)
        if self.gate is not None and asked is None:
            asked = _chosen(x, queries)
        return self.write(z, asked)

    def write(self, z: Float[Tensor, "*queries head d_head"], asked: Tensor | None) -> Float[Tensor, "*queries d"]:
        """The attention's output from what the heads found; ``asked``: the input of these rows, which a gate needs."""
        if self.gate is not None:
            assert asked is not None
            z = z * self.gate(asked).sigmoid().unflatten(-1, (self.n_heads, -1))
        if not self.explicit:
            return self.out(z.flatten(-2))
        by_head = self.out.weight.unflatten(1, (self.n_heads, -1))  # (d, head, d_head)
        result = self.hook_result(torch.einsum("...hc,dhc->...hd", z, by_head)).sum(dim=-2)
        return result if self.out.bias is None else result + self.out.bias

    def mix(
        self,
        q: Float[Tensor, "n m head d_head"],
        k: Float[Tensor, "n keys head d_head"],
        v: Float[Tensor, "n keys head d_head"],
        mask: Bool[Tensor, "*batch #m keys"] | None,
        first: int = 0,
    ) -> Float[Tensor, "n m head d_head"]:
        """softmax(q k / sqrt(d_head)) v for each head; ``mask`` is True where a query may attend.

        first: position of the first query; the others follow it, and the keys stand at 0, 1, ...
        """
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.relative is not None:
            q, k, mask = self.relative(q, k, mask, first)
        if not self.explicit:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale).transpose(1, 2)
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        return (self.hook_pattern(scores.softmax(dim=-1)) @ v).transpose(1, 2)


def within(mask: Bool[Tensor, "*batch #m m"] | None) -> Attend:
    """Every row attends within its own sequence, where ``mask`` is True."""
    return lambda attention, q, k, v: attention.mix(q, k, v, mask)


class MLP(nn.Module):
    """Two linear layers around a stateless activation; with ``gate``, down(activation(gate x) * up x).

    ``hook_post`` holds the neurons: what ``down`` reads.
    """

    def __init__(self, up: Linear, activation: nn.Module, down: Linear, gate: Linear | None = None) -> None:
        super().__init__()
        self.up, self.activation, self.down, self.gate = up, activation, down, gate
        self.hook_post = HookPoint()

    @property
    def n_neurons(self) -> int:
        """Width of the hidden layer: how many activations ``down`` reads."""
        return self.down.weight.shape[1]

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        if self.gate is None:
            return self.down(self.hook_post(self.activation(self.up(x))))
        return self.down(self.hook_post(self.activation(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """A transformer block with TransformerLens' hook points around each part.

    Pre-LN: x + attn(ln_1 x), then + mlp(ln_2 ·). ``post_norm`` (BERT): ln_1(x + attn x), then ln_2(· + mlp ·).
    """

    def __init__(
        self,
        ln_1: nn.Module,
        attn: Attention,
        ln_2: nn.Module,
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

    def forward(
        self, x: Float[Tensor, "n m d"], mask: Bool[Tensor, "*batch #m m"] | None = None
    ) -> Float[Tensor, "n m d"]:
        """The whole block: hidden states in, hidden states out."""
        return self.body(self.hook_resid_pre(x), within(mask))

    def body(
        self,
        x: Float[Tensor, "*rows d"],
        attend: Attend,
        queries: Tensor | None = None,
        fresh: Fresh | None = None,
    ) -> Float[Tensor, "*queries d"]:
        """The block after ``hook_resid_pre``.

        queries: the output of the rows with these numbers only. fresh: where ``attend`` knows the other rows' part.
        """
        rows, asking = (x, queries) if fresh is None else (x[fresh.rows], fresh.queries)
        before, after = (_unchanged, self.ln_1) if self.post_norm else (self.ln_1, _unchanged)
        kept = _chosen(x, queries)
        asked = before(kept) if self.attn.gate is not None and fresh is not None else None
        attended = self.hook_attn_out(self.scale_attn(self.attn(before(rows), attend, asking, asked)))
        x = self.hook_resid_mid(after(kept + attended))
        before, after = (_unchanged, self.ln_2) if self.post_norm else (self.ln_2, _unchanged)
        return self.hook_resid_post(after(x + self.hook_mlp_out(self.scale_mlp(self.mlp(before(x))))))


class OpaqueBlock(nn.Module):
    """A block of the source model that is not taken apart: only the residual stream before and after it is a site.

    run: calls the source's block with hidden states and the mask of allowed keys; it gets our own tree of
    modules over the source's parameters, so that the user's module stays untouched.
    """

    def __init__(
        self, source: nn.Module, run: Callable[[nn.Module, Tensor, Tensor | None], Float[Tensor, "n m d_out"]]
    ) -> None:
        super().__init__()
        self.whole, self._run = share(source), run  # nnsight has a `.source` of its own on every module
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(
        self, x: Float[Tensor, "n m d"], mask: Bool[Tensor, "*batch #m m"] | None = None
    ) -> Float[Tensor, "n m d_out"]:
        """The whole block: hidden states in, hidden states out (a ResNet's stage changes their width)."""
        return self.hook_resid_post(self._run(self.whole, self.hook_resid_pre(x), mask))


def _unchanged(x: Tensor) -> Tensor:
    return x


def _chosen(x: Float[Tensor, "*rows d"], rows: Int[Tensor, " chosen"] | None) -> Float[Tensor, "*chosen d"]:
    return x if rows is None else x.index_select(0, rows)

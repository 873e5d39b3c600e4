"""The small layers of a text tower, each holding the source model's own parameters (shared, never copied)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x Wᵀ + b, over parameters that belong to another module, or over an adapter's effective weight."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        hold(self, "weight", weight)
        hold(self, "bias", bias)

    def forward(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        return F.linear(x, self.weight, self.bias)


class Project(nn.Module):
    """x P, for a projection that is stored as a bare [d_model, embed] parameter."""

    weight: Tensor

    def __init__(self, weight: Float[Tensor, "d_model embed"]) -> None:
        super().__init__()
        hold(self, "weight", weight)

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows embed"]:
        return x @ self.weight


class LayerNorm(nn.Module):
    """Layer normalisation in the precision of its weight, returned in the precision of its input."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, source: nn.LayerNorm) -> None:
        super().__init__()
        self.shape, self.eps = tuple(source.normalized_shape), source.eps
        hold(self, "weight", source.weight)
        hold(self, "bias", source.bias)

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        wide = x if self.weight is None else x.to(self.weight.dtype)
        return F.layer_norm(wide, self.shape, self.weight, self.bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """w * x / sqrt(mean x² + eps): a layer norm without mean and offset (Zhang and Sennrich 2019).

    cast: the weight is brought to the precision of the states, as open_clip does; else they follow the usual promotion.
    single: the states are divided in float32 whatever their precision is, as AIMv2 does.
    """

    weight: Tensor

    def __init__(self, weight: Float[Tensor, " d_model"], eps: float, cast: bool = False, single: bool = False) -> None:
        super().__init__()
        self.eps, self.cast_weight, self.single = eps, cast, single
        hold(self, "weight", weight)

    def forward(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        square = x.float().pow(2).mean(-1, keepdim=True)  # half precision would overflow
        weight = self.weight.to(x.dtype) if self.cast_weight else self.weight
        states = x.float() if self.single else x
        return weight * (states * torch.rsqrt(square + self.eps)).to(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation by the running statistics, as in evaluation: a factor and an offset for each channel."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    variance: Tensor

    def __init__(self, source: nn.BatchNorm1d) -> None:
        super().__init__()
        self.eps = source.eps
        hold(self, "weight", source.weight)
        hold(self, "bias", source.bias)
        hold(self, "mean", source.running_mean)
        hold(self, "variance", source.running_var)

    def forward(self, x: Float[Tensor, "rows channels"]) -> Float[Tensor, "rows channels"]:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=self.eps)


class GatedHalves(nn.Module):
    """activation(a) * b of the two halves of the channels, for an MLP whose gate and values are one weight.

    gate_last: the gate is the second half.
    """

    def __init__(self, activation: nn.Module, gate_last: bool = False) -> None:
        super().__init__()
        self.activation, self.gate_last = activation, gate_last

    def forward(self, x: Float[Tensor, "*rows twice_d"]) -> Float[Tensor, "*rows d"]:
        gate, values = x.chunk(2, dim=-1)
        if self.gate_last:
            gate, values = values, gate
        return self.activation(gate) * values


class FusedQKV(nn.Module):
    """Queries, keys and values from one stacked weight, as torch's ``nn.MultiheadAttention`` keeps them."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Float[Tensor, "three_d d"], bias: Float[Tensor, " three_d"] | None) -> None:
        super().__init__()
        hold(self, "weight", weight)
        hold(self, "bias", bias)

    def forward(self, x: Float[Tensor, "*rows d"], queries: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of all rows; queries of all, or of the rows numbered ``queries``."""
        if queries is None:
            q, k, v = F.linear(x, self.weight, self.bias).chunk(3, dim=-1)
            return q, k, v
        d = x.shape[-1]
        bias_q, bias_kv = (None, None) if self.bias is None else (self.bias[:d], self.bias[d:])
        k, v = F.linear(x, self.weight[d:], bias_kv).chunk(2, dim=-1)
        return F.linear(x.index_select(0, queries), self.weight[:d], bias_q), k, v

    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of the queries, of the keys and of the values."""
        biases = [None] * 3 if self.bias is None else self.bias.chunk(3)
        return list(zip(self.weight.chunk(3), biases, strict=True))


class SplitQKV(nn.Module):
    """Queries, keys and values from three linear layers, as transformers keeps them."""

    def __init__(self, q: Linear, k: Linear, v: Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = q, k, v

    def forward(self, x: Float[Tensor, "*rows d"], queries: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of all rows; queries of all, or of the rows numbered ``queries``."""
        return self.q(x if queries is None else x.index_select(0, queries)), self.k(x), self.v(x)

    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of the queries, of the keys and of the values."""
        return [(linear.weight, linear.bias) for linear in (self.q, self.k, self.v)]


class GroupedQKV(SplitQKV):
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): several heads share keys and values.

    Every head of queries gets a copy of the keys and values that it reads, so that those of one head can be replaced
    alone (TransformerLens' ``ungroup_grouped_query_attention``).

    d_head: width of a head. group: heads of queries, in a row, that share one head of keys and values.
    """

    def __init__(self, q: Linear, k: Linear, v: Linear, d_head: int, group: int) -> None:
        super().__init__(q, k, v)
        self.d_head, self.group = d_head, group

    def forward(self, x: Float[Tensor, "*rows d"], queries: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of all rows, once for each head of queries; queries of all rows, or of ``queries``."""
        q, k, v = super().forward(x, queries)
        return q, self._copied(k, -1), self._copied(v, -1)

    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of the queries, and of each head's copy of the keys and of the values."""
        queries, *shared = super().parts()
        return [queries, *((self._copied(w, 0), None if b is None else self._copied(b, 0)) for w, b in shared)]

    def _copied(self, x: Tensor, dim: int) -> Tensor:
        heads = x.unflatten(dim, (-1, self.d_head))
        of_heads = dim - 1 if dim < 0 else dim
        return heads.repeat_interleave(self.group, dim=of_heads).flatten(of_heads, of_heads + 1)


class Scale(nn.Module):
    """LayerScale: a learned factor per channel on a sub-layer's output (open_clip's ``ls_init_value``)."""

    gamma: Tensor

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        hold(self, "gamma", gamma)

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        return x * self.gamma


class TokenEmbedding(nn.Module):
    """Layer 0: token plus position embeddings, and what some families add to them.

    positions: None for towers whose blocks know positions by themselves (rotary). types: BERT's token-type embedding.
    norm: BERT's layer norm. widen: ALBERT's map to the width of the states, which is another one. offset: the first
    position used (RoBERTa starts after its padding index). scale: a factor on the token embeddings (NLLB). appended:
    CoCa's token behind the text, with the id behind the vocabulary's last; its position is always the last one. cast:
    the precision of the states, where the vectors are kept in another (open_clip's ``precision="fp16"``, ``"bf16"``).
    """

    tokens: Tensor
    positions: Tensor | None
    types: Tensor | None
    appended: Tensor | None

    def __init__(
        self,
        tokens: Float[Tensor, "vocab d_model"],
        positions: Float[Tensor, "context d_model"] | None,
        *,
        types: Float[Tensor, "kinds d_model"] | None = None,
        norm: nn.Module | None = None,
        widen: Linear | None = None,
        offset: int = 0,
        scale: float = 1.0,
        appended: Float[Tensor, " d_model"] | None = None,
        cast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hold(self, "tokens", tokens)
        hold(self, "positions", positions)
        hold(self, "types", types)
        hold(self, "appended", appended)
        self.norm, self.widen, self.offset, self.scale, self.cast = norm, widen, offset, scale, cast

    @property
    def d_model(self) -> int:
        """Width of the states."""
        return self.tokens.shape[-1] if self.widen is None else self.widen.weight.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        if self.cast is not None:
            return self.cast
        return self.tokens.dtype if self.positions is None else self.positions.dtype

    def forward(
        self,
        ids: Int[Tensor, "batch pos"],
        hook_embed: Callable[[Tensor], Tensor],
        places: Int[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """places: the positions that the tokens take; by default 0, 1, ..."""
        if self.appended is not None:
            known = F.embedding(ids[:, :-1], self.tokens)
            x = torch.cat([known, self.appended.to(known.dtype).expand(len(ids), 1, -1)], dim=1)
        else:
            x = F.embedding(ids, self.tokens)
        x = hook_embed((x if self.scale == 1 else x * self.scale).to(self.dtype))
        if self.types is not None:
            x = x + self.types[0]
        if self.positions is not None:
            x = x + (self._at(ids.shape[1]) if places is None else self.positions[self.offset + places]).to(self.dtype)
        x = x if self.norm is None else self.norm(x)
        return x if self.widen is None else self.widen(x)

    def _at(self, length: int) -> Float[Tensor, "pos d_model"]:
        assert self.positions is not None
        if self.appended is None:
            return self.positions[self.offset : self.offset + length]
        return torch.cat([self.positions[: length - 1], self.positions[-1:]])


def hold(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Register ``tensor`` on ``module``: a Parameter stays the very same Parameter, anything else is a buffer."""
    if tensor is None or isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor.detach())

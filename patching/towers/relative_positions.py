"""Positions inside attention: biases by distance (T5, MPNet), rotated queries and keys, local windows (ModernBERT);
norms of queries and keys.

Each is a module ``(q, k, mask, first) -> (q, k, mask)`` that an :class:`~.block.Attention` applies before its softmax.
Keys stand at positions 0, 1, ...; the queries are consecutive too, from ``first`` on, so that a resumed pass, which
runs some rows only, sees the same distances. A mask is boolean (True: may attend) or added to the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from .layers import hold

Related = tuple[Tensor, Tensor, Tensor | None]


def distances(
    q: Float[Tensor, "n head m d_head"], k: Float[Tensor, "n head keys d_head"], first: int
) -> Int[Tensor, "m keys"]:
    """Position of the key minus position of the query.

    >>> q, k = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4)
    >>> distances(q, k, first=1)
    tensor([[-1,  0,  1],
            [-2, -1,  0]])
    """
    keys = torch.arange(k.shape[-2], device=k.device)
    return keys[None, :] - (first + torch.arange(q.shape[-2], device=q.device))[:, None]


class DistanceBias(nn.Module):
    """A learned bias for each head and bucket of distances, added to the scores (Raffel et al. 2020, section 2.1).

    bucket: the source model's own function from distances to rows of ``table``.
    """

    table: Tensor

    def __init__(self, table: Float[Tensor, "bucket head"], bucket: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        hold(self, "table", table)
        self.bucket = bucket

    def forward(self, q: Tensor, k: Tensor, mask: Shaped[Tensor, "*batch #m keys"] | None, first: int) -> Related:
        bias = self.table[self.bucket(distances(q, k, first))].movedim(-1, 0).to(q.dtype)  # (head, m, keys)
        return q, k, bias if mask is None else bias.masked_fill(~mask, float("-inf"))


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021): pairs of channels turn by position times frequency.

    frequencies: radians per position, one for each pair. scaling: a factor on the rotated queries and keys. window: the
    largest distance attended to; None for all. adjacent: channels 2i and 2i + 1 are a pair, else i and i + d_head / 2.
    """

    def __init__(
        self,
        frequencies: Float[Tensor, " half_d_head"],
        scaling: float = 1.0,
        window: int | None = None,
        adjacent: bool = False,
    ) -> None:
        super().__init__()
        # numbers rather than a buffer: a tower cast to half precision must not round them
        self.frequencies: Sequence[float] = frequencies.tolist()
        self.scaling, self.window, self.adjacent = scaling, window, adjacent

    def forward(self, q: Tensor, k: Tensor, mask: Shaped[Tensor, "*batch #m keys"] | None, first: int) -> Related:
        if self.window is not None:
            near = distances(q, k, first).abs() <= self.window
            mask = near if mask is None else near & mask
        return self._turn(q, first), self._turn(k, 0), mask

    def _turn(self, x: Float[Tensor, "n head rows d_head"], first: int) -> Float[Tensor, "n head rows d_head"]:
        # in single precision whatever the tower's, as transformers does
        positions = torch.arange(first, first + x.shape[-2], device=x.device, dtype=torch.float32)
        angles = positions[:, None] * torch.tensor(self.frequencies, device=x.device, dtype=torch.float32)
        cos, sin = ((part * self.scaling).to(x.dtype) for part in (angles.cos(), angles.sin()))
        wide = x.float()
        one, other = (wide[..., ::2], wide[..., 1::2]) if self.adjacent else wide.chunk(2, dim=-1)
        turned = one * cos - other * sin, other * cos + one * sin
        return (torch.stack(turned, dim=-1).flatten(-2) if self.adjacent else torch.cat(turned, dim=-1)).to(x.dtype)


class NormedHeads(nn.Module):
    """Queries and keys are normalised head by head (Henry et al. 2020), before positions turn them, if any do."""

    def __init__(self, q: nn.Module, k: nn.Module, positions: nn.Module | None) -> None:
        super().__init__()
        self.q, self.k, self.positions = q, k, positions

    def forward(self, q: Tensor, k: Tensor, mask: Shaped[Tensor, "*batch #m keys"] | None, first: int) -> Related:
        q, k = self.q(q), self.k(k)
        return (q, k, mask) if self.positions is None else self.positions(q, k, mask, first)

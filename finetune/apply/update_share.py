"""Which blocks training changed: the share of the update in each block, by CTE rank and by size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from ...errors import PrescriptionError
from ...tracer.results.read_only import ReadOnlyArrays

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..prescription.plan import Prescription


@dataclass(frozen=True, eq=False)
class UpdateShare(ReadOnlyArrays):
    """How much each text block changed.

    size: U_l, the sum over the block's matrices of the Frobenius norm of their change (for LoRA ||s B A||). Queries,
        keys and values count as one matrix, whether the model stores them as one or as three.
    order: blocks (1..L) by falling alpha of the plan, or None without a plan.
    """

    size: Float[np.ndarray, " block"]
    order: tuple[int, ...] | None = None

    @property
    def share(self) -> Float[np.ndarray, " block"]:
        """U_l / sum U; zeros if nothing changed."""
        total = self.size.sum()
        return self.size / total if total > 0 else np.zeros_like(self.size)

    def top(self, k: int, by: Literal["cte", "size"] = "cte") -> float:
        """Share of the update in k blocks: those of highest CTE ("cte", NAST's Table 4) or those that changed most.

        >>> shares = UpdateShare(np.array([3.0, 1.0, 0.0]), order=(2, 1, 3))
        >>> shares.top(1), shares.top(1, by="size")
        (0.25, 0.75)
        """
        if by not in ("cte", "size"):
            raise PrescriptionError(f"unknown order {by!r}; choose one of: cte, size")
        if not 1 <= k <= len(self.size):
            raise PrescriptionError(f"k must lie within 1..{len(self.size)}, the number of blocks, not {k!r}")
        if by == "size":
            return float(np.sort(self.share)[::-1][:k].sum())
        if self.order is None:
            raise PrescriptionError("the order by CTE needs a plan: update_share(before, after, plan)")
        return float(sum(self.share[block - 1] for block in self.order[:k]))

    @property
    def effective_layers(self) -> float:
        """exp(entropy) of the shares: L if all blocks change alike, 1 if only one changes, 0 if none does.

        >>> UpdateShare(np.ones(4)).effective_layers
        4.0
        """
        share = self.share[self.share > 0]
        return float(np.round(np.exp(-(share * np.log(share)).sum()), 12)) if len(share) else 0.0

    def __repr__(self) -> str:
        shares = " ".join(f"{100 * part:.0f}" for part in self.share)
        return f"UpdateShare({len(self.size)} blocks, percent: {shares}; {self.effective_layers:.1f} effective layers)"

    def _repr_html_(self) -> str:
        from ...cards import card
        from ...viz.notebook.pictures import bars_svg

        order = self.order or ()
        top = ", ".join(f"top {k}: {100 * self.top(k):.1f} %" for k in (3, 5) if k <= len(order))
        facts = [("effective layers", f"{self.effective_layers:.1f} of {len(self.size)}"), ("by CTE", top)]
        bars = bars_svg(100 * self.share, list(range(1, len(self.size) + 1)), "share (%)")
        return card("UpdateShare", "share of the whole update per block", facts, bars)


def update_share(before: nn.Module, after: nn.Module, plan: Prescription | None = None) -> UpdateShare:
    """Compare the text blocks of two versions of a model (source modules; peft adapters count as part of the weights).

    U_l = sum over matrices of ||W_after - W_before||_F; for LoRA this is ||s B A||_F. Queries, keys and values count as
    one matrix: stored as three they would otherwise count up to sqrt(3) times as much. Source: NAST (arXiv 2602.12498),
    Table 4, whose "top-k" are the k layers of highest CTE.

    Raises PrescriptionError when the two towers, or the plan, have different blocks, or blocks share parameters.
    """
    old, new = _block_weights(before), _block_weights(after)
    if [set(block) for block in old] != [set(block) for block in new]:
        raise PrescriptionError(
            f"the two modules have different text blocks ({len(old)} and {len(new)}); compare versions of one model"
        )
    if plan is not None and plan.n_blocks != len(old):
        raise PrescriptionError(f"the plan has weights for {plan.n_blocks} blocks, but the text tower has {len(old)}")
    size = [_change(then, now) for then, now in zip(old, new, strict=True)]
    return UpdateShare(np.asarray(size), None if plan is None else plan.order)


# What models with three projections call them: CLIP, SigLIP and most others; BERT; MPNet and T5; DistilBERT.
_SPLIT = re.compile(r"(?:^|(?<=\.))(?:(?:q|k|v)(?:_proj|_lin)?|query|key|value)(?=\.(?:weight|bias)$)")


def _change(then: dict[str, Tensor], now: dict[str, Tensor]) -> float:
    squares: dict[str, float] = {}
    for name, weight in then.items():
        matrix = _SPLIT.sub("qkv", name)
        change = weight.double() - now[name].double().to(weight.device)
        squares[matrix] = squares.get(matrix, 0.0) + float(change.square().sum())
    return sum(square**0.5 for square in squares.values())


def _block_weights(module: nn.Module) -> list[dict[str, Tensor]]:
    from ...patching import text_blocks
    from .adapters import effective_weights
    from .blocks import refuse_shared_parameters

    blocks = text_blocks(module)
    refuse_shared_parameters(blocks)
    return [{name: w.detach() for name, w in effective_weights(block).items()} for block in blocks]

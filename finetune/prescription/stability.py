"""Stability of the ranking of layers: agreement of bootstrap draws with the point estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ...errors import PrescriptionError


@dataclass(frozen=True)
class Stability:
    """How bootstrap draws of alpha agree with the point estimate.

    argmax_share: share of draws whose highest block is the point estimate's.
    spearman: mean rank correlation of a draw with the point estimate.
    top_overlap: mean share of the point estimate's top-k blocks that a draw's top k holds.
    top_k: k, 3 or (for towers of 3 blocks or fewer) one less than the number of blocks.
    n_draws: draws that defined an alpha.
    """

    argmax_share: float
    spearman: float
    top_overlap: float
    top_k: int
    n_draws: int

    def __repr__(self) -> str:
        return (
            f"Stability(argmax_share={self.argmax_share:.3g}, spearman={self.spearman:.3g}, "
            f"top_overlap={self.top_overlap:.3g}, top_k={self.top_k}, n_draws={self.n_draws})"
        )

    def check(self, n_blocks: int) -> None:
        """Raises ValueError for values that no draws can give."""
        shares = (self.argmax_share, self.top_overlap)
        if not all(0 <= share <= 1 for share in shares) or not -1 - 1e-9 <= self.spearman <= 1 + 1e-9:
            raise ValueError("stability: shares must lie within 0..1 and spearman within -1..1")
        if not 1 <= self.top_k <= n_blocks or self.n_draws < 1:
            raise ValueError(f"stability: top_k must lie within 1..{n_blocks} and n_draws be at least 1")


def measure_stability(
    alpha: Float[np.ndarray, " block"], draws: Float[np.ndarray, "draw block"], level: float = 0.95
) -> tuple[Float[np.ndarray, "block 2"] | None, Stability | None]:
    """Percentile bounds of alpha and the stability of its ranking; (None, None) without draws.

    >>> bounds, stability = measure_stability(np.array([0.0, 1.0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> stability.argmax_share, stability.spearman
    (0.5, 0.0)
    """
    from scipy.stats import rankdata

    if draws.ndim != 2 or draws.shape[1] != len(alpha):
        raise PrescriptionError(f"the draws have shape {draws.shape}, which does not fit {len(alpha)} blocks")
    if len(draws) == 0:
        return None, None
    tail = (1 - level) / 2
    bounds = np.quantile(draws, [tail, 1 - tail], axis=0).T  # [block, 2]
    top_k = min(3, len(alpha) - 1)
    ranks = rankdata(np.vstack([alpha, draws]), axis=1)  # average ranks, so that ties favour no block
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    products = norms[1:] * norms[0]
    correlation = np.divide(centred[1:] @ centred[0], products, out=np.zeros(len(draws)), where=products > 0)
    in_top = np.zeros(len(alpha), dtype=bool)
    in_top[np.argsort(-alpha, kind="stable")[:top_k]] = True
    drawn_top = np.argsort(-draws, axis=1, kind="stable")[:, :top_k]
    stability = Stability(
        argmax_share=float((draws.argmax(axis=1) == alpha.argmax()).mean()),
        spearman=float(correlation.mean()),
        top_overlap=float(in_top[drawn_top].mean()),
        top_k=top_k,
        n_draws=len(draws),
    )
    return bounds, stability

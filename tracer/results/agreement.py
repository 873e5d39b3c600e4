"""Agreement of attribution maps with exact ones, as every attribution and its summary state it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ...io.quoting import plural
from .statistics import rank_correlation

__all__ = ["Agreement", "measure_agreement"]


@dataclass(frozen=True)
class Agreement:
    """How well first-order maps agree with exact ones, on a sample of text pairs.

    Only cells that the exact method does not fix at 0 or 1 by construction are counted: those would flatter.

    text_pairs, pairs, cells: size of the sample; a pair is an image of a text pair.
    rank_correlation: mean over the pairs of Spearman's rank correlation over a pair's cells; None where no pair has 3
        cells that differ. lowest: the worst pair's.
    mean_error, max_error: of S, as cosines. relative_error: the mean error over the mean |S_corr - S_foil|, so that it
        is on the scale of CTE.
    """

    text_pairs: int
    pairs: int
    cells: int
    rank_correlation: float | None
    lowest: float | None
    mean_error: float | None
    max_error: float | None
    relative_error: float | None

    @classmethod
    def unknown(cls) -> Agreement:
        """That of maps which were compared with none.

        >>> print(Agreement.unknown())
        not compared with exact maps
        """
        return cls(0, 0, 0, None, None, None, None, None)

    def __str__(self) -> str:
        if not self.pairs:
            return "not compared with exact maps"
        if self.rank_correlation is None:
            return f"no rank correlation with exact maps ({self.cells} free cells of {plural(self.pairs, 'pair')})"
        pairs, texts = plural(self.pairs, "pair"), plural(self.text_pairs, "text")
        return (
            f"rank correlation {self.rank_correlation:.2f} (lowest {self.lowest:.2f}) with the exact maps of "
            f"{pairs} ({texts}), mean error {self.relative_error:.2f} of S_corr - S_foil"
        )


def measure_agreement(
    scores: Float[np.ndarray, "pair layer column"],
    exact: Float[np.ndarray, "pair layer column"],
    free: Bool[np.ndarray, "pair layer column"],
    margin: Float[np.ndarray, "pair"],
    text_pairs: int,
) -> Agreement:
    """Compare scores with exact ones over the free cells; see :class:`Agreement`.

    margin: S_corr - S_foil up to its sign.

    >>> exact = np.array([[[0.1, 0.2, 0.3, 0.9]]])
    >>> free = np.array([[[True, True, True, False]]])
    >>> found = measure_agreement(exact + [0.0, 0.0, 0.1, 5.0], exact, free, np.array([0.5]), text_pairs=1)
    >>> found.cells, found.rank_correlation, round(found.max_error, 6), round(found.relative_error, 6)
    (3, 1.0, 0.1, 0.066667)
    """
    of_pairs = [rank_correlation(a[mask], b[mask]) for a, b, mask in zip(scores, exact, free, strict=True)]
    correlations = [value for value in of_pairs if value is not None]
    errors = np.abs(scores - exact)[free]
    scale = float(np.abs(margin).mean())
    return Agreement(
        text_pairs=text_pairs,
        pairs=len(scores),
        cells=int(free.sum()),
        rank_correlation=float(np.mean(correlations)) if correlations else None,
        lowest=min(correlations) if correlations else None,
        mean_error=float(errors.mean()) if len(errors) else None,
        max_error=float(errors.max()) if len(errors) else None,
        relative_error=float(errors.mean() / scale) if len(errors) and scale > 0 else None,
    )

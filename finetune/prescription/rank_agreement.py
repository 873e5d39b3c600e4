"""Whether parts of a trace rank the blocks alike: halves of its texts, its templates, both directions of negation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from ...tracer import CausalTrace

N_SPLITS = 20
LEAST = 5  # pairs of a template or a direction, below which its ranking is not asked for
LOW = 0.5  # Spearman's correlation below which parts are said to disagree


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's correlation of the blocks' values between parts of the traced pairs; None where there are no parts.

    A last block whose value is fixed by construction is left out.

    halves: of two halves of the texts (of the clusters where there are fewer than 4 texts), mean of 20 random splits.
    templates: of every two templates, their mean; lowest: the least of these.
    directions: of the pairs whose correct caption is the negated one and of those whose foil is.
    """

    halves: float | None = None
    templates: float | None = None
    lowest: float | None = None
    directions: float | None = None

    def check(self) -> None:
        """Raises ValueError for values that are no correlations."""
        if any(value is not None and not abs(value) <= 1 + 1e-9 for value in astuple(self)):
            raise ValueError("agreement: correlations must lie within -1..1")

    def told(self) -> str | None:
        """The rank correlations that there are, in one line.

        >>> RankAgreement(halves=0.91, directions=-0.2).told()
        'rank correlation of halves of the texts 0.91, of both directions -0.20'
        """
        named = {"halves of the texts": self.halves, "templates": self.templates, "both directions": self.directions}
        found = [f"of {name} {value:.2f}" for name, value in named.items() if value is not None]
        return f"rank correlation {', '.join(found)}" if found else None

    def doubts(self) -> list[str]:
        """What a careful reader would object to, one sentence each."""
        lines = []
        if self.directions is not None and self.directions < LOW:
            lines.append(
                "Pairs whose correct caption is negated and pairs whose foil is rank the blocks differently (rank "
                f"correlation {self.directions:.2f}): make a plan of one direction, trace.select(negated='correct')."
            )
        if self.lowest is not None and self.templates is not None and self.lowest < LOW:
            lines.append(
                f"The templates do not agree on the blocks: their rank correlation is {self.templates:.2f} on average "
                f"and as low as {self.lowest:.2f}; look at trace.by('template')."
            )
        if self.halves is not None and self.halves < LOW:
            lines.append(
                f"Two halves of the texts do not agree on the blocks: their rank correlation is {self.halves:.2f} on "
                "average."
            )
        return lines


def measure_rank_agreement(
    trace: CausalTrace,
    control: Float[np.ndarray, " layer"] | None,
    *,
    aggregate: str,
    free: Bool[np.ndarray, " layer"],
    seed: int,
) -> RankAgreement:
    """Of the pairs that enter the trace's profile.

    control: the profile of a control trace, which is subtracted from that of every part.
    free: the trace's layers that are blocks whose value is not fixed by construction.
    """
    from ...tracer.results.profiles import pairs_used
    from ...tracer.results.sides import by_layer, layer_table
    from ...tracer.results.statistics import combine, random_halves, rank_correlation

    used, _ = pairs_used(trace, None, warn=False)
    table = layer_table(trace, used, aggregate, None, "ratio_of_means")

    def rankings(parts: Sequence[np.ndarray] | np.ndarray) -> list[Float[np.ndarray, " block"]]:
        """The blocks' values of each part, a mask over the used pairs."""
        values = by_layer(combine(table, np.asarray(parts, dtype=np.float64)), aggregate, None)  # [part, layer]
        return list((values if control is None else values - control)[:, free])

    def between(parts: Sequence[np.ndarray] | np.ndarray) -> list[float]:
        """Of every two parts."""
        if len(parts) < 2:
            return []
        found = [rank_correlation(one, two) for one, two in combinations(rankings(parts), 2)]
        return [round(value, 12) for value in found if value is not None]  # a half is compared with LOW

    texts = np.asarray(trace.text_pair)[used]
    if len(np.unique(texts)) < 4:
        texts = np.unique([trace.groups[i] for i in used], return_inverse=True)[1]
    numbers = np.unique(texts, return_inverse=True)[1]
    splits = random_halves(numbers, N_SPLITS, seed) if numbers.max() else ()
    halves = [value for parts in splits for value in between(parts)]
    templates = between(_parts(trace.templates, used))
    directions = between(_parts(trace.negated, used, ("correct", "foil")))
    return RankAgreement(
        halves=float(np.mean(halves)) if halves else None,
        templates=float(np.mean(templates)) if templates else None,
        lowest=min(templates) if templates else None,
        directions=directions[0] if directions else None,
    )


def _parts(
    said: Sequence[str] | None, used: Int[np.ndarray, " used"], wanted: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Masks of the used pairs that say the same of themselves, where enough do."""
    if said is None:
        return []
    words = np.array([said[i] for i in used])
    names = [name for name in dict.fromkeys(words.tolist()) if name] if wanted is None else wanted
    return [words == name for name in names if (words == name).sum() >= LEAST]

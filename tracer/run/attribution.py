"""Attribution instead of replacement: first-order maps of all pairs, always with their agreement with exact maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import TraceError
from ..results.causal_trace import Scores
from ..results.scoring import score_maps

if TYPE_CHECKING:
    from ...patching import AttributionEngine, Column, Sweep

__all__ = ["Agreement", "Attribution", "attribute", "measure_agreement"]


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

    def __str__(self) -> str:
        if self.rank_correlation is None:
            return f"no rank correlation with exact maps ({self.cells} free cells of {self.pairs} pairs)"
        return (
            f"rank correlation {self.rank_correlation:.2f} (lowest {self.lowest:.2f}) with the exact maps of "
            f"{self.pairs} pairs ({self.text_pairs} texts), mean error {self.relative_error:.2f} of S_corr - S_foil"
        )


@dataclass(frozen=True, eq=False)
class Attribution:
    """What tracing takes from :func:`attribute`: scores, and how exact they are."""

    scores: Scores
    agreement: Agreement

    @property
    def provenance(self) -> dict[str, Any]:
        return {"path": "gradient", "agreement": asdict(self.agreement)}


def attribute(
    engine: AttributionEngine,
    base: Sequence[Any],
    donor: Sequence[Any],
    images: Float[np.ndarray, "pair embed"],
    text_pair: Int[np.ndarray, "pair"],
    inside: Bool[np.ndarray, "pair column"],
    noising: Bool[np.ndarray, "pair"],
    *,
    sweep: Sweep,
    columns: Sequence[Sequence[Column]],
    steps: int,
    exact_sample: int,
    seed: int,
    batch_size: int | Literal["auto"] = "auto",
    progress: Callable[[int], None] | None = None,
) -> Attribution:
    """S of every pair's cells to first order, S_base + sum of <gradient, donor - base>, and how exact that is.

    base, donor: rows of the text pairs, one for each number in ``text_pair``. inside: which columns each pair has.
    noising: whether a pair's base is its correct caption. exact_sample: text pairs, chosen by
    ``seed``, whose exact maps are run as well.

    Raises:
        TraceError: no step, or no text pair to compare with.
    """
    import torch

    for name, value in (("steps", steps), ("exact_sample", exact_sample)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TraceError(f"{name} must be a whole number >= 1, not {value!r}")
    pairs_of = [np.flatnonzero(text_pair == text) for text in range(len(base))]
    found = engine.attribute(
        base,
        donor,
        [torch.from_numpy(np.ascontiguousarray(images[own])) for own in pairs_of],
        sweep=sweep,
        columns=columns,
        steps=steps,
        batch_size=batch_size,
        progress=progress,
    )
    clean, other = (side.cpu().float().numpy() for side in (found.base, found.donor))
    no_cells, no_columns = np.empty((len(base), 0, 0, clean.shape[1]), dtype=np.float32), np.empty((len(base), 0), bool)
    unpatched = score_maps(images, np.arange(len(images)), text_pair, clean, other, no_cells, no_columns)
    ours, theirs = unpatched.correct, unpatched.foil  # of the base and of the donor, whichever is correct
    scores = np.full((len(text_pair), found.effects[0].shape[1], inside.shape[1]), np.nan)
    free = np.zeros(scores.shape, dtype=bool)
    for own, effects, fixed in zip(pairs_of, found.effects, found.fixed, strict=True):
        width = fixed.shape[1]
        scores[own, :, :width] = effects.cpu().double().numpy()
        free[own, :, :width] = ~fixed.numpy()
    scores += ours[:, None, None]

    texts = np.random.default_rng(seed).permutation(len(base))[:exact_sample]
    exact = engine.patch(
        [base[text] for text in texts],
        [donor[text] for text in texts],
        sweep=sweep,
        columns=[columns[text] for text in texts],
        batch_size=batch_size,
        seed=seed,
    )
    chosen = np.flatnonzero(np.isin(text_pair, texts))
    place = {int(text): at for at, text in enumerate(texts)}
    within = np.array([place[int(text)] for text in text_pair[chosen]])
    width = exact.patched.shape[2]  # the sample's longest text
    given = np.arange(width) < np.array([len(columns[text]) for text in texts])[:, None]
    maps = exact.patched.cpu().float().numpy()
    truth = score_maps(images, chosen, within, clean[texts], other[texts], maps, given).patched
    margin = (ours - theirs)[chosen]
    agreement = measure_agreement(scores[chosen, :, :width], truth, free[chosen, :, :width], margin, len(texts))
    correct, foil = np.where(noising, ours, theirs), np.where(noising, theirs, ours)
    return Attribution(Scores(correct=correct, foil=foil, patched=scores), agreement)


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
    from scipy.stats import spearmanr

    correlations = []
    for ours, theirs, own in zip(scores, exact, free, strict=True):
        a, b = ours[own], theirs[own]
        if len(a) >= 3 and np.ptp(a) > 0 and np.ptp(b) > 0:
            correlations.append(float(spearmanr(a, b).statistic))
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

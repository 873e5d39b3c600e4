"""Attribution instead of replacement: first-order maps of all pairs, always with their agreement with exact maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import TraceError
from ..results.agreement import Agreement, measure_agreement
from ..results.causal_trace import Scores
from ..results.scoring import score_maps

if TYPE_CHECKING:
    from ...patching import AttributionEngine, Column, Sweep

__all__ = ["Attribution", "attribute"]


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

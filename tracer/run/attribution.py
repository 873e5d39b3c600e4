"""Attribution instead of replacement: first-order maps of all pairs, with their agreement with exact maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..pairs.targets import Targets
from ..results.agreement import Agreement, measure_agreement
from ..results.causal_trace import Scores
from ..results.scoring import score_maps
from .options import TraceOptions

if TYPE_CHECKING:
    from ...patching import TextTower
    from .prepared import PreparedTrace

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
    tower: TextTower,
    prepared: PreparedTrace,
    targets: Targets,
    options: TraceOptions,
    progress: Callable[[int], None] | None = None,
) -> Attribution:
    """S of every pair's cells to first order, S_base + sum of <gradient, donor - base>, and how exact that is.

    The exact maps of ``options.exact_sample`` patched pairs, chosen by ``options.seed``, are run as well.
    """
    import torch

    from ...patching import AttributionEngine

    batch, images, inside = prepared.batch, targets.of_pairs, prepared.inside
    sweep, columns = prepared.shards.prepared.sweep, prepared.shards.prepared.columns
    engine = AttributionEngine(tower, dtype=options.torch_dtype)
    members = [np.flatnonzero(batch.patched_pair == number) for number in range(len(batch.base))]
    found = engine.attribute(
        batch.base,
        batch.donor,
        [torch.from_numpy(np.ascontiguousarray(images[pairs])) for pairs in members],
        sweep=sweep,
        columns=columns,
        steps=options.steps,
        batch_size=options.batch_size,
        progress=progress,
    )
    base, donor = (side.cpu().float().numpy() for side in (found.base, found.donor))
    no_cells = np.empty((len(base), 0, 0, base.shape[1]), dtype=np.float32)
    no_columns = np.empty((len(base), 0), dtype=bool)
    every_pair = np.arange(len(images))
    unpatched = score_maps(images, every_pair, batch.patched_pair, base, donor, no_cells, no_columns)
    of_base, of_donor = unpatched.correct, unpatched.foil  # whichever is the correct caption
    scores = np.full((len(images), found.effects[0].shape[1], inside.shape[1]), np.nan)
    free = np.zeros(scores.shape, dtype=bool)
    for pairs, effects, fixed in zip(members, found.effects, found.fixed, strict=True):
        width = fixed.shape[1]
        scores[pairs, :, :width] = effects.cpu().double().numpy()
        free[pairs, :, :width] = ~fixed.numpy()
    scores += of_base[:, None, None]
    correct = np.where(batch.noising, of_base, of_donor)
    foil = np.where(batch.noising, of_donor, of_base)
    result = Scores(correct=correct, foil=foil, patched=scores)

    sample = np.random.default_rng(options.seed).permutation(len(base))[: options.exact_sample]
    if not len(sample):
        return Attribution(result, Agreement.unknown())
    exact = engine.patch(
        [batch.base[number] for number in sample],
        [batch.donor[number] for number in sample],
        sweep=sweep,
        columns=[columns[number] for number in sample],
        batch_size=options.batch_size,
        seed=options.seed,
    )
    chosen = np.flatnonzero(np.isin(batch.patched_pair, sample))
    place = np.empty(len(base), dtype=np.int64)
    place[sample] = np.arange(len(sample))
    width = exact.patched.shape[2]  # the sample's longest text
    given = np.arange(width) < np.array([len(columns[number]) for number in sample])[:, None]
    maps = exact.patched.cpu().float().numpy()
    within = place[batch.patched_pair[chosen]]
    truth = score_maps(images, chosen, within, base[sample], donor[sample], maps, given).patched
    margin = (of_base - of_donor)[chosen]
    agreement = measure_agreement(scores[chosen, :, :width], truth, free[chosen, :, :width], margin, len(sample))
    return Attribution(result, agreement)

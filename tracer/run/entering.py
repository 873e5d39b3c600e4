"""The pairs that enter a result, scored without a patch: where analyses start that replace no map's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from ..pairs.batch import PairBatch, as_pairs, make_batch
from ..pairs.indexing import distinct, picked
from ..pairs.pairs import Pair
from ..pairs.targets import encode_targets
from ..results.causal_trace import CausalTrace, Scores
from ..results.metrics import METRICS
from ..results.profiles import pairs_used
from ..results.sides import cluster_keys, text_keys
from .assembled import assembled
from .options import TraceOptions
from .provenance import trace_provenance

if TYPE_CHECKING:
    from ...patching import DualEncoder, PatchingEngine

__all__ = ["EnteringPairs"]


@dataclass(frozen=True, eq=False)
class EnteringPairs:
    """The pairs of a segment with their targets, as one batch.

    clean: a trace of them with S_corr and S_foil, and no layer. name: of the choice of pairs.
    """

    clean: CausalTrace
    batch: PairBatch
    images: Float32[np.ndarray, "pair embed"]
    name: str

    @classmethod
    def of(
        cls,
        model: DualEncoder,
        engine: PatchingEngine,
        pairs: Sequence[Pair],
        options: TraceOptions,
        segment: str | None,
    ) -> EnteringPairs:
        """Score all pairs, and keep those that enter; see :meth:`CausalTrace.map`.

        Raises:
            As :func:`tracescribe.trace` of its pairs; DegenerateTraceError: no pair enters.
        """
        batch = make_batch(model.text, as_pairs(pairs), direction=options.direction)
        targets = encode_targets(model, batch.images, batch.ids)
        rows, places = distinct(tuple(row) for row in [*batch.base, *batch.donor])
        embeddings = engine.encode([list(row) for row in rows]).double().cpu().numpy()
        images = targets.of_pairs
        base, donor = (
            np.einsum("pe,pe->p", embeddings[side[batch.patched_pair]], images.astype(np.float64))
            for side in np.split(places, 2)
        )
        correct, foil = np.where(batch.noising, [base, donor], [donor, base])
        nothing = np.empty((len(images), 0, batch.kinds.shape[1]))
        precision = str(options.torch_dtype or model.text.dtype).removeprefix("torch.")
        clean = assembled(
            batch,
            options,
            METRICS["cosine"].floor,
            {**trace_provenance(model, batch, targets), "metric": {"name": "cosine"}, "dtype": precision},
            scores=Scores(correct=correct, foil=foil, patched=nothing),
        )
        used, name = pairs_used(clean, segment)
        if len(used) < len(batch.pairs):
            batch = make_batch(model.text, picked(batch.pairs, used), direction=options.direction)
            clean = clean.select(used)
        return cls(clean, batch, images[used], name)

    @property
    def denominator(self) -> Float[np.ndarray, " pair"]:
        """S_corr - S_foil."""
        return self.clean.denominator

    @property
    def sign(self) -> Float[np.ndarray, " pair"]:
        """1 where the foil's states go into the correct caption's run, else -1: the sign of S_base - S in CTE."""
        return np.where(self.batch.noising, 1.0, -1.0)

    @property
    def clusters(self) -> Int[np.ndarray, " pair"]:
        """Numbers of the pairs' clusters."""
        return distinct(cluster_keys(self.clean, np.arange(len(self.clean))))[1]

    @property
    def texts(self) -> Int[np.ndarray, " pair"]:
        """Numbers of the pairs' two captions, whichever is the correct one."""
        return distinct(text_keys(self.clean, np.arange(len(self.clean))))[1]

    def towards(self, pairs: Int[np.ndarray, " chosen"]) -> Float[torch.Tensor, " embed"]:
        """The sum of some pairs' targets, each with the sign with which S enters the numerator of CTE."""
        return torch.from_numpy((-self.sign[pairs]) @ self.images[pairs].astype(np.float64))

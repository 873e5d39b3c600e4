"""Runs sets of a map's cells together, for the pairs that enter the map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ...errors import TraceError
from ...io.quoting import plural, shown
from ...validation import Whole, Wholes, check_option
from ..pairs.batch import PairBatch, as_pairs
from ..pairs.indexing import distinct
from ..pairs.pairs import Pair
from ..pairs.targets import encode_targets
from ..pairs.unit_rows import normalise_rows
from ..results.candidates import text_encoder
from ..results.causal_trace import CausalTrace
from ..results.cells import MapCells, used_cells
from ..results.metrics import METRICS
from ..results.scorer import Scorer, make_scorer
from .joint_options import JointOptions
from .options import TraceOptions
from .prepared import prepare

if TYPE_CHECKING:
    from ...patching import DualEncoder, JointEmbeddings, JointEngine
    from ...patching.engine.batching import Prepared

__all__ = ["JointRuns", "effects_of_sets"]

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class JointRuns:
    """What it takes to replace sets of a map's cells together, in the runs of the pairs that enter the map.

    used: numbers of these pairs in the trace; ``batch`` holds them. columns_of: the map's row of each of their columns.
    scorer: makes the trace's scores of the cosines; None: the cosines themselves. captions: embeddings of the correct
    captions and of the foils.
    """

    trace: CausalTrace
    cells: MapCells
    used: Int[np.ndarray, " used"]
    columns_of: Int[np.ndarray, "used column"]
    batch: PairBatch
    images: Float32[np.ndarray, "used embed"]
    captions: Float32[np.ndarray, "two used embed"]
    scorer: Scorer | None
    engine: JointEngine
    prepared: Prepared
    seed: int

    @classmethod
    def of(
        cls,
        model: DualEncoder,
        trace: CausalTrace,
        pairs: Sequence[Pair] | None,
        targets: Any,
        asked: JointOptions,
    ) -> JointRuns:
        """Check that the model and the pairs are those of the trace.

        Raises:
            TraceError: they are not, or the trace is of a kind whose cells cannot be replaced together.
        """
        from ...patching import JointEngine

        if trace.provenance.get("modality") == "image":
            raise TraceError("this is a trace of images: sets of cells are patched together in traces of captions only")
        if trace.provenance.get("weights_sha256") != model.text.fingerprint():
            raise TraceError(
                "the trace was made with other weights than this model has: give the model it was made with"
            )
        options = _options(trace)
        layers = None if asked.layers is None else _layers(trace, asked.layers)
        cells, used = used_cells(trace, asked.align, asked.reduce, asked.segment, layers)
        chosen = _chosen(trace, used, pairs, targets)
        prepared = prepare(model, chosen, options)
        images = encode_targets(model, prepared.batch.images, prepared.batch.ids).of_pairs
        engine = JointEngine(model.text, dtype=options.torch_dtype)
        runs = cls(
            trace=trace,
            cells=cells,
            used=used,
            columns_of=cells.columns_of(trace, used, asked.align),
            batch=prepared.batch,
            images=images,
            captions=_captions(model, engine, chosen),
            scorer=_scorer(model, trace, asked.among),
            engine=engine,
            prepared=prepared.shards.prepared,
            seed=asked.seed,
        )
        runs._check_scores(model)
        return runs

    @property
    def n_texts(self) -> int:
        """Patched pairs: what a run of one set costs one run each."""
        return len(self.batch.base)

    def effects(
        self, sets: Bool[np.ndarray, "set cell"], progress: Progress | None = None
    ) -> Float[np.ndarray, "set used"]:
        """The numerator of CTE of every set of cells, all replaced together, in every pair (differences of S)."""
        layers = self.trace.layers
        by_row = self.cells.as_map(sets, len(layers), int(layers[0]))
        none = np.zeros((*by_row.shape[:2], 1), dtype=bool)
        by_row = np.concatenate([by_row, none], axis=2)  # row -1: no cell
        asked = {}
        for text, pair in enumerate(self.batch.example_of_patched.tolist()):
            n_columns = len(self.prepared.columns[text])
            asked[text] = by_row[:, :, self.columns_of[pair, :n_columns]]
        found = self.engine.patch_sets(self.prepared, asked, seed=self.seed, progress=progress)
        run, noising = self.batch.patched_pair, self.batch.noising
        if self.scorer is None:
            return effects_of_sets(found, run, np.where(noising, 1.0, -1.0), self.images)
        effects = np.empty((len(sets), len(run)))
        for number, one in found.items():
            clean, patched = (side.float().cpu().numpy() for side in (one.base[None], one.patched))
            for base in (0, 1):  # the run that is patched is the correct caption's, or the foil's
                members = np.flatnonzero((run == number) & (noising == (base == 0)))
                if len(members):
                    both = self.captions[:, members[0]].copy()
                    both[base] = clean
                    scores = self._scores(np.concatenate([both, patched]), members)
                    effects[:, members] = (1, -1)[base] * (scores[:, [base]] - scores[:, 2:]).T
        return effects

    @property
    def coarseness(self) -> float:
        """How much rounding moves S, beside a cosine."""
        return 1.0 if self.scorer is None else self.scorer.metric.floor / METRICS["cosine"].floor

    def _scores(
        self, texts: Float32[np.ndarray, "row embed"], members: Int[np.ndarray, " member"]
    ) -> Float[np.ndarray, "member row"]:
        """S of texts (the correct caption and the foil first) in some of the pairs."""
        targets = self.images[members]
        cosines = targets.astype(np.float64) @ texts.astype(np.float64).T
        return cosines if self.scorer is None else self.scorer(texts, 1, targets, cosines, self.used[members])

    def _check_scores(self, model: DualEncoder) -> None:
        """Refuse targets and candidates that give other scores than the trace has."""
        from ...patching.towers.spec import TOLERANCE

        members = np.arange(len(self.used))[:, None]
        scores = np.array([self._scores(self.captions[:, at[0]], at)[0] for at in members])  # [used, two]
        kept = np.stack([self.trace.scores.correct[self.used], self.trace.scores.foil[self.used]], axis=1)
        far = np.abs(scores - kept)
        # a trace in half precision has such scores, and any trace keeps them in float32
        rounded = float(np.finfo(np.float32).eps)
        allowed = 10 * max(TOLERANCE[self.engine.tower.dtype], TOLERANCE[model.text.dtype], rounded) * self.coarseness
        if (far > allowed).any():
            worst, side = np.unravel_index(int(far.argmax()), far.shape)
            what = "images or targets" if self.scorer is None else "images, targets and candidates"
            raise TraceError(
                f"pair {self.trace.ids[self.used[worst]]!r} has S = {kept[worst, side]:.4f} in the trace and "
                f"{scores[worst, side]:.4f} with what is given: give the {what} it was traced (or rescored) with"
            )


def effects_of_sets(
    found: Mapping[int, JointEmbeddings],
    run: Int[np.ndarray, " pair"],
    sign: Float[np.ndarray, " pair"],
    images: Float32[np.ndarray, "pair embed"],
) -> Float[np.ndarray, "set pair"]:
    """The numerator of CTE of every set of cells, in every pair (differences of cosines).

    run: which of the runs ``found`` each pair has. sign: of S_base - S.
    """
    effects = np.empty((len(next(iter(found.values())).patched), len(run)))
    for number, one in found.items():
        moved = (one.base - one.patched).double().cpu().numpy()
        members = np.flatnonzero(run == number)
        effects[:, members] = sign[members] * (moved @ images[members].astype(np.float64).T)
    return effects


def _options(trace: CausalTrace) -> TraceOptions:
    """The options that a trace was made with, as far as they say what a cell is.

    Raises:
        TraceError: cells that cannot be replaced together.
    """
    told = trace.provenance
    refused = {
        "window": (None, 1),
        "method": (None, "exact", "attribution"),
        "replace": (None, "foil", "zero"),
        "directions": (None,),
    }
    for name, fine in refused.items():
        if told.get(name) not in fine:
            words = ", ".join(repr(value) for value in fine if value is not None) or "not given"
            raise TraceError(
                f"this trace has {name}={shown(told[name])}, and sets of cells are patched together where {name} is "
                f"{words} only: trace again"
            )
    dtype = told.get("dtype")
    return TraceOptions(
        site=trace.site,
        positions=told.get("positions"),
        heads=told.get("heads"),
        direction=trace.direction,  # type: ignore[arg-type]
        replace=told.get("replace", "foil"),
        align="auto" if told.get("aligned") else "none",
        position_policy=told.get("aligned") or "shift",
        dtype=dtype,
    )


def _captions(model: DualEncoder, engine: JointEngine, pairs: Sequence[Pair]) -> Float32[np.ndarray, "two used embed"]:
    sides = (distinct([pair.correct for pair in pairs]), distinct([pair.foil for pair in pairs]))
    return np.stack([engine.encode(model.text.rows(texts)).float().cpu().numpy()[of_pair] for texts, of_pair in sides])


def _scorer(model: DualEncoder, trace: CausalTrace, among: Any) -> Scorer | None:
    """What made the trace's scores of its cosines, with the candidates given again.

    Raises:
        TraceError: the metric is not known here, or these are other candidates than the trace has.
    """
    told = dict(trace.provenance.get("metric") or {"name": "cosine"})
    name, count = trace.metric.name, told.get("candidates")
    if name not in METRICS:
        raise TraceError(
            f"the trace was scored by {name!r}, which is not registered in this process: call "
            f"tracescribe.tracer.register_metric, or score it by another, trace.rescore(metric='cosine')"
        )
    if (count is None) != (among is None):
        if count is None:
            raise TraceError(f"among={shown(among)}: this trace was scored by {name} without candidates")
        raise TraceError(
            f"the trace was scored by {name} among candidates that it does not keep: give them again (among=, "
            f"--among), or score it by the cosine, trace.rescore(metric='cosine')"
        )
    if name == "cosine":
        return None
    scorer = make_scorer(
        name,
        among,
        told.get("against", "caption"),
        told.get("logit_scale"),
        encode=text_encoder(model),
        ids=trace.ids,
        width=model.embed_dim,
        captions=trace.captions,
        targets=None,
    )
    if scorer.provenance.get("candidates") != count:
        raise TraceError(
            f"among= holds {scorer.provenance.get('candidates')} candidates, but the trace was scored among {count}: "
            f"give those"
        )
    return scorer


def _layers(trace: CausalTrace, layers: Sequence[int]) -> tuple[int, ...]:
    first, last = int(trace.layers[0]), int(trace.layers[-1])
    chosen: tuple[int, ...] = check_option("layers", layers, (Wholes(Whole(first, last)),))
    return chosen


def _chosen(
    trace: CausalTrace, used: Int[np.ndarray, " used"], pairs: Sequence[Pair] | None, targets: Any
) -> list[Pair]:
    """The pairs that enter the map, with their targets."""
    if pairs is None and targets is None and trace.target_embeddings is not None and trace.target is not None:
        targets = trace.target_embeddings[trace.target]
    if (pairs is None) == (targets is None):
        raise TraceError(
            "give either the traced pairs again (pairs=...), or, for captions that the trace keeps, what each is "
            "scored against (targets=..., [pair, embed]); neither for a trace that keeps its targets' embeddings"
        )
    if pairs is not None:
        given = as_pairs(pairs)
        if len(given) != trace.n_pairs:
            raise TraceError(
                f"the trace has {plural(trace.n_pairs, 'pair')}, but {len(given)} given: give those that were traced, "
                f"in its order"
            )
        for name, side in (("captions", "correct"), ("foil_captions", "foil")):
            kept = getattr(trace, name)
            for i in used.tolist() if kept is not None else ():
                if getattr(given[i], side) != kept[i]:
                    raise TraceError(
                        f"pair {trace.ids[i]!r} was traced with the {side} caption {shown(kept[i])}, not "
                        f"{shown(getattr(given[i], side))}: give the pairs of the trace, in its order"
                    )
        return [given[i] for i in used.tolist()]
    if trace.captions is None or trace.foil_captions is None:
        raise TraceError("this trace does not keep its captions: give the traced pairs (pairs=...)")
    rows = normalise_rows(targets, "targets")
    if len(rows) != trace.n_pairs:
        raise TraceError(f"{len(rows)} targets are given, but {trace.n_pairs} pairs were traced")
    negated: Any = trace.negated or [None] * trace.n_pairs
    return [
        Pair(
            correct=trace.captions[i],
            foil=trace.foil_captions[i],
            image=rows[i],
            id=trace.ids[i],
            negation=negated[i] or None,
        )
        for i in used.tolist()
    ]

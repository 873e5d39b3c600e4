"""The result of causal tracing: scores of every patched sequence, with all that is needed to redo the statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8, Int64

from ...arguments import explains_arguments
from ...io.quoting import plural
from ...validation import Number, check_option
from ..pairs.directions import DIRECTIONS
from ..pairs.roles import TokenKind
from .maps import Excess, LayerProfile, TraceMap
from .metrics import Metric, metric_of
from .read_only import ReadOnlyArrays, read_only, set_array
from .validation import check_trace
from .views import TraceViews

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from ..choices import Against

__all__ = ["CausalTrace", "Scores"]


@dataclass(frozen=True, eq=False)
class Scores(ReadOnlyArrays):
    """S of the correct caption, of the foil and of every patched run: cosines with the pair's image, or another metric.

    patched: NaN outside a pair's tokens. Layer 0 is the embedding output, layer l the output of block l. The last axis
        is the tokens, or what :attr:`CausalTrace.columns` names.
    """

    correct: Float32[np.ndarray, "pair"]
    foil: Float32[np.ndarray, "pair"]
    patched: Float32[np.ndarray, "pair layer token"]

    def __post_init__(self) -> None:
        for name, ndim in (("correct", 1), ("foil", 1), ("patched", 3)):
            set_array(self, name, np.float32, ndim)


@dataclass(frozen=True, eq=False)
class CausalTrace(TraceViews, ReadOnlyArrays):
    """Causal tracing effects of caption pairs: which layer and token carry what tells correct from foil.

    With direction "foil->correct" (NAST, arXiv 2602.12498: states of the foil are put into the correct caption's run)
    CTE(l, p) = (S_corr - S(l, p)) / (S_corr - S_foil); with "correct->foil" CTE = (S(l, p) - S_foil) /
    (S_corr - S_foil); "negated->affirmative" chooses pair by pair, so that the negated caption's states always go in.
    1 = this one state decides the whole difference, 0 = it changes nothing.

    tokens, foil_tokens: token strings of both captions, as the tokenizer writes them, special tokens included.
    differs: True where the two captions' token ids differ.
    kinds: a :class:`TokenKind` per position.
    text_pair: number of the pair's (deduplicated) two captions; several images may share them.
    columns: names of the last axis of the scores where it is not the tokens: heads, or one set of tokens.
    noising: True where the foil's states are put into the correct caption's run, with "negated->affirmative".
    groups: cluster of each pair for the bootstrap, e.g. the patient.
    named: whether the user named each pair's cluster, by ``group`` or ``id``; others have a number, which says nothing
        of another trace's pair of that number. None: those whose names are no numbers.
    captions, foil_captions: both captions of each pair (of pairs of images, the caption; "" for an embedding).
    attributes, templates, negated: what each pair says of itself, "" where it does not: what was changed, the sentence
        pattern, and which caption is negated ("correct" or "foil"). None: no pair says it.
    provenance: model, weights, site, direction, floor, versions, ...: everything JSON can hold.
    embeddings: patched text embeddings of length 1; with the two unpatched ones they give :meth:`rescore`.
    target_embeddings, target: distinct targets of length 1, and which each pair is judged by; kept with the embeddings.
    """

    scores: Scores
    tokens: tuple[tuple[str, ...], ...]
    foil_tokens: tuple[tuple[str, ...], ...]
    differs: Bool[np.ndarray, "pair token"]
    kinds: Int8[np.ndarray, "pair token"]
    text_pair: Int64[np.ndarray, "pair"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    embeddings: Float[np.ndarray, "text_pair layer token embed"] | None = None
    correct_embeddings: Float32[np.ndarray, "text_pair embed"] | None = None
    foil_embeddings: Float32[np.ndarray, "text_pair embed"] | None = None
    target_embeddings: Float32[np.ndarray, "target embed"] | None = None
    target: Int64[np.ndarray, "pair"] | None = None
    columns: tuple[str, ...] | None = None
    noising: Bool[np.ndarray, "pair"] | None = None
    named: Bool[np.ndarray, "pair"] | None = None
    captions: tuple[str, ...] | None = None
    foil_captions: tuple[str, ...] | None = None
    attributes: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    negated: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, dtype, ndim in (("differs", np.bool_, 2), ("kinds", np.int8, 2), ("text_pair", np.int64, 1)):
            set_array(self, name, dtype, ndim)
        embeddings = {"embeddings": 4, "correct_embeddings": 2, "foil_embeddings": 2, "target_embeddings": 2}
        given = [(name, None, ndim) for name, ndim in embeddings.items()]
        for name, kind, axes in (*given, ("noising", np.bool_, 1), ("named", np.bool_, 1), ("target", np.int64, 1)):
            if getattr(self, name) is not None:
                set_array(self, name, kind, axes)
        object.__setattr__(self, "provenance", dict(self.provenance))
        check_trace(self)

    # -- what was traced ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return len(self.ids)

    @property
    def n_layers(self) -> int:
        """L, the number of blocks; maps of the residual stream have L + 1 layers, those of other sites L."""
        return int(self.layers[-1])

    @property
    def site(self) -> str:
        """Which activation was replaced: "resid", "attn", "mlp", "z", ...; see :mod:`tracescribe.patching.sites`."""
        return self.provenance.get("site", "resid")

    @property
    def layers(self) -> Int[np.ndarray, "layer"]:
        """0 (embedding output), 1, ..., L (output of the last block); other sites than "resid" have no layer 0."""
        first = int(self.provenance.get("first_layer", 0))
        return np.arange(first, first + self.scores.patched.shape[1])

    @property
    def direction(self) -> str:
        """Whose states are put into whose run.

        "foil->correct" (noising, NAST), "correct->foil" (denoising) or "negated->affirmative" (Quantmeyer et al.).
        """
        return self.provenance.get("direction", DIRECTIONS[0])

    @property
    def _noising(self) -> Bool[np.ndarray, "pair"]:
        return np.full(self.n_pairs, self.direction == DIRECTIONS[0]) if self.noising is None else self.noising

    @property
    def floor(self) -> float:
        """Smallest |S_corr - S_foil| of a valid pair, in the unit of S."""
        return float(self.provenance.get("floor", self.metric.floor))

    @property
    def metric(self) -> Metric:
        """What S is: cosine, rank among candidates, ...; see :mod:`tracescribe.tracer.results.metrics`."""
        return metric_of(self.provenance)

    @cached_property
    def inside(self) -> Bool[np.ndarray, "pair token"]:
        """True at a pair's tokens that can be patched; everywhere where the last axis is not the tokens."""
        if self.columns is not None:
            return read_only(np.ones((self.n_pairs, len(self.columns)), dtype=bool))
        return read_only((self.kinds != TokenKind.OUTSIDE) & (self.kinds != TokenKind.UNMATCHED))

    # -- derived numbers ----------------------------------------------------------------------------------------

    @cached_property
    def denominator(self) -> Float[np.ndarray, "pair"]:
        """S_corr - S_foil, in float64."""
        return read_only(self.scores.correct.astype(np.float64) - self.scores.foil.astype(np.float64))

    @property
    def valid(self) -> Bool[np.ndarray, "pair"]:
        """Pairs with |S_corr - S_foil| >= floor, whose CTE is defined."""
        return np.abs(self.denominator) >= max(self.floor, np.finfo(np.float64).tiny)

    @property
    def segment(self) -> np.ndarray:
        """By 100 (S_corr - S_foil) per pair: "incorrect" below -1, "ambiguous" below 1, else "correct".

        Source: Quantmeyer, Mosteiro, Gatt 2024 (arXiv 2407.10488). The scale is 100 whatever the model's logit scale.
        Of other metrics than cosines, 1 over their ``unit``.
        """
        margin = 1 / self.metric.unit * self.denominator
        return np.select([margin < -1, margin < 1], ["incorrect", "ambiguous"], default="correct")

    @property
    def share_inverted(self) -> float:
        """Share of all pairs with S_corr <= S_foil: the model does not prefer the correct caption."""
        return float(np.mean(self.denominator <= 0))

    @explains_arguments
    def effect(self, pairs: Int[np.ndarray, "used"] | slice = slice(None)) -> Float[np.ndarray, "used layer token"]:
        """The numerator of CTE (a difference of S), in float64; NaN outside a pair's tokens."""
        patched, noising = self.scores.patched[pairs].astype(np.float64), self._noising[pairs]
        base = np.where(noising, self.scores.correct[pairs], self.scores.foil[pairs]).astype(np.float64)
        return np.where(noising, 1.0, -1.0)[:, None, None] * (base[:, None, None] - patched)

    @cached_property
    def cte(self) -> Float32[np.ndarray, "pair layer token"]:
        """Causal tracing effect; NaN outside a pair's tokens and for pairs that are not valid."""
        denominator = np.where(self.valid, self.denominator, np.nan)
        return read_only((self.effect() / denominator[:, None, None]).astype(np.float32))

    # -- statistics ---------------------------------------------------------------------------------------------

    @explains_arguments
    def map(
        self,
        align: str = "role",
        reduce: str = "ratio_of_means",
        segment: str | None = None,
        ci: float | None = None,
        n_boot: int = 1000,
        seed: int = 0,
    ) -> TraceMap:
        """CTE by layer and token row, over pairs; with ``ci`` an interval of every cell, as :meth:`per_layer` has it.

        align: what a row is, see :func:`tracescribe.tracer.pairs.roles.assign_rows`. A row of several tokens is their
            mean, weighted by the number of tokens when pairs are combined.
        reduce: "ratio_of_means" (sum of effects over sum of denominators; small denominators do no harm),
            "mean_of_ratios" or "median" of the pairs' CTE.
        segment: None = the valid pairs with S_corr > S_foil, or, with a TraceWarning, those with S_corr < S_foil if
            there are no others; "correct", "ambiguous", "incorrect" (see :attr:`segment`) or "all" choose among the
            valid pairs. With "all", ratio_of_means mixes denominators of both signs, which may nearly cancel.

        Raises:
            DegenerateTraceError: no such pair.
        """
        from .profiles import trace_map

        return trace_map(self, align, reduce, segment, ci, n_boot, seed)

    @explains_arguments
    def per_layer(
        self,
        aggregate: str = "sum",
        ci: float | None = 0.95,
        n_boot: int = 1000,
        seed: int = 0,
        reduce: str = "ratio_of_means",
        segment: str | None = None,
        align: str | None = None,
    ) -> LayerProfile:
        """One CTE per layer with a percentile interval from resampling (None where all pairs are of one cluster).

        Clusters (``group``, e.g. patients) are resampled, and texts too where one text occurs in several clusters; few
        of either widen the interval as a t interval's. See :mod:`tracescribe.tracer.results.resampling`.

        aggregate: "sum", "max", "mean" or (population) "std" over a layer's tokens. NAST does not publish its
            operator; the sum reproduces its finding (layers 1-4, peak at 2) on Quantmeyer's published maps. With
            align=None also "differing": the sum over the differing tokens; "pooled": the token that the readout reads;
            "std_from_differing": the standard deviation from the first differing token on, which the authors' plotting
            script draws under its map.
        align: None aggregates each pair's own tokens and then combines pairs, weighted by their denominators under
            ratio_of_means; "role", "quantmeyer" or "position" combine pairs row by row first, as :meth:`map` does.
        """
        from .profiles import layer_profile

        return layer_profile(
            self, aggregate=aggregate, ci=ci, n_boot=n_boot, seed=seed, reduce=reduce, segment=segment, align=align
        )

    @explains_arguments
    def split_half(
        self,
        seed: int = 0,
        n_splits: int = 20,
        align: str = "role",
        reduce: str = "ratio_of_means",
        segment: str | None = None,
        by: Literal["group", "text"] = "group",
    ) -> float:
        """Mean correlation between the maps of two random halves: 1 = the map is not noise.

        by: what is in one half only: a "group" (patient), or a "text" (the two captions). Halves of patients have the
        same few texts, and agree on what is particular to these.

        Raises TraceError: fewer than 2 groups, or texts; or an option that is none.
        """
        from .profiles import split_half

        return split_half(self, seed=seed, n_splits=n_splits, align=align, reduce=reduce, segment=segment, by=by)

    @explains_arguments
    def control(self, other: CausalTrace) -> Excess:
        """What this trace shows beyond a control trace of the same model."""
        return Excess(self, other)

    # -- other traces from this one -----------------------------------------------------------------------------

    def __iter__(self) -> Iterator[CausalTrace]:
        """The trace of each pair, in order."""
        return map(self.select, range(self.n_pairs))

    def __getitem__(self, pairs: Any) -> CausalTrace:
        """The trace of some pairs: by place (-1 is the last), slice, boolean mask, list of places, id, or list of ids.

        Raises:
            TraceError: no such pair, no pair at all, or something else; cells are in ``trace.cte[pair, layer, token]``.
        """
        from .select import indexed

        return indexed(self, pairs)

    def by(self, field: Literal["attribute", "template", "negated", "group"]) -> dict[str, CausalTrace]:
        """The trace split by what its pairs say of themselves; in the order in which the values come first.

        Pairs that do not say it are under "".

        Raises:
            TraceError: no such field, or no pair says it.
        """
        from .select import split

        return split(self, field)

    @explains_arguments
    def select(
        self,
        pairs: Any = None,
        *,
        ids: str | Iterable[str] | None = None,
        attribute: str | Iterable[str] | None = None,
        template: str | Iterable[str] | None = None,
        negated: str | None = None,
    ) -> CausalTrace:
        """The trace of some pairs; those that all conditions hold for. Text pairs that none of them uses are dropped.

        pairs: a boolean mask, or indices.
        ids, attribute, template: one name or several, of which a pair has one.
        negated: "correct" or "foil": which caption holds the negation.

        Raises:
            TraceError: a mask of another length, an index out of range, a name that no pair has, or no pair at all.
        """
        from .select import selected

        return selected(self, pairs, ids=ids, attributes=attribute, templates=template, negated=negated)

    @explains_arguments
    def with_floor(self, floor: float) -> CausalTrace:
        """The same scores with another smallest |S_corr - S_foil| for valid pairs."""
        floor = check_option("floor", floor, (Number(0),))
        return replace(self, provenance={**self.provenance, "floor": floor})

    @explains_arguments
    def rescore(
        self,
        image_embeddings: Any = None,
        text_pair: Any = None,
        groups: Sequence[str] | None = None,
        *,
        metric: str | Callable[..., Any] | None = None,
        candidates: Any = None,
        against: Against = "caption",
        logit_scale: float | None = None,
        model: DualEncoder | None = None,
    ) -> CausalTrace:
        """The trace with other images, or another score, and no new forward pass: patched texts depend on neither.

        image_embeddings: [n, embed], of any length > 0; None: the targets that the trace has.
        text_pair: [n], which of the text pairs each image is for; None = one image for each pair, in order; "each" =
            every text pair with every image, one text pair after another.
        groups: the pairs' bootstrap clusters; None = those they have if ``text_pair`` is None, else the image each is
            judged by (pairs with equal images are no independent observations).
        metric, candidates, against, logit_scale: as in :func:`tracescribe.trace`; None: the trace's own metric. Lists
            of candidates go by the new trace's pairs. Another metric has its own floor.
        model: encodes candidates that are texts; the model that was traced.

        Raises:
            TraceError: the trace holds no embeddings, or shapes do not fit; an option without a meaning; another model.
            DataFormatError: candidates that do not fit.
            NonFiniteError: an image embedding holds NaN or infinity, or is 0.

        >>> import tracescribe as ts
        >>> model = ts.load("phantom")
        >>> clear = ts.Text("The lungs are clear.")
        >>> pairs = [
        ...     ts.Pair(correct=f"There is no {what}.", foil=f"There is severe {what}.", image=clear, id=what)
        ...     for what in ("opacity", "effusion")
        ... ]
        >>> trace = ts.trace(model, pairs, progress=False)
        >>> films = model.encode_texts(["The lungs are clear.", "The heart is large."])
        >>> every = trace.rescore(films, text_pair="each")
        >>> every.ids, every.groups
        (('opacity/0', 'opacity/1', 'effusion/0', 'effusion/1'), ('0', '1', '0', '1'))
        >>> others = ["There is no effusion.", "There is no nodule."]
        >>> among = trace.rescore(metric="rank", candidates=others, model=model)
        >>> among.scores.correct, among.metric.name
        (array([-3., -2.], dtype=float32), 'rank')
        """
        from .rescore import rescored

        return rescored(self, image_embeddings, text_pair, groups, metric, candidates, against, logit_scale, model)

    def __repr__(self) -> str:
        cells = f"{self.kinds.shape[1]} tokens" if self.columns is None else f"{len(self.columns)} columns"
        pairs = plural(self.n_pairs, "pair")
        return f"CausalTrace({pairs}, layers {self.layers[0]}..{self.layers[-1]}, {cells}, {self.site})"

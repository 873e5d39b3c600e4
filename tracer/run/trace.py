"""Causal tracing: patches every layer and token of every pair, and scores the results against the pair's target."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float32

from ...arguments import explains_arguments
from ..choices import Against
from ..pairs.batch import PairBatch
from ..pairs.directions import Direction
from ..pairs.pairs import Pair, Text
from ..pairs.targets import Targets, encode_targets
from ..results.candidates import text_encoder
from ..results.causal_trace import CausalTrace
from ..results.metrics import METRICS
from ..results.scorer import Scorer, make_scorer
from .assembled import assembled
from .attribution import attribute
from .collector import Collector
from .options import Align, Method, PatchPath, PositionPolicy, Replace, TraceOptions
from .prepared import prepare
from .progress import ProgressCallback, progress_bar
from .provenance import trace_provenance

if TYPE_CHECKING:
    import torch

    from ...patching import DualEncoder
    from .options import Heads, Keep, Positions

__all__ = ["WatchMap", "fill_cache", "run_trace", "trace"]

WatchMap = Callable[[int, Float32[np.ndarray, "layer column"]], None]


@explains_arguments
def trace(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    site: str = TraceOptions.site,
    positions: Positions | None = TraceOptions.positions,
    heads: Heads = TraceOptions.heads,
    window: int = TraceOptions.window,
    align: Align = TraceOptions.align,
    position_policy: PositionPolicy = TraceOptions.position_policy,
    direction: Direction = TraceOptions.direction,
    replace: Replace = TraceOptions.replace,
    queries: Positions | None = TraceOptions.queries,
    pool: Sequence[str] | None = TraceOptions.pool,
    donors: int = TraceOptions.donors,
    directions: Any = TraceOptions.directions,
    method: Method = TraceOptions.method,
    steps: int = TraceOptions.steps,
    exact_sample: int = TraceOptions.exact_sample,
    through_mlps: bool = TraceOptions.through_mlps,
    path: PatchPath = TraceOptions.path,
    batch_size: int | Literal["auto"] = TraceOptions.batch_size,
    dtype: torch.dtype | str | None = TraceOptions.dtype,
    floor: float | None = TraceOptions.floor,
    metric: str | Callable[..., Any] = TraceOptions.metric,
    candidates: Any = TraceOptions.candidates,
    against: Against = TraceOptions.against,
    logit_scale: float | None = TraceOptions.logit_scale,
    memory: int = TraceOptions.memory,
    keep_embeddings: Keep = TraceOptions.keep_embeddings,
    seed: int = TraceOptions.seed,
    cache: str | os.PathLike[str] | None = TraceOptions.cache,
    progress: bool | ProgressCallback = True,
) -> CausalTrace:
    """Trace the causal effect of every layer and token of each pair's captions on its similarity with its image.

    For every layer l (0 = embedding output) and token p the foil's hidden state replaces the correct caption's, and
    CTE(l, p) = (S_corr - S(l, p)) / (S_corr - S_foil) (NAST, arXiv 2602.12498). Pairs that share their captions are
    patched once; every further image costs one matrix product.

    Args:
        model: from :func:`tracescribe.load` or :func:`tracescribe.wrap`.
        pairs: :class:`Pair` objects, or mappings with their fields; their ``image`` is a path, a PIL image, a
            precomputed embedding, or ``ts.Text`` for a text as the target.
        site: which activation is replaced. "resid" is the residual stream from layer 0 on, the paper's site;
            "resid_pre", "resid_mid", "resid_post" are its states in each block; "attn" and "mlp" what the two halves of
            a block add to it; "neurons" the activations inside the MLP (all of a token together; for single ones see
            :func:`neurons`); "z", "q", "k", "v" (by head) and "pattern" (rows of the attention pattern).
        positions: "each" token by itself (default), or one set that is replaced together: "all", "differing", "from the
            first differing", a role such as "[end]", or token numbers. The result's last axis is then ``columns``.
        heads: one head, or "each" (or several) for a map of layer × head; at "z", "q", "k", "v" and "pattern".
        window: layers replaced together, centred on the layer as in ROME (arXiv 2202.05262).
        align: "none": a pair's captions must have equally many tokens; "auto": others are aligned by their common runs
            of tokens (:func:`tracescribe.patching.align_rows`), a token without counterpart is not patched, and the
            result is marked as aligned. Layer sums of such pairs lack what these tokens carry.
        position_policy: with "auto", "shift": the donor's states carry the position embeddings of their own places;
            "keep": the donor is run with those of the places that its states are put in.
        direction: "foil->correct" puts the foil's states into the correct caption's run (the paper's); "correct->foil"
            the other way round, CTE then being the share of the difference that is restored; "negated->affirmative"
            always puts the negated caption's states into the other one (Quantmeyer et al. 2024), pair by pair.
        replace: what goes into the base run. "foil": the states of the pair's other caption (the paper's). "zero":
            zeros; "mean": the mean over a pool of captions with as many tokens, position by position; "resample": the
            states of captions drawn from the pool (Chan et al. 2022, "Causal scrubbing"). S_corr and S_foil stay those
            of the pair's captions, so that CTE counts an ablation in units of their difference; what is exactly 0 or 1
            with the foil's states need not be. "cut", with site "edges": nothing goes in, but attention from
            ``queries`` to the column's tokens is masked before the softmax (Geva et al. 2023, arXiv 2304.14767), in all
            heads or in ``heads``; a query is never left without a key, its own stays where a cut would take all.
        queries: with "cut", the tokens whose attention is cut, as ``positions`` names them; "all" by default.
        pool: captions for "mean" and "resample"; by default all captions of the pairs.
        donors: with "resample", how many captions are drawn for each pair (by ``seed``, never its own two); the scores
            are averaged over them.
        directions: [k, d_model] of the state, such as principal components, a probe's weight or columns of a sparse
            autoencoder's decoder: only the component in their span is replaced, h + (h' - h) P with the orthogonal
            projection P onto it. At sites without heads, without windows.
        method: "exact": every cell is a real replacement. "attribution": gradient × difference, a whole map from a few
            passes, with its agreement with the exact map on ``exact_sample`` text pairs in ``provenance["agreement"]``
            and ``summary()`` (see :mod:`.attribution`). "direct": real replacements whose effect reaches the readout
            along the residual stream only (path patching; see :class:`tracescribe.patching.DirectEngine`).
        steps: with "attribution", gradients between base and donor that are averaged (integrated gradients); 1: the
            base's own.
        exact_sample: with "attribution", how many text pairs' exact maps are run as well, to measure the agreement; 0:
            none, and the result says that it was not compared.
        through_mlps: with "direct", later MLPs recompute and only attention is held still.
        path: "resume" runs only what a patch can change; "generic" runs every cell from the start; the numbers agree.
            "auto" resumes where the tower allows it. The path that was used is in the result.
        batch_size: text pairs per batch; "auto" chooses by size and ``memory``. A batch is run, and cached, as a whole.
        dtype: precision of the text tower's passes, its own by default; TF32 is never used in float32 passes, and
            scores are summed in float64, or from 256 images of a text pair on in float32 as differences from the
            correct caption's, which is as exact (:class:`tracescribe.tracer.results.scoring.TextMap`).
        floor: pairs with |S_corr - S_foil| below it are not valid: their CTE is NaN. Cosines are exact to about 1e-7,
            so that at the default floor, 1e-4, rounding moves a CTE by 0.001; other metrics have floors to match.
            Whether a difference *means* something is what ``segment`` says.
        metric: what S is: "cosine"; "distance"; "margin", "log_probability", "probability" or "rank" of the caption
            among candidates; or a function that :func:`tracescribe.tracer.register_metric` gave a name. See
            :mod:`tracescribe.tracer.results.metrics` for each definition. A rank that no foil changes leaves a pair
            without a denominator, and not valid. The cache holds embeddings and serves every metric.
        candidates: what the caption competes with: texts or embeddings [n, embed] that all pairs share, a list of them
            per pair, a mapping of pairs' ids to such lists, or a file (.txt, .jsonl); None: the pair's foil alone. A
            candidate that is the pair's own correct caption is left out: the caption scored stands in its place.
        against: "caption": candidates are captions, for the pair's target (multiple choice, claims); "target":
            candidates are targets, for the pair's caption (a retrieval pool), given as embeddings or as target texts.
        logit_scale: factor of the cosines in probabilities; the model's own by default.
        memory: bytes that tracing may take beside the model and the scores: half for the passes of one batch, half for
            the embeddings that "auto" keeps in memory.
        keep_embeddings: keep the patched embeddings, so that :meth:`CausalTrace.rescore` works: True in memory; "auto"
            in memory if they fit, else in a nameless file of the cache folder, else not, with a TraceWarning.
        seed: which cells are checked against the generic path.
        cache: a folder that keeps the embeddings of every traced text pair, whatever its images: what was traced before
            (same weights, captions, cells, precision, versions) is not traced again, and a stopped run goes on where
            it was stopped, to the same bytes. Any number of processes may use one folder; see docs/files.md.
        progress: a bar on a terminal or in a notebook, or a callback ``(done, total)`` over text pairs.

    Raises:
        TraceError: an option that is not allowed or has no meaning beside the others; a pair without ``negation`` in
            direction "negated->affirmative".
        SiteError: the tower has no such site, head or position.
        LengthMismatchError, IdenticalPairError, ContextOverflowError: a pair's captions cannot be traced.
        DataFormatError: no pairs, or an image that is missing or broken.
        DegenerateTraceError: no pair reaches the floor.
        NonFiniteError, PatchDidNotFireError, TowerMismatchError: the engine's own checks failed.
        StaleCacheError: ``cache`` is a file, another kind of folder, or a cache of another version.
        OutputError: ``cache`` cannot be written.
        TraceInterrupted: Ctrl-C; says how many text pairs are in the cache.

    >>> import tracescribe as ts
    >>> model = ts.load("phantom")
    >>> pair = ts.Pair(
    ...     correct="There is no opacity.", foil="There is severe opacity.", image=ts.Text("The lungs are clear.")
    ... )
    >>> trace = ts.trace(model, [pair], progress=False)
    >>> trace.cte.shape, trace.tokens[0][3], trace.foil_tokens[0][3]
    ((1, 9, 8), 'no', 'severe')
    >>> float(trace.cte[0, 0, 3]), float(trace.cte[0, 8, 7])  # exactly 1 by construction
    (1.0, 1.0)
    """
    return run_trace(model, pairs, TraceOptions.given(locals()), progress)


def run_trace(
    model: DualEncoder,
    pairs: Sequence[Pair],
    options: TraceOptions,
    progress: bool | ProgressCallback = True,
    watch: WatchMap | None = None,
) -> CausalTrace:
    """:func:`trace` with its options as one object.

    watch: called with the number of a patched pair and its scores so far, as the first of its pairs has them; what it
        raises ends the trace. See :meth:`tracescribe.patching.PatchingEngine.run`.
    """
    prepared = prepare(model, pairs, options)
    batch = prepared.batch
    targets = encode_targets(model, batch.images, batch.ids)
    scorer = _scorer(model, batch, options)
    if watch is not None:
        prepared = replace(prepared, shards=replace(prepared.shards, watch=_scored(watch, batch, targets)))
    provenance = trace_provenance(model, batch, targets)
    with progress_bar(progress, prepared.shards.n_texts()) as advance:
        if options.method == "attribution":
            attribution = attribute(model.text, prepared, targets, options, advance)
            measured = attribution.provenance
            found: dict[str, Any] = {"scores": attribution.scores}
        else:
            measured = {"path": prepared.shards.prepared.path, **prepared.replacement.recorded}
            by_cosine = options.metric == "cosine"
            keep = Collector(
                batch, targets, prepared.n_columns, options, prepared.shards.store, None if by_cosine else scorer
            )
            for shard, embeddings in prepared.finished(advance):
                keep.add(shard, embeddings)
            found = {"scores": keep.scores, **keep.embeddings()}
    return assembled(
        batch,
        options,
        scorer.metric.floor,
        {**provenance, **measured, "metric": scorer.provenance, "dtype": prepared.dtype},
        columns=prepared.names,
        **found,
    )


def _scored(watch: WatchMap, batch: PairBatch, targets: Targets) -> Callable[[list[int], torch.Tensor], None]:
    """From patched embeddings to the scores that ``watch`` takes."""
    rows, first = targets.of_pairs, batch.example_of_patched

    def show(members: list[int], cells: torch.Tensor) -> None:
        embeddings = cells.float().cpu().numpy()
        for number, of_pair in zip(members, embeddings, strict=True):
            watch(number, (of_pair.astype(np.float64) @ rows[first[number]]).astype(np.float32))

    return show


def _scorer(model: DualEncoder, batch: PairBatch, options: TraceOptions) -> Scorer:
    scale = options.logit_scale
    if scale is None and METRICS[options.metric].scaled:
        scale = model.stated_logit_scale
    return make_scorer(
        options.metric,
        options.candidates,
        options.against,
        scale,
        encode=text_encoder(model),
        ids=batch.ids,
        width=model.embed_dim,
        captions=[pair.correct for pair in batch.pairs],
        targets=[image.text if isinstance(image, Text) else "" for image in batch.images],
    )


def fill_cache(
    model: DualEncoder,
    pairs: Sequence[Pair],
    options: TraceOptions,
    share: tuple[int, int],
    progress: bool | ProgressCallback = True,
) -> None:
    """Trace one process's share of the text pairs into ``options.cache``, for :func:`trace` to read.

    share: (i, n) for process i of n. The shares do not overlap, and together they are what one process would do, so
        that the result does not depend on n, to the last bit where every process uses as many threads.
    pairs: they need no images.
    """
    shards = prepare(model, pairs, options).shards
    with progress_bar(progress, shards.n_texts(share)) as advance:
        for _ in shards.finished(advance, share):
            pass

"""Causal tracing: patch every layer and token of every pair, score against its image, and keep what statistics need."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache as once
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Bool

from ...errors import DegenerateTraceError, TraceError
from ...validation import check_choice
from ..pairs.batch import PairBatch, as_pairs, make_batch
from ..pairs.descriptions import descriptions
from ..pairs.pairs import Pair
from ..pairs.targets import Targets, encode_targets
from ..results.causal_trace import CausalTrace
from .attribution import attribute
from .cache import Store
from .cache_keys import pair_keys
from .collector import Collector, Keep
from .columns import Heads, Positions, select_columns
from .shards import ProgressCallback, Units, show_progress

if TYPE_CHECKING:
    import torch

    from ...patching import Direction, DualEncoder, PatchPath, PositionPolicy

# |S_corr - S_foil| (cosine) below which CTE is not defined. The scores are exact to about 1e-7, so that at the floor
# rounding moves a CTE by 0.001; whether a difference *means* something is what `segment` says.
FLOOR = 1e-4

Method = Literal["exact", "attribution", "direct"]
MEMORY = 2**30  # bytes: half for the passes of one batch, half for the embeddings that are kept


def trace(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    site: str = "resid",
    positions: Positions | None = None,
    heads: Heads = None,
    window: int = 1,
    align: Literal["none", "auto"] = "none",
    position_policy: PositionPolicy = "shift",
    direction: Direction = "foil->correct",
    method: Method = "exact",
    steps: int = 1,
    exact_sample: int = 4,
    through_mlps: bool = False,
    path: PatchPath = "auto",
    batch_size: int | Literal["auto"] = "auto",
    dtype: torch.dtype | None = None,
    floor: float = FLOOR,
    memory: int = MEMORY,
    keep_embeddings: Keep = "auto",
    progress: bool | ProgressCallback = True,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
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
            a block add to it; "z", "q", "k", "v" (by head) and "pattern" (rows of the attention pattern).
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
        method: "exact": every cell is a real replacement. "attribution": gradient × difference, a whole map from a few
            passes, with its agreement with the exact map on ``exact_sample`` text pairs in ``provenance["agreement"]``
            and ``summary()`` (see :mod:`.attribution`). "direct": real replacements whose effect reaches the readout
            along the residual stream only (path patching; see :class:`tracescribe.patching.DirectEngine`).
        steps: with "attribution", gradients between base and donor that are averaged (integrated gradients); 1: the
            base's own.
        through_mlps: with "direct", later MLPs recompute and only attention is held still.
        path: "resume" runs only what a patch can change; "generic" runs every cell whole; the numbers agree. "auto"
            resumes where the tower allows it. The path that was used is in the result.
        batch_size: text pairs a batch; "auto" chooses by size and ``memory``. A batch is run, and cached, as a whole.
        dtype: precision of the text tower's passes, its own by default; TF32 is never used in float32 passes, and
            scores are summed in float64, or from 256 images of a text pair on in float32 as differences from the
            correct caption's, which is as exact (:class:`tracescribe.tracer.results.scoring.TextMap`).
        floor: pairs with |S_corr - S_foil| (cosine) below it are not valid: their CTE is NaN.
        memory: bytes that tracing may take beside the model and the scores: half for the passes of one batch, half for
            the embeddings that "auto" keeps in memory.
        keep_embeddings: keep the patched embeddings, so that :meth:`CausalTrace.rescore` works: True in memory; "auto"
            in memory if they fit, else in a nameless file of the cache folder, else not, with a TraceWarning.
        progress: a bar on a terminal or in a notebook, or a callback ``(done, total)`` over text pairs.
        seed: which cells are checked against the generic path.
        cache: a folder that keeps the embeddings of every traced text pair, whatever its images: what was traced before
            (same weights, captions, cells, precision, versions) is not traced again, and a stopped run goes on where
            it was stopped, to the same bytes. Any number of processes may use one folder; see docs/files.md.

    Raises:
        SiteError, TraceError: the tower has no such site, head, position or window.
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
    from ...patching import AttributionEngine

    run = _prepare(
        model,
        pairs,
        site=site,
        positions=positions,
        heads=heads,
        window=window,
        align=align,
        position_policy=position_policy,
        direction=direction,
        method=method,
        steps=steps,
        through_mlps=through_mlps,
        path=path,
        batch_size=batch_size,
        dtype=dtype,
        memory=memory,
        seed=seed,
        cache=cache,
    )
    batch, prepared = run.batch, run.units.prepared
    targets = encode_targets(model, batch.images, batch.ids)
    measured: dict[str, Any] = {"path": prepared.path, "tf32": False}
    with show_progress(progress, len(prepared.columns)) as advance:
        if method == "attribution":
            attribution = attribute(
                AttributionEngine(model.text, dtype=dtype),
                *(batch.base, batch.donor, targets.of_pairs, batch.text_pair, run.inside, batch.noising),
                sweep=prepared.sweep,
                columns=prepared.columns,
                steps=steps,
                exact_sample=exact_sample,
                seed=seed,
                batch_size=batch_size,
                progress=advance,
            )
            measured |= attribution.provenance
            found: dict[str, Any] = {"scores": attribution.scores}
        else:
            by_text, n_columns = batch.noising[batch.first_pairs], [len(own) for own in prepared.columns]
            keep = Collector(
                targets, batch.text_pair, n_columns, by_text, keep_embeddings, memory // 2, run.units.store
            )
            for unit, shard in run.units.finished(advance):
                keep.add(unit, shard)
            found = {"scores": keep.scores, **keep.embeddings()}
    result = CausalTrace(
        tokens=batch.tokens,
        foil_tokens=batch.foil_tokens,
        differs=batch.differs,
        kinds=batch.kinds,
        text_pair=batch.text_pair,
        ids=batch.ids,
        groups=batch.groups,
        provenance=_provenance(model, batch, targets)
        | {
            "site": prepared.sweep.site.name,
            "first_layer": prepared.sweep.site.first_layer,
            "positions": _named(positions),
            "heads": _named(heads),
            "window": window,
            "aligned": position_policy if align == "auto" else None,
            "direction": direction,
            "method": method,
            "steps": steps if method == "attribution" else None,
            "through_mlps": through_mlps if method == "direct" else None,
            "dtype": run.dtype,
            "floor": float(floor),
            "seed": seed,
            **measured,
        },
        columns=run.names,
        noising=batch.noising if direction == "negated->affirmative" else None,
        **descriptions(batch.pairs),
        **found,
    )
    if not result.valid.any():
        raise DegenerateTraceError(
            f"none of the {len(batch.pairs)} pairs can be traced: the largest |S_corr - S_foil| is "
            f"{np.abs(result.denominator).max():.1e}, below the floor {floor:g}, so that the image does not tell the "
            f"two captions apart; use other images or pairs, or lower floor="
        )
    return result


def fill_cache(
    model: DualEncoder,
    pairs: Sequence[Pair],
    cache: str | os.PathLike[str],
    share: tuple[int, int],
    progress: bool | ProgressCallback = True,
    **options: Any,
) -> None:
    """Trace one process's share of the text pairs into a cache, for :func:`trace` to read.

    share: (i, n) for process i of n. The shares do not overlap, and together they are what one process would do, so
        that the result does not depend on n, to the last bit where every process uses as many threads.
    options: those of :func:`trace` that decide what is run, from ``site`` to ``seed``; the pairs need no images.
    """
    units = _prepare(model, pairs, cache=cache, **options).units
    with show_progress(progress, sum(map(len, units.prepared.shards[share[0] :: share[1]]))) as advance:
        for _ in units.finished(advance, share):
            pass


@dataclass(frozen=True, eq=False)
class _Run:
    """What is to be run for a trace, checked."""

    batch: PairBatch
    names: tuple[str, ...] | None
    dtype: str
    units: Units

    @property
    def inside(self) -> Bool[np.ndarray, "pair column"]:
        """Which columns each pair has."""
        if self.names is None:
            return self.batch.inside
        return np.ones((len(self.batch.ids), len(self.names)), dtype=bool)


def _prepare(
    model: DualEncoder,
    pairs: Sequence[Pair],
    *,
    site: str = "resid",
    positions: Positions | None = None,
    heads: Heads = None,
    window: int = 1,
    align: Literal["none", "auto"] = "none",
    position_policy: PositionPolicy = "shift",
    direction: Direction = "foil->correct",
    method: Method = "exact",
    steps: int = 1,
    through_mlps: bool = False,
    path: PatchPath = "auto",
    batch_size: int | Literal["auto"] = "auto",
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> _Run:
    """The checked pairs of a trace, divided into units."""
    from ...patching import DirectEngine, Direction, PatchingEngine, PatchPath, Sweep, site_named

    check_choice("method", method, get_args(Method))
    for option, given, needed in (("steps", steps != 1, "attribution"), ("through_mlps", through_mlps, "direct")):
        if given and method != needed:
            raise TraceError(f"{option}= has no meaning with method={method!r}: it belongs to method={needed!r}")
    if method == "attribution" and (align != "none" or cache is not None):
        option = "cache=" if cache is not None else "align='auto'"
        raise TraceError(f"{option} has no meaning with method='attribution': use method='exact'")
    check_choice("direction", direction, get_args(Direction))
    check_choice("align", align, ("none", "auto"))
    check_choice("position_policy", position_policy, ("shift", "keep"))
    check_choice("path", path, get_args(PatchPath))
    batch = make_batch(model.text, as_pairs(pairs), direction=direction, align=align, position_policy=position_policy)
    sweep = Sweep(site_named(site), window)
    columns, names = select_columns(model.text, batch, sweep.site, positions, heads)
    store = None if cache is None else Store(cache)
    if method == "direct":
        engine: PatchingEngine = DirectEngine(model.text, through_mlps=through_mlps, dtype=dtype)
    else:
        engine = PatchingEngine(model.text, dtype=dtype)
    prepared = engine.prepare(
        batch.base,
        batch.donor,
        sweep=sweep,
        columns=columns,
        alignments=batch.alignments,
        path=path,
        batch_size=batch_size,
        memory=memory // 2,
    )
    precision = str(dtype or model.text.dtype).removeprefix("torch.")
    what = f"{method} through MLPs" if through_mlps else method
    keys = [] if store is None else pair_keys(model.text, prepared, what, precision)
    return _Run(batch, names, precision, Units(engine, prepared, keys, store, seed))


@once
def _versions() -> dict[str, str]:
    """Read once: looking them up takes longer than tracing a small model."""
    return {name: version(name) for name in ("tracescribe", "torch", "nnsight", "numpy")}


def _named(value: Any) -> Any:
    """Positions or heads as JSON."""
    return value if value is None or isinstance(value, (str, int)) else [int(one) for one in value]


def _provenance(model: DualEncoder, batch: PairBatch, targets: Targets) -> dict[str, Any]:
    tower = model.text
    groups = None if batch.groups == batch.ids else batch.groups
    captions = json.dumps([batch.captions, batch.ids, groups]).encode() + batch.caption_pair.astype("<i8").tobytes()
    return {
        "model": model.name,
        "weights_sha256": tower.fingerprint(),
        "pairs_sha256": hashlib.sha256(captions + targets.sha256()).hexdigest(),
        "tower": {
            "causal": tower.causal,
            "pooling": tower.pooling,
            "n_layers": tower.n_layers,
            "n_heads": tower.n_heads,
            "d_model": tower.d_model,
            "readout_layers": list(tower.readout_layers),
        },
        "logit_scale": model.logit_scale,
        "versions": dict(_versions()),
        # the convention of reproducible builds: with it, equal runs write equal files
        "created": datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC).isoformat(
            timespec="seconds"
        ),
    }

"""Causal tracing: patch every layer and token of every pair, score against its image, and keep what statistics need."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..errors import DegenerateTraceError, StaleCacheError
from .attribution import attribute
from .batch import PairBatch, as_pairs, image_embeddings, make_batch
from .files import ensure_writable
from .options import TraceError, check_choice
from .pairs import Pair
from .result import CausalTrace, Scores
from .scoring import patched_scores, text_scores
from .selection import Heads, Positions, select_columns
from .storage import load_trace

if TYPE_CHECKING:
    import torch

    from ..patching import Direction, DualEncoder, PatchPath, PositionPolicy

# |S_corr - S_foil| (cosine) below which CTE is not defined. The scores are exact to about 1e-7, so that at the floor
# rounding moves a CTE by 0.001; whether a difference *means* something is what `segment` says.
FLOOR = 1e-4

# What must be equal for a cached trace to be the one asked for; path and seed do not change its numbers.
_IDENTITY = (
    *("weights_sha256", "pairs_sha256", "site", "positions", "heads", "window", "aligned", "direction"),
    *("method", "steps", "through_mlps", "dtype", "floor"),
)

Method = Literal["exact", "attribution", "direct"]
ProgressCallback = Callable[[int, int], None]


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
    keep_embeddings: bool = True,
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
        batch_size: text pairs a batch; "auto" chooses by size.
        dtype: precision of the text tower's passes, its own by default; scores are always summed in float64.
        floor: pairs with |S_corr - S_foil| (cosine) below it are not valid: their CTE is NaN.
        keep_embeddings: keep the patched embeddings, so that :meth:`CausalTrace.rescore` works.
        progress: a bar on a terminal or in a notebook, or a callback ``(done, total)`` over text pairs.
        seed: which cells are checked against the generic path.
        cache: a trace file: read instead of tracing if it is there and was made from the same weights, pairs, images
            and settings, written after tracing if it is not there.

    Raises:
        SiteError, TraceError: the tower has no such site, head, position or window.
        LengthMismatchError, IdenticalPairError, ContextOverflowError: a pair's captions cannot be traced.
        DataFormatError: no pairs, or an image that is missing or broken.
        DegenerateTraceError: no pair reaches the floor.
        NonFiniteError, PatchDidNotFireError, TowerMismatchError: the engine's own checks failed.
        StaleCacheError: ``cache`` exists and was made from something else.
        OutputError: ``cache`` cannot be written; found before tracing.

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
    from ..patching import AttributionEngine, DirectEngine, Direction, PatchingEngine, PatchPath, Sweep, site_named

    check_choice("method", method, get_args(Method))
    for option, given, needed in (("steps", steps != 1, "attribution"), ("through_mlps", through_mlps, "direct")):
        if given and method != needed:
            raise TraceError(f"{option}= has no meaning with method={method!r}: it belongs to method={needed!r}")
    if align != "none" and method == "attribution":
        raise TraceError("align='auto' has no meaning with method='attribution': align with method='exact'")
    check_choice("direction", direction, get_args(Direction))
    check_choice("align", align, ("none", "auto"))
    check_choice("position_policy", position_policy, ("shift", "keep"))
    check_choice("path", path, get_args(PatchPath))
    batch = make_batch(model.text, as_pairs(pairs), direction=direction, align=align, position_policy=position_policy)
    sweep = Sweep(site_named(site), window)
    columns, names = select_columns(model.text, batch, sweep.site, positions, heads)
    images = image_embeddings(model, batch.pairs, batch.ids)
    provenance = _provenance(model, batch, images) | {
        "site": site,
        "first_layer": sweep.site.first_layer,
        "positions": _named(positions),
        "heads": _named(heads),
        "window": window,
        "aligned": position_policy if align == "auto" else None,
        "direction": direction,
        "method": method,
        "steps": steps if method == "attribution" else None,
        "through_mlps": through_mlps if method == "direct" else None,
        "path": path,
        "dtype": str(dtype or model.text.dtype).removeprefix("torch."),
        "floor": float(floor),
        "seed": seed,
    }
    if cache is not None and Path(cache).exists():
        return _cached(cache, provenance, keep_embeddings and method != "attribution")
    if cache is not None:
        ensure_writable(cache)
    by_text = batch.noising[batch.first_pairs]
    inside = batch.inside if names is None else np.ones((len(batch.ids), len(names)), dtype=bool)
    options: dict[str, Any] = {"sweep": sweep, "columns": columns, "batch_size": batch_size, "seed": seed}
    embeddings = None
    with _progress(progress, len(batch.base)) as advance:
        if method == "attribution":
            measured = attribute(
                AttributionEngine(model.text, dtype=dtype),
                *(batch.base, batch.donor, images, batch.text_pair, inside),
                steps=steps,
                exact_sample=exact_sample,
                progress=advance,
                **options,
            )
            provenance |= measured.provenance
            clean, other, scores = measured.base, measured.donor, measured.scores
        else:
            engine = (
                DirectEngine(model.text, through_mlps=through_mlps, dtype=dtype)
                if method == "direct"
                else PatchingEngine(model.text, dtype=dtype)
            )
            found = engine.patch(
                batch.base, batch.donor, alignments=batch.alignments, path=path, progress=advance, **options
            )
            provenance["path"] = found.path
            embeddings = found.patched.cpu().float().numpy()
            clean, other = (side.cpu().float().numpy() for side in (found.base, found.donor))
            scores = patched_scores(embeddings, images, batch.text_pair, inside)
    keep_embeddings = keep_embeddings and embeddings is not None
    correct, foil = np.where(by_text[:, None], clean, other), np.where(by_text[:, None], other, clean)
    result = CausalTrace(
        scores=Scores(
            correct=text_scores(correct, images, batch.text_pair),
            foil=text_scores(foil, images, batch.text_pair),
            patched=scores,
        ),
        tokens=batch.tokens,
        foil_tokens=batch.foil_tokens,
        differs=batch.differs,
        kinds=batch.kinds,
        text_pair=batch.text_pair,
        ids=batch.ids,
        groups=batch.groups,
        provenance=provenance,
        embeddings=embeddings if keep_embeddings else None,
        correct_embeddings=correct if keep_embeddings else None,
        foil_embeddings=foil if keep_embeddings else None,
        columns=names,
        noising=batch.noising if direction == "negated->affirmative" else None,
    )
    if not result.valid.any():
        raise DegenerateTraceError(
            f"none of the {len(batch.pairs)} pairs can be traced: the largest |S_corr - S_foil| is "
            f"{np.abs(result.denominator).max():.1e}, below the floor {floor:g}, so that the image does not tell the "
            f"two captions apart; use other images or pairs, or lower floor="
        )
    if cache is not None:
        result.save(cache)
    return result


def _named(value: Any) -> Any:
    """Positions or heads as JSON."""
    return value if value is None or isinstance(value, (str, int)) else [int(one) for one in value]


def _cached(path: str | os.PathLike[str], wanted: dict[str, Any], with_embeddings: bool) -> CausalTrace:
    """The trace in a cache file, if it answers exactly this question."""
    found = load_trace(path)
    other = [name for name in _IDENTITY if found.provenance.get(name) != wanted[name]]
    if found.provenance.get("rescored"):
        other.append("images (it was rescored)")
    if with_embeddings and found.embeddings is None:
        other.append("embeddings (it was traced with keep_embeddings=False)")
    if other:
        raise StaleCacheError(
            f"the cache {os.fspath(path)!r} was made with other {', '.join(other)}: delete it, or give another cache="
        )
    return found


def _provenance(model: DualEncoder, batch: PairBatch, images: np.ndarray) -> dict[str, Any]:
    tower = model.text
    named = zip(batch.pairs, batch.ids, batch.groups, strict=True)
    captions = json.dumps([(pair.correct, pair.foil, name, group) for pair, name, group in named]).encode()
    return {
        "model": model.name,
        "weights_sha256": tower.fingerprint(),
        "pairs_sha256": hashlib.sha256(captions + images.astype(np.float32).tobytes()).hexdigest(),
        "tower": {
            "causal": tower.causal,
            "pooling": tower.pooling,
            "n_layers": tower.n_layers,
            "n_heads": tower.n_heads,
            "d_model": tower.d_model,
            "readout_layers": list(tower.readout_layers),
        },
        "logit_scale": model.logit_scale,
        "versions": {name: version(name) for name in ("tracescribe", "torch", "nnsight", "numpy")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def _progress(
    progress: bool | ProgressCallback, total: int, unit: str = "text pairs"
) -> Iterator[Callable[[int], None] | None]:
    """What the engine calls after each batch: the user's callback, a rich bar where there is a person, or nothing."""
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not progress or not (console.is_terminal or console.is_jupyter):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("tracing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("tracing", total=total)
        yield lambda done: bar.update(task, completed=done)

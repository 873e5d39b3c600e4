"""The trace of the same text pairs with other images or by another metric: patched texts depend on neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from ...errors import TraceError
from ...io.quoting import shown
from ...validation import Choice, Nothing, Number, check_choice, check_option
from ..choices import Against
from ..pairs.indexing import picked
from ..pairs.unit_rows import normalise_rows
from .candidates import text_encoder
from .metric_options import CandidateList, MetricName
from .metrics import METRICS
from .scorer import Scorer, check_metric, make_scorer
from .scoring import score_maps
from .select import rebuilt

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from .causal_trace import CausalTrace, Scores

__all__ = ["rescored"]


def rescored(
    trace: CausalTrace,
    image_embeddings: Any,
    text_pair: Any,
    groups: Sequence[str] | None,
    metric: str | Callable[..., Any] | None,
    candidates: Any,
    against: Against,
    logit_scale: float | None,
    model: DualEncoder | None,
) -> CausalTrace:
    """See :meth:`CausalTrace.rescore`."""
    if model is not None and not hasattr(model, "encode_texts"):
        raise TraceError(f"model must be a model of ts.load or ts.wrap, not {shown(model)}")
    if trace.embeddings is None or trace.correct_embeddings is None or trace.foil_embeddings is None:
        why = "its text embeddings were not kept, so trace again to rescore"
        if trace.provenance.get("method") == "attribution":
            why = "an attribution depends on the image (it is a gradient of S), so trace the new images"
        raise TraceError(f"this trace holds scores only: {why}")
    changes: dict[str, Any] = {}
    if image_embeddings is None:
        if text_pair is not None or groups is not None:
            raise TraceError("text_pair= and groups= go with image_embeddings=")
        if trace.target_embeddings is None or trace.target is None:
            raise TraceError("this trace does not hold its targets' embeddings: give image_embeddings=")
        images, image, index, chosen = trace.target_embeddings, trace.target, np.arange(len(trace)), trace.text_pair
    else:
        images, image, index, chosen = _chosen(trace, image_embeddings, text_pair)
        changes = _named(trace, images, index, chosen, text_pair, groups)
    ids = changes.get("ids", picked(trace.ids, index))
    scorer = _scorer(trace, index, ids, metric, candidates, against, logit_scale, model)
    told = {**trace.provenance, "rescored": True, "metric": scorer.provenance}
    if scorer.metric.name != trace.metric.name:
        told["floor"] = scorer.metric.floor
    changes |= {"provenance": told, "target_embeddings": images, "target": image}
    return rebuilt(trace, _scores(trace, images, image, chosen, index, scorer), index, chosen, **changes)


def _chosen(trace: CausalTrace, image_embeddings: Any, text_pair: Any) -> tuple[np.ndarray, ...]:
    """Unit images, and of every new pair its image, a pair of the trace with its captions, and its text pair."""
    assert trace.embeddings is not None
    images = normalise_rows(image_embeddings)
    if images.shape[1] != trace.embeddings.shape[3]:
        raise TraceError(f"image embeddings have {images.shape[1]} dimensions, texts {trace.embeddings.shape[3]}")
    image = np.arange(len(images))
    known, first = np.unique(trace.text_pair, return_index=True)
    if text_pair is None:
        index, chosen = np.arange(trace.n_pairs), trace.text_pair
    elif isinstance(text_pair, str):
        check_choice("text_pair", text_pair, ("each",))
        index, chosen = np.repeat(first, len(images)), np.repeat(known, len(images))
        image = np.tile(image, len(known))
    else:
        try:
            chosen = np.asarray(text_pair)
        except (TypeError, ValueError):  # lists of several lengths, texts beside bytes
            chosen = np.array([text_pair], dtype=object)
        if chosen.size and not np.issubdtype(chosen.dtype, np.integer):  # 1.5 and True are no numbers of a text pair
            raise TraceError(f"text_pair must be 'each' or whole numbers, one per image, not {shown(text_pair)}")
        chosen = chosen.astype(np.int64).reshape(-1)
        unknown = np.setdiff1d(chosen, known)
        if len(unknown):
            raise TraceError(f"text_pair {unknown[0]} does not exist: they are 0 to {known[-1]}")
        index = first[np.searchsorted(known, chosen)]
    if len(chosen) != len(image):
        raise TraceError(f"{len(images)} image embeddings for {len(chosen)} pairs; give text_pair= to choose texts")
    return images, image, index, chosen


def _named(
    trace: CausalTrace,
    images: Float32[np.ndarray, "image embed"],
    index: Int[np.ndarray, "pair"],
    chosen: Int[np.ndarray, "pair"],
    text_pair: Any,
    groups: Sequence[str] | None,
) -> dict[str, Any]:
    """Ids and clusters of the new pairs, where they are not the trace's own."""
    changes: dict[str, Any] = {}
    if text_pair is not None or groups is not None:
        changes["named"] = np.full(len(chosen), groups is not None)
    if isinstance(text_pair, str):
        first = index[:: len(images)]
        numbers = [str(i) for i in range(len(images))]
        starts = [f"{trace.ids[i]}/" for i in first]
        changes["ids"] = tuple([start + number for start in starts for number in numbers])
        changes["groups"] = picked(numbers, _first_equal(images)) * len(first)
    elif text_pair is not None:
        changes["ids"] = tuple([f"{trace.ids[pair]}/{number}" for number, pair in enumerate(index)])
        changes["groups"] = picked(changes["ids"], _first_equal(images))
    if groups is not None:
        changes["groups"] = tuple(groups)
    return changes


def _scorer(
    trace: CausalTrace,
    index: Int[np.ndarray, "pair"],
    ids: Sequence[str],
    metric: str | Callable[..., Any] | None,
    candidates: Any,
    against: Against,
    logit_scale: float | None,
    model: DualEncoder | None,
) -> Scorer:
    assert trace.embeddings is not None
    if metric is None:
        metric = trace.metric.name
        if metric not in METRICS:
            raise TraceError(
                f"the trace was scored by {metric!r}, which is not registered in this process: call "
                f"tracescribe.tracer.register_metric, or give metric="
            )
        if candidates is None and trace.provenance.get("metric", {}).get("candidates") is not None:
            raise TraceError(
                f"the trace was scored by {metric} among candidates that it does not keep: give candidates= again, or "
                f"another metric="
            )
    name = check_option("metric", metric, (MetricName(),))
    given = check_option("candidates", candidates, (Nothing(), CandidateList()))
    check_option("against", against, (Choice(("caption", "target")),))
    scale = check_option("logit_scale", logit_scale, (Nothing(), Number(1e-6)))
    check_metric(name, given, against, scale)
    if name != "cosine" and (trace.provenance.get("donors") or 1) > 1:
        raise TraceError(
            f"metric={name!r} has no meaning for means over {trace.provenance['donors']} donors: only a cosine of the "
            f"mean is the mean cosine"
        )
    if model is not None:
        _check_model(trace, model)
    if scale is None and METRICS[name].scaled:
        scale = trace.provenance.get("logit_scale")
    return make_scorer(
        name,
        given,
        against,
        scale,
        encode=None if model is None else text_encoder(model),
        ids=ids,
        width=trace.embeddings.shape[3],
        captions=None if trace.captions is None else picked(trace.captions, index),
        targets=None,
    )


def _check_model(trace: CausalTrace, model: DualEncoder) -> None:
    traced = trace.provenance.get("weights_sha256")
    if trace.provenance.get("modality") != "image" and traced not in (None, model.text.fingerprint()):
        raise TraceError(
            f"model= has other text weights than the model that was traced ({trace.provenance.get('model')}): its "
            f"candidates would lie in another space"
        )


def _first_equal(images: Float32[np.ndarray, "image embed"]) -> Int[np.ndarray, "image"]:
    """The first image that equals each, so that one given several times is one cluster."""
    if len(np.unique(images[:, :2].copy().view(np.int64))) == len(images):  # all differ at their very beginning
        return np.arange(len(images))
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(image.tobytes(), i) for i, image in enumerate(images)])


def _scores(
    trace: CausalTrace,
    images: Float32[np.ndarray, "image embed"],
    image: Int[np.ndarray, "pair"],
    text_pair: Int[np.ndarray, "pair"],
    index: Int[np.ndarray, "pair"],
    scorer: Scorer,
) -> Scores:
    """Scores of pairs (image, text pair) that have their tokens from the trace's pairs at ``index``."""
    embeddings, correct, foil = trace.embeddings, trace.correct_embeddings, trace.foil_embeddings
    assert embeddings is not None and correct is not None and foil is not None
    inside = _inside_by_text(trace, len(embeddings))
    others = None if scorer.metric.name == "cosine" else scorer
    scored = score_maps(images, image, text_pair, correct, foil, embeddings, inside, others)
    if not trace.inside.all():  # a pair's own tokens, should they differ from those of its text pair's other pairs
        scored.patched[np.broadcast_to(~trace.inside[index][:, None], scored.patched.shape)] = np.nan
    return type(trace.scores)(correct=scored.correct, foil=scored.foil, patched=scored.patched)


def _inside_by_text(trace: CausalTrace, n_texts: int) -> Bool[np.ndarray, "text_pair column"]:
    inside = np.zeros((n_texts, trace.inside.shape[1]), dtype=bool)
    pairs, columns = np.nonzero(trace.inside)
    inside[trace.text_pair[pairs], columns] = True
    return inside

"""The trace of the same text pairs with other images: patched texts do not depend on the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from ...errors import TraceError
from ...validation import check_choice
from ..pairs.indexing import picked
from ..pairs.unit_rows import normalise_rows
from .scoring import score_maps
from .select import rebuilt

if TYPE_CHECKING:
    from .causal_trace import CausalTrace, Scores

__all__ = ["rescored"]


def rescored(
    trace: CausalTrace, image_embeddings: Any, text_pair: Any = None, groups: Sequence[str] | None = None
) -> CausalTrace:
    """See :meth:`CausalTrace.rescore`."""
    if trace.embeddings is None or trace.correct_embeddings is None or trace.foil_embeddings is None:
        why = "its text embeddings were not kept, so trace again to rescore"
        if trace.provenance.get("method") == "attribution":
            why = "an attribution depends on the image (it is a gradient of S), so trace the new images"
        raise TraceError(f"this trace holds scores only: {why}")
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
        chosen = np.asarray(text_pair, dtype=np.int64).reshape(-1)
        unknown = np.setdiff1d(chosen, known)
        if len(unknown):
            raise TraceError(f"text_pair {unknown[0]} does not exist: they are 0 to {known[-1]}")
        index = first[np.searchsorted(known, chosen)]
    if len(chosen) != len(image):
        raise TraceError(f"{len(images)} image embeddings for {len(chosen)} pairs; give text_pair= to choose texts")
    changes: dict[str, Any] = {"provenance": {**trace.provenance, "rescored": True}}
    if text_pair is not None or groups is not None:
        changes["named"] = np.full(len(chosen), groups is not None)
    if isinstance(text_pair, str):
        numbers = [str(i) for i in range(len(images))]
        starts = [f"{trace.ids[i]}/" for i in first]
        changes["ids"] = tuple([start + number for start in starts for number in numbers])
        changes["groups"] = picked(numbers, _first_equal(images)) * len(known)
    elif text_pair is not None:
        changes["ids"] = tuple([f"{trace.ids[pair]}/{number}" for number, pair in enumerate(index)])
        changes["groups"] = picked(changes["ids"], _first_equal(images))
    if groups is not None:
        changes["groups"] = tuple(groups)
    return rebuilt(trace, _scores(trace, images, image, chosen, index), index, chosen, **changes)


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
) -> Scores:
    """Scores of pairs (image, text pair) that have their tokens from the trace's pairs at ``index``."""
    embeddings, correct, foil = trace.embeddings, trace.correct_embeddings, trace.foil_embeddings
    assert embeddings is not None and correct is not None and foil is not None
    inside = _inside_by_text(trace, len(embeddings))
    scored = score_maps(images, image, text_pair, correct, foil, embeddings, inside)
    if not trace.inside.all():  # a pair's own tokens, should they differ from those of its text pair's other pairs
        scored.patched[np.broadcast_to(~trace.inside[index][:, None], scored.patched.shape)] = np.nan
    return type(trace.scores)(correct=scored.correct, foil=scored.foil, patched=scored.patched)


def _inside_by_text(trace: CausalTrace, n_texts: int) -> Bool[np.ndarray, "text_pair column"]:
    inside = np.zeros((n_texts, trace.inside.shape[1]), dtype=bool)
    pairs, columns = np.nonzero(trace.inside)
    inside[trace.text_pair[pairs], columns] = True
    return inside

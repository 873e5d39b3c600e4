"""Selects pairs of a trace by index, mask, id or a descriptive field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from ...errors import TraceError
from ...io.quoting import shown
from ...validation import check_choice
from ..pairs.indexing import distinct, picked
from .validation import PAIR_TEXTS

if TYPE_CHECKING:
    from .causal_trace import CausalTrace, Scores

__all__ = ["indexed", "pair_index", "rebuilt", "selected", "split"]

_FIELDS = {"attribute": "attributes", "template": "templates", "negated": "negated", "group": "groups"}


def selected(trace: CausalTrace, pairs: Any = None, **names: str | Iterable[str] | None) -> CausalTrace:
    """See :meth:`CausalTrace.select`; names: by field, one value or several."""
    index = np.arange(trace.n_pairs) if pairs is None else pair_index(pairs, trace.n_pairs)
    for name, wanted in names.items():
        if wanted is not None:
            index = index[_holds(trace, name, _words(name, wanted))[index]]
    if index.size == 0:
        raise TraceError(f"the selection holds none of the {trace.n_pairs} pairs")
    kept, text_pair = np.unique(trace.text_pair[index], return_inverse=True)
    scores = type(trace.scores)(**{f.name: getattr(trace.scores, f.name)[index] for f in fields(trace.scores)})
    changes: dict[str, Any] = {}
    if trace.embeddings is not None and len(kept) < len(trace.embeddings):  # nothing to drop: no copy of gigabytes
        for name in ("embeddings", "correct_embeddings", "foil_embeddings"):
            changes[name] = getattr(trace, name)[kept]
    if trace.target is not None and trace.target_embeddings is not None:
        used, changes["target"] = np.unique(trace.target[index], return_inverse=True)
        changes["target_embeddings"] = trace.target_embeddings[used]
    return rebuilt(trace, scores, index, text_pair, **changes)


def indexed(trace: CausalTrace, key: Any) -> CausalTrace:
    """See :meth:`CausalTrace.__getitem__`; several ids give their pairs in the order of the ids.

    >>> import tracescribe as ts
    >>> pair = {"foil": "There is severe edema.", "image": ts.Text("The lungs are clear.")}
    >>> pairs = [{**pair, "correct": f"There is {word} edema.", "id": word} for word in ("no", "mild")]
    >>> trace = ts.trace(ts.load("phantom"), pairs, floor=0, progress=False)
    >>> len(trace), trace[-1].ids, trace["no"].ids, trace[trace.valid].ids, trace[::-1].ids
    (2, ('mild',), ('no',), ('no', 'mild'), ('mild', 'no'))
    """
    if isinstance(key, tuple):
        raise TraceError(f"trace[{shown(key)[1:-1]}]: pairs are selected by one index; cells are in trace.cte[...]")
    if isinstance(key, slice):
        try:
            return selected(trace, np.arange(trace.n_pairs)[key])
        except (TypeError, ValueError) as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(f"a slice of pairs has whole numbers: {error}") from error
    if isinstance(key, str):
        return selected(trace, ids=key)
    if isinstance(key, list) and key and all(isinstance(word, str) for word in key):
        wanted = [np.flatnonzero(_holds(trace, "ids", {word})) for word in key]
        return selected(trace, np.concatenate(wanted))
    return selected(trace, pair_index(key, trace.n_pairs))


def split(trace: CausalTrace, field: str) -> dict[str, CausalTrace]:
    """See :meth:`CausalTrace.by`."""
    name = _FIELDS[check_choice("field", field, _FIELDS)]
    values: tuple[str, ...] | None = getattr(trace, name)
    if values is None:
        raise TraceError(f"no pair of this trace says its {field}")
    known, index = distinct(values)
    return {value: selected(trace, index == number) for number, value in enumerate(known)}


def _words(name: str, wanted: str | Iterable[str]) -> set[str]:
    words = [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, Iterable) else [wanted]
    if not all(isinstance(word, str) for word in words):
        raise TraceError(f"{name} must be a text or several, not {shown(wanted)}")
    return set(words)


def _holds(trace: CausalTrace, name: str, wanted: set[str]) -> Bool[np.ndarray, "pair"]:
    values: tuple[str, ...] | None = getattr(trace, name)
    if values is None:
        raise TraceError(f"no pair of this trace has {name}; select by index or mask")
    unknown = sorted(wanted.difference(values))
    if unknown:
        known = sorted(set(values) - {""})[:8]
        raise TraceError(f"no pair has {shown(unknown[0])} among its {name}; they are such as {shown(known)}")
    return np.fromiter((value in wanted for value in values), dtype=bool, count=len(values))


def rebuilt(
    trace: CausalTrace,
    scores: Scores,
    index: Int[np.ndarray, "pair"],
    text_pair: Int[np.ndarray, "pair"],
    **changes: Any,
) -> CausalTrace:
    """These scores with the captions of the pairs at ``index``, but for ``changes``."""
    for name in ("tokens", "foil_tokens", "ids", "groups", *PAIR_TEXTS):
        if name not in changes and getattr(trace, name) is not None:
            changes[name] = picked(getattr(trace, name), index)
    for name in ("noising", "named", "target"):
        if name not in changes and getattr(trace, name) is not None:
            changes[name] = getattr(trace, name)[index]
    kinds, differs = (np.take(of_pairs, index, axis=0) for of_pairs in (trace.kinds, trace.differs))
    return replace(trace, scores=scores, differs=differs, kinds=kinds, text_pair=text_pair, **changes)


def pair_index(pairs: Any, n_pairs: int) -> Int[np.ndarray, "chosen"]:
    """Pairs by number (counted from the end if negative) or by a mask, as numbers.

    Raises:
        TraceError: anything else, or a number that no pair has.
    """
    try:
        chosen = np.asarray(pairs)
    except (ValueError, OverflowError):  # lists of unequal lengths
        raise TraceError(f"select pairs by a boolean mask or by integer indices, not by {shown(pairs)}") from None
    if chosen.dtype == np.bool_:
        if chosen.shape != (n_pairs,):
            raise TraceError(f"a mask of pairs must have shape ({n_pairs},), not {chosen.shape}")
        chosen = np.flatnonzero(chosen)
    elif not np.issubdtype(chosen.dtype, np.integer) and chosen.size:
        raise TraceError(f"select pairs by a boolean mask or by integer indices, not by {chosen.dtype} values")
    if chosen.ndim > 1:
        raise TraceError(f"select pairs by a list of indices, not by an array of shape {chosen.shape}")
    index = np.atleast_1d(chosen).astype(np.int64)
    outside = index[(index < -n_pairs) | (index >= n_pairs)]
    if len(outside):
        raise TraceError(f"there is no pair {outside[0]}: they are numbered 0 to {n_pairs - 1}")
    return index % n_pairs

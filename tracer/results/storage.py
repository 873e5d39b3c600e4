"""Save and load causal traces: safetensors with a checksum over all bytes, no pickle, versioned."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import explains_arguments
from ...errors import DataFormatError, OutputError, TracescribeError
from ...io.atomic import write_atomically
from ...io.json_lines import parse_json
from ...io.quoting import shown, shown_path
from ...io.tensors import CHECKSUM, explaining_content, pack_texts, read_tensors, unpack_texts, write_tensors
from ..pairs.indexing import distinct, picked
from .trace_file import check_arrays, check_provenance, check_scores
from .validation import PAIR_TEXTS

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["FORMAT", "as_tensors", "load_trace", "of_tensors", "save_trace", "texts_of"]

FORMAT = "tracescribe.trace/2"
_FIRST = "tracescribe.trace/1"  # texts as JSON in the header, no checksum
_SCORES = ("correct", "foil", "patched")
_ARRAYS = ("differs", "kinds", "text_pair")
_OPTIONAL = (
    "embeddings",
    "correct_embeddings",
    "foil_embeddings",
    "target_embeddings",
    "target",
    "noising",
    "named",
)


def save_trace(trace: CausalTrace, path: str | os.PathLike[str]) -> None:
    """Write a trace so that :func:`load_trace` gives it back bit for bit.

    Raises:
        OutputError: nothing can be written at ``path``, or the trace holds what no reader would accept: scores that its
            metric cannot have, or a provenance that is not JSON.
    """
    try:
        tensors, metadata = as_tensors(trace)
    except (TypeError, ValueError, RecursionError, TracescribeError) as error:
        raise OutputError(f"cannot write {shown_path(path)}: the trace is not JSON and scores: {error}") from error
    with write_atomically(path, binary=True) as handle:
        write_tensors(handle, tensors, {"format": FORMAT, **metadata})


def as_tensors(trace: CausalTrace) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A trace as arrays, and as texts of JSON; :func:`of_tensors` makes it of them again.

    Raises:
        TypeError, ValueError, RecursionError, TracescribeError: it holds what no reader would accept.
    """
    tensors = {f"scores.{name}": getattr(trace.scores, name) for name in _SCORES}
    tensors |= {name: getattr(trace, name) for name in _ARRAYS}
    tensors |= {name: getattr(trace, name) for name in _OPTIONAL if getattr(trace, name) is not None}
    for name in ("ids", "groups", *PAIR_TEXTS):
        if getattr(trace, name) is not None:
            tensors |= _packed(name, getattr(trace, name))
    for name in ("tokens", "foil_tokens"):
        tensors |= _packed_tuples(name, getattr(trace, name))
    # ASCII only: a lone surrogate, which some tokenizers produce, survives as an escape and not as UTF-8.
    metadata = {name: json.dumps(getattr(trace, name)) for name in ("provenance", "columns")}
    check_provenance(parse_json(metadata["provenance"], "provenance", lone_surrogates=True))
    check_arrays(tensors)
    check_scores(trace)
    return tensors, metadata


@explains_arguments
def load_trace(path: str | os.PathLike[str]) -> CausalTrace:
    """Read a trace written by :meth:`CausalTrace.save`; its embeddings stay on disk, mapped, until they are used.

    Files of the first version ("tracescribe.trace/1") are read too; they have no checksum and no captions.

    Raises:
        DataFormatError: no such file; it is no regular file, cut short, changed after it was written, or not a trace.

    >>> load_trace("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    name = shown_path(path)
    file = read_tensors(path, needs_checksum=False)
    found = file.metadata.get("format")
    if found not in (FORMAT, _FIRST):
        newer = isinstance(found, str) and found.startswith("tracescribe.trace/")
        advice = "it was written by another version of tracescribe" if newer else "it is not a saved trace"
        raise DataFormatError(f"{name} has format {shown(found)}, expected {FORMAT!r}: {advice}")
    if found == FORMAT and CHECKSUM not in file.metadata:
        raise DataFormatError(f"{name} states no checksum of its bytes: another program changed it, or it is damaged")
    # The embeddings may be larger than memory. The rest is copied: the file may change.
    tensors = {key: array if key == "embeddings" else np.array(array) for key, array in file.tensors.items()}
    with explaining_content(name, found):
        texts = texts_of(tensors) if found == FORMAT else _first_texts(file.metadata, name)
        return of_tensors(tensors, texts, file.metadata, name)


def of_tensors(
    tensors: Mapping[str, np.ndarray], texts: Mapping[str, Any], metadata: Mapping[str, str], name: str
) -> CausalTrace:
    """The trace of :func:`as_tensors`. texts: of its pairs, from :func:`texts_of`. name: of the file, for errors.

    Raises:
        KeyError, TypeError, ValueError, IndexError, TracescribeError: they are not those of a trace.
    """
    from .causal_trace import CausalTrace, Scores

    provenance = parse_json(metadata["provenance"], name, lone_surrogates=True)
    if not isinstance(provenance, dict):
        raise TypeError(f"its provenance is not an object but {shown(provenance)}")
    columns = parse_json(metadata.get("columns", "null"), name, lone_surrogates=True)
    if columns is not None:
        columns = _strings("columns", columns)
    check_provenance(provenance)
    check_arrays(tensors)
    arrays: dict[str, Any] = {key: tensors[key] for key in _ARRAYS}
    arrays |= {key: tensors[key] for key in _OPTIONAL if key in tensors}
    scores = Scores(**{key: tensors[f"scores.{key}"] for key in _SCORES})
    trace = CausalTrace(scores=scores, provenance=provenance, columns=columns, **texts, **arrays)
    check_scores(trace)
    return trace


def _packed(name: str, values: Sequence[str]) -> dict[str, np.ndarray]:
    """Texts of pairs as arrays: those that differ, and which of them each pair has."""
    known, index = distinct(values)
    return {**pack_texts(name, known), f"{name}.of_pair": index}


def _packed_tuples(name: str, values: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """The same for a tuple of texts per pair; ``name.counts`` are the lengths of those that differ."""
    known, index = distinct(values)
    counts = np.array([len(words) for words in known], dtype=np.int64)
    return {
        **pack_texts(name, [word for words in known for word in words]),
        f"{name}.counts": counts,
        f"{name}.of_pair": index,
    }


def texts_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The texts of the pairs of a trace, from the arrays of :func:`as_tensors`."""
    texts: dict[str, Any] = {}
    for name in ("ids", "groups", *PAIR_TEXTS):
        if name in tensors or name not in PAIR_TEXTS:
            texts[name] = _of_pairs(name, unpack_texts(name, tensors), tensors)
    for name in ("tokens", "foil_tokens"):
        words, counts = unpack_texts(name, tensors), tensors[f"{name}.counts"]
        if counts.dtype != np.int64 or counts.ndim != 1 or (counts < 0).any() or counts.sum() != len(words):
            raise ValueError(f"{name!r} does not hold tokens")
        ends = np.cumsum(counts).tolist()
        known = [words[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]
        texts[name] = _of_pairs(name, known, tensors)
    return texts


def _of_pairs(name: str, known: Sequence[Hashable], tensors: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    index = tensors[f"{name}.of_pair"]
    if index.dtype != np.int64 or index.ndim != 1 or (len(index) and not 0 <= index.min() <= index.max() < len(known)):
        raise ValueError(f"{name!r} names texts that the file does not hold")
    return picked(known, index)


def _first_texts(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """The texts of a file of the first version."""
    read = {
        key: parse_json(metadata[key], name, lone_surrogates=True) for key in ("ids", "groups", "tokens", "foil_tokens")
    }
    texts: dict[str, Any] = {key: _strings(key, read[key]) for key in ("ids", "groups")}
    for key in ("tokens", "foil_tokens"):
        if not isinstance(read[key], list):
            raise TypeError(f"{key!r} is not a list but {shown(read[key])}")
        texts[key] = tuple(_strings(key, words) for words in read[key])
    return texts


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name!r} is not a list of texts but {shown(value)}")
    return tuple(value)

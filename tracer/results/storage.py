"""Save and load causal traces: safetensors with the strings as JSON metadata, no pickle, versioned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataFormatError, OutputError, TracescribeError
from ...io.atomic import write_atomically
from ...io.tensors import map_tensor, write_tensors

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["FORMAT", "load_trace", "save_trace"]

FORMAT = "tracescribe.trace/1"
_STRINGS = ("tokens", "foil_tokens", "ids", "groups", "provenance")
_SCORES = ("correct", "foil", "patched")
_ARRAYS = ("differs", "kinds", "text_pair")
_OPTIONAL = ("embeddings", "correct_embeddings", "foil_embeddings", "noising")


def save_trace(trace: CausalTrace, path: str | os.PathLike[str]) -> None:
    """Write a trace so that :func:`load_trace` gives it back bit for bit.

    Raises:
        OutputError: nothing can be written at ``path``, or the provenance holds something that JSON cannot.
    """
    tensors = {f"scores.{name}": getattr(trace.scores, name) for name in _SCORES}
    tensors |= {name: getattr(trace, name) for name in _ARRAYS}
    tensors |= {name: getattr(trace, name) for name in _OPTIONAL if getattr(trace, name) is not None}
    try:
        # ASCII only: a lone surrogate, which some tokenizers produce, survives as an escape and not as UTF-8.
        metadata = {name: json.dumps(getattr(trace, name)) for name in (*_STRINGS, "columns")}
    except (TypeError, ValueError) as error:
        raise OutputError(f"cannot write {os.fspath(path)!r}: the provenance is not JSON: {error}") from error
    with write_atomically(path, binary=True) as handle:
        write_tensors(handle, tensors, {"format": FORMAT, **metadata})


def load_trace(path: str | os.PathLike[str]) -> CausalTrace:
    """Read a trace written by :meth:`CausalTrace.save`; its embeddings stay on disk, mapped, until they are used.

    Raises:
        DataFormatError: no such file, or it is truncated, not a safetensors file, or not a trace of this version.

    >>> load_trace("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    from safetensors import SafetensorError, safe_open

    from .causal_trace import CausalTrace, Scores

    name = os.fspath(path)
    try:
        Path(path).open("rb").close()  # its message names the reason; safetensors' does not
        with safe_open(name, framework="np") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            tensors = {key: file.get_tensor(key) for key in names - {"embeddings"}}
        if "embeddings" in names:  # may be larger than memory
            tensors["embeddings"] = map_tensor(name, "embeddings")
    except OSError as error:
        raise DataFormatError(f"cannot read {name!r}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DataFormatError(f"{name!r} is not a whole safetensors file ({error}); was it cut short?") from error
    found = metadata.get("format")
    if found != FORMAT:
        newer = isinstance(found, str) and found.startswith("tracescribe.trace/")
        advice = "it was written by another version of tracescribe" if newer else "it is not a saved trace"
        raise DataFormatError(f"{name!r} has format {found!r}, expected {FORMAT!r}: {advice}")
    try:
        strings = {key: json.loads(metadata[key]) for key in _STRINGS}
        if not isinstance(strings["provenance"], dict):
            raise TypeError(f"its provenance is not an object but {strings['provenance']!r}")
        columns = json.loads(metadata.get("columns", "null"))
        captions: dict[str, Any] = {key: tuple(map(tuple, strings[key])) for key in ("tokens", "foil_tokens")}
        return CausalTrace(
            scores=Scores(**{key: tensors[f"scores.{key}"] for key in _SCORES}),
            **captions,
            ids=tuple(strings["ids"]),
            groups=tuple(strings["groups"]),
            provenance=strings["provenance"],
            columns=columns if columns is None else tuple(columns),
            **{key: tensors[key] for key in _ARRAYS},
            **{key: tensors[key] for key in _OPTIONAL if key in tensors},
        )
    except KeyError as error:
        raise DataFormatError(f"{name!r} says it is {FORMAT!r} but has no {error.args[0]!r}") from error
    except (TypeError, ValueError, TracescribeError) as error:
        raise DataFormatError(f"{name!r} is damaged: {error}") from error

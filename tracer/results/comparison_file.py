"""Saves and loads comparisons of traces: safetensors with a checksum over all bytes, no pickle, versioned."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from ...arguments import explains_arguments
from ...errors import DataFormatError, OutputError
from ...io.atomic import write_atomically
from ...io.json_lines import parse_json
from ...io.quoting import shown, shown_path
from ...io.tensors import explaining_content, pack_texts, read_tensors, unpack_texts, write_tensors
from ...validation import is_share
from .comparison import NUMBERS, Contrast, TraceComparison
from .statistics import REDUCTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_comparison", "save_comparison"]

FORMAT = "tracescribe.comparison/1"
_CONTRASTS = ("cells", "profile", "alpha")


class _Facts(BaseModel):
    """What is no array: how the traces were compared."""

    model_config = ConfigDict(strict=True, extra="forbid")

    paired: bool
    matching: str
    n_pairs: list[NonNegativeInt]
    n_groups: NonNegativeInt
    n_texts: NonNegativeInt
    ci: float | None
    aggregate: str
    align: str
    reduce: str
    interpolated: str | None
    provenance: dict[str, Any]


def save_comparison(comparison: TraceComparison, path: str | os.PathLike[str]) -> None:
    """See :meth:`TraceComparison.save`."""
    tensors = {
        f"{name}.{number}": getattr(getattr(comparison, name), number).astype(np.float64)
        for name in _CONTRASTS
        for number in NUMBERS
    }
    tensors |= {"layers": comparison.layers.astype(np.int64), "depth": comparison.depth.astype(np.float64)}
    tensors |= pack_texts("rows", comparison.rows) | pack_texts("names", comparison.names)
    try:
        facts = json.dumps({name: getattr(comparison, name) for name in _Facts.model_fields})
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"cannot write {shown_path(path)}: the provenance is not JSON: {error}") from error
    with write_atomically(path, binary=True) as handle:
        write_tensors(handle, tensors, {"format": FORMAT, "facts": facts})


@explains_arguments
def load_comparison(path: str | os.PathLike[str]) -> TraceComparison:
    """Read a file of :meth:`TraceComparison.save`.

    Raises:
        DataFormatError: no such file; it was cut short or changed, or holds something else.

    >>> load_comparison("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    file, name = read_tensors(path), shown_path(path)
    if file.metadata.get("format") != FORMAT:
        raise DataFormatError(f"{name} has format {shown(file.metadata.get('format'))}, expected {FORMAT!r}")
    with explaining_content(name, FORMAT):
        told = _facts(parse_json(file.metadata["facts"], name, lone_surrogates=True))
        if told["ci"] is not None and not is_share(told["ci"]):
            raise ValueError(f"ci is {told['ci']}")
        if len(told["n_pairs"]) != 2 or told["reduce"] not in REDUCTIONS:
            raise ValueError("its facts are not those of two traces")
        names = unpack_texts("names", file.tensors)
        if len(names) != 2:
            raise ValueError(f"it has {len(names)} names")
        return TraceComparison(
            names=(names[0], names[1]),
            rows=unpack_texts("rows", file.tensors),
            layers=_array("layers", file.tensors, np.int64),
            depth=_array("depth", file.tensors, np.float64),
            cells=_contrast("cells", file.tensors),
            profile=_contrast("profile", file.tensors),
            alpha=_contrast("alpha", file.tensors),
            **{**told, "n_pairs": tuple(told["n_pairs"])},
        )


def _facts(content: Any) -> dict[str, Any]:
    try:
        return _Facts.model_validate(content).model_dump()
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "its facts"
        raise ValueError(f"{where}: {error.errors()[0]['msg']}") from error


def _contrast(name: str, tensors: Mapping[str, np.ndarray]) -> Contrast:
    return Contrast(**{number: _array(f"{name}.{number}", tensors, np.float64) for number in NUMBERS})


def _array(name: str, tensors: Mapping[str, np.ndarray], dtype: Any) -> np.ndarray:
    array = np.array(tensors[name])  # a copy: the file may change
    if array.dtype != dtype:
        raise TypeError(f"{name!r} holds {array.dtype.name} numbers")
    return array

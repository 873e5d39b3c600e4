"""Saves and loads comparisons of traces."""

from __future__ import annotations

import os
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, NonNegativeInt

from ...arguments import explains_arguments
from ...io.quoting import shown
from ...validation import is_share
from .array_file import ArrayFile, Facts
from .comparison import NUMBERS, Contrast, TraceComparison
from .statistics import REDUCTIONS
from .trace_file import check_provenance

__all__ = ["load_comparison", "save_comparison"]

_CONTRASTS = ("cells", "profile", "alpha")
_NUMBERS = {f"{name}.{number}": np.float64 for name in _CONTRASTS for number in NUMBERS}


def _of_both(provenance: dict[str, Any]) -> dict[str, Any]:
    for side in ("first", "second"):
        told = provenance.get(side, {})
        if not isinstance(told, dict):
            raise ValueError(f"{side!r} must be the provenance of a trace, not {shown(told)}")
        check_provenance(told)
    return provenance


class _HowCompared(Facts):
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
    provenance: Annotated[dict[str, Any], AfterValidator(_of_both)]


_FILE = ArrayFile(
    "tracescribe.comparison/1",
    arrays={**_NUMBERS, "layers": np.int64, "depth": np.float64},
    texts=("rows", "names"),
    facts=_HowCompared,
)


def save_comparison(comparison: TraceComparison, path: str | os.PathLike[str]) -> None:
    """See :meth:`TraceComparison.save`."""
    numbers = {
        f"{name}.{number}": getattr(getattr(comparison, name), number) for name in _CONTRASTS for number in NUMBERS
    }
    others = ("layers", "depth", *_FILE.texts, *_HowCompared.model_fields)
    _FILE.write(path, {**numbers, **{name: getattr(comparison, name) for name in others}})


@explains_arguments
def load_comparison(path: str | os.PathLike[str]) -> TraceComparison:
    """Read a file of :meth:`TraceComparison.save`.

    Raises:
        DataFormatError: no such file; it was cut short or changed, or holds something else.

    >>> load_comparison("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    return _FILE.read(path, _comparison)


def _comparison(values: dict[str, Any]) -> TraceComparison:
    if values["ci"] is not None and not is_share(values["ci"]):
        raise ValueError(f"ci is {values['ci']}")
    if len(values["n_pairs"]) != 2 or values["reduce"] not in REDUCTIONS:
        raise ValueError("its facts are not those of two traces")
    if len(values["names"]) != 2:
        raise ValueError(f"it has {len(values['names'])} names")
    contrasts = {
        name: Contrast(**{number: values.pop(f"{name}.{number}") for number in NUMBERS}) for name in _CONTRASTS
    }
    return TraceComparison(**{**values, **contrasts, "n_pairs": tuple(values["n_pairs"])})

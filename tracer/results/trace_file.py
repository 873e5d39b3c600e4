"""Checks of trace files: types of arrays, ranges of scores, fields of the provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from ...errors import TraceError
from ...io.quoting import shown
from .metrics import metric_of

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["CheckedProvenance", "TraceProvenance", "check_arrays", "check_provenance", "check_scores"]

ROUNDING = 0.01  # a unit vector in bfloat16 has a length within 2^-8 of 1, and two of them make a cosine
_TYPES = {
    "scores.correct": ("float32",),
    "scores.foil": ("float32",),
    "scores.patched": ("float32",),
    "differs": ("bool",),
    "kinds": ("int8",),
    "text_pair": ("int64",),
    "noising": ("bool",),
    "named": ("bool",),
    "embeddings": ("float16", "float32", "float64"),
    "correct_embeddings": ("float32",),
    "foil_embeddings": ("float32",),
    "target_embeddings": ("float32",),
    "target": ("int64",),
}
Text = str | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Tower(_Strict):
    n_layers: PositiveInt | None = None
    n_heads: PositiveInt | None = None
    readout_layers: list[NonNegativeInt] = Field(default_factory=list)


class _Agreement(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    text_pairs: NonNegativeInt
    pairs: NonNegativeInt
    cells: NonNegativeInt
    rank_correlation: FiniteFloat | None
    lowest: FiniteFloat | None
    mean_error: FiniteFloat | None
    max_error: FiniteFloat | None
    relative_error: FiniteFloat | None


class _Metric(_Strict):
    name: str
    unit: FiniteFloat = Field(default=1, gt=0)
    against: Text = None
    candidates: NonNegativeInt | None = None
    per_pair: bool | None = None
    candidates_sha256: Text = None
    logit_scale: FiniteFloat | None = Field(default=None, gt=0)


class TraceProvenance(_Strict):
    """The entries of a trace's provenance that results are computed or described from; others are kept as they are."""

    model: Text = None
    weights_sha256: Text = None
    pairs_sha256: Text = None
    modality: Text = None
    site: str = "resid"
    first_layer: NonNegativeInt = Field(default=0, le=1)
    positions: str | int | list[int] | None = None
    heads: str | int | list[int] | None = None
    window: PositiveInt | None = None
    aligned: Text = None
    direction: str = "foil->correct"
    method: str = "exact"
    replace: str = "foil"
    donors: PositiveInt | None = None
    pool: dict[str, Any] | None = None
    directions: dict[str, Any] | None = None
    steps: PositiveInt | None = None
    dtype: Text = None
    metric: _Metric | None = None
    floor: FiniteFloat = Field(default=0, ge=0)
    seed: int | None = None
    created: Text = None
    tower: _Tower = Field(default_factory=_Tower)
    agreement: _Agreement | None = None


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Refuse an entry of a wrong type.

    Raises:
        TraceError: names the entry and quotes its value.

    >>> check_provenance({"window": 2.5})
    Traceback (most recent call last):
    tracescribe.errors.TraceError: its provenance has 2.5 as 'window': input should be a valid integer
    """
    try:
        TraceProvenance.model_validate(provenance)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:2])
        message = first["msg"][0].lower() + first["msg"][1:]
        raise TraceError(f"its provenance has {shown(first['input'])} as {place!r}: {message}") from None


def _checked(provenance: dict[str, Any]) -> dict[str, Any]:
    check_provenance(provenance)
    return provenance


CheckedProvenance = Annotated[dict[str, Any], AfterValidator(_checked)]
"""The provenance of a result that was computed from a trace, as a field of what its file says."""


def check_arrays(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse an array of another type of numbers than is written.

    Raises:
        TraceError: names the array and both types.
    """
    for name, allowed in _TYPES.items():
        if name in tensors and tensors[name].dtype.name not in allowed:
            raise TraceError(f"{name!r} holds {tensors[name].dtype.name} numbers, expected {' or '.join(allowed)}")


def check_scores(trace: CausalTrace) -> None:
    """Refuse scores that the trace's metric cannot have, such as a cosine of 2.

    Raises:
        TraceError: quotes the value that is farthest outside.
    """
    metric = metric_of(trace.provenance)
    low, high = metric.bounds
    for name in ("correct", "foil", "patched"):
        scores = getattr(trace.scores, name)
        start = min(0.0, high)  # within the bounds, for a trace without a cell
        least, most = np.nanmin(scores, initial=start), np.nanmax(scores, initial=start)
        worst = least if low - least > most - high else most
        if not low - ROUNDING <= worst <= high + ROUNDING:
            what = "cosines lie between -1 and 1" if metric.name == "cosine" else f"{metric.name} cannot be that"
            raise TraceError(f"scores.{name} holds {worst:.6g}, but {what}")

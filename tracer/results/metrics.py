"""Scores S that a trace can be about: cosine, distance, margin, probability and rank among candidates, functions.

With t the embedding of a caption, x that of the pair's target and r_1, ..., r_K the scores of the candidates that
the caption competes with (both embeddings of length 1, s the model's logit scale),

    cosine            S = t·x
    distance          S = -|t - x|
    margin            S = t·x - max r
    log_probability   S = log(e^(s t·x) / (e^(s t·x) + sum_j e^(s r_j)))
    probability       S = e^(s t·x) / (e^(s t·x) + sum_j e^(s r_j))
    rank              S = -(1 + number of r_j above t·x + half the number of r_j equal to it)

A larger S is a better one. CTE is (S_corr - S) / (S_corr - S_foil) for each, and its numerator and denominator have the
unit of S: cosines, nats (log_probability), shares (probability), places (rank).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ...errors import TraceError
from ...io.quoting import shown
from ...validation import Number, check_option
from ..choices import METRIC_NAMES

__all__ = ["METRICS", "TIE", "Metric", "metric_of", "register_metric"]

TIE = 1e-6  # cosines this close are equal: float32 cosines of the same vectors differ by about 1e-7
_FLOOR, _UNIT = 1e-4, 0.01  # of cosines
_FEW = 8  # scores per candidates' row that are counted one by one: sorting pays for more

Input = Literal["cosine", "candidates", "embeddings"]


@dataclass(frozen=True)
class Metric:
    """A score and what a reader of its numbers must know.

    floor: least |S_corr - S_foil| of a valid pair by default. Cosines are exact to about 1e-7; the floor is 1000 times
        what that is in S, so that rounding moves a CTE by 0.001 at most.
    unit: |S_corr - S_foil| below which a pair is "ambiguous" (:attr:`CausalTrace.segment`).
    bounds: between which S lies.
    takes: what ``function`` is called with: the cosines; the cosines, the candidates' scores and the logit scale; or
        the embeddings of several captions and of one target.
    scaled: whether the logit scale matters.
    """

    name: str
    function: Callable[..., Any]
    floor: float = _FLOOR
    unit: float = _UNIT
    bounds: tuple[float, float] = (-math.inf, math.inf)
    takes: Input = "embeddings"
    scaled: bool = False


Side = Float[np.ndarray, "side other"]
Rivals = Float[np.ndarray, "side candidate"]


def _cosine(cosines: Side) -> Side:
    return cosines


def _distance(cosines: Side) -> Side:
    return -np.sqrt(np.maximum(0.0, 2 - 2 * cosines))


def _margin(cosines: Side, rivals: Rivals, scale: float) -> Side:
    return cosines - rivals.max(axis=1, keepdims=True)


def _log_probability(cosines: Side, rivals: Rivals, scale: float) -> Side:
    top = rivals.max(axis=1, keepdims=True)
    others = scale * top + np.log(np.exp(scale * (rivals - top)).sum(axis=1, keepdims=True))
    return -np.logaddexp(0.0, others - scale * cosines)


def _probability(cosines: Side, rivals: Rivals, scale: float) -> Side:
    return np.exp(_log_probability(cosines, rivals, scale))


def _rank(cosines: Side, rivals: Rivals, scale: float) -> Side:
    out, n = np.empty_like(cosines), rivals.shape[1]
    if cosines.shape[1] <= _FEW:
        for column in range(cosines.shape[1]):
            difference = rivals - cosines[:, [column]]
            out[:, column] = -(1 + ((difference > TIE).sum(axis=1) + (difference >= -TIE).sum(axis=1)) / 2)
        return out
    for row, of_row in enumerate(np.sort(rivals, axis=1)):
        above = n - np.searchsorted(of_row, cosines[row] + TIE, side="right")
        at_least = n - np.searchsorted(of_row, cosines[row] - TIE, side="left")
        out[row] = -(1 + (above + at_least) / 2)
    return out


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cosine", _cosine, bounds=(-1, 1), takes="cosine"),
        Metric("distance", _distance, bounds=(-2, 0), takes="cosine"),
        Metric("margin", _margin, bounds=(-2, 2), takes="candidates"),
        Metric("log_probability", _log_probability, 0.01, 1.0, (-math.inf, 0), "candidates", scaled=True),
        Metric("probability", _probability, 0.0025, 0.01, (0, 1), "candidates", scaled=True),
        Metric("rank", _rank, 0.25, 1.0, (-math.inf, -1), "candidates"),
    )
}
_BUILT_IN = frozenset(METRIC_NAMES)


def register_metric(
    name: str, function: Callable[..., Any], *, floor: float = _FLOOR, unit: float = _UNIT
) -> Callable[..., Any]:
    """Give a function of embeddings a name, under which ``metric=`` of :func:`tracescribe.trace` takes it.

    A trace records the name and the function's module and name, not its code. A saved trace can be read without the
    function; scoring it again needs it.

    function: ``function(texts, target)`` with texts [n, embed] and target [embed], float64 of length 1, returns n
        finite scores, of which a larger one is better. It must score a text by itself, whatever the others are.
    floor, unit: see :class:`Metric`; in the function's own unit.

    Raises:
        TraceError: the name is no identifier or belongs to another metric; not a function; a bad floor or unit.

    >>> manhattan = register_metric("manhattan", lambda texts, target: -abs(texts - target).sum(axis=1))
    >>> METRICS["manhattan"].takes
    'embeddings'
    >>> _ = METRICS.pop("manhattan")
    """
    if not isinstance(name, str) or not name.isidentifier() or len(name) > 60:
        raise TraceError(f"the name of a metric must be an identifier such as 'manhattan', not {shown(name)}")
    if not callable(function):
        raise TraceError(f"metric {name!r} must be a function of (texts, target), not {shown(function)}")
    if name in _BUILT_IN or (name in METRICS and METRICS[name].function is not function):
        raise TraceError(f"there is a metric {name!r} already: choose another name")
    floor = check_option("floor", floor, (Number(0),))
    METRICS[name] = Metric(name, function, floor, check_option("unit", unit, (Number(1e-300),)))
    return function


def metric_of(provenance: Mapping[str, Any]) -> Metric:
    """The metric of a trace; of one that is not registered here, what the trace itself says.

    >>> metric_of({}).name, metric_of({"metric": {"name": "theirs", "unit": 2.0}}).unit
    ('cosine', 2.0)
    """
    told = provenance.get("metric") or {"name": "cosine"}
    if not isinstance(told, Mapping) or not isinstance(told.get("name"), str):
        raise TraceError(f"a trace's provenance must have its metric as {{'name': ...}}, not {shown(told)}")
    if told["name"] in _BUILT_IN:
        return METRICS[told["name"]]
    return Metric(told["name"], _unknown, unit=told.get("unit", _UNIT))


def _unknown(texts: Any, target: Any) -> Any:
    raise TraceError("this trace was scored by a function that is not registered in this process")

"""How a profile's values become alpha: NAST's min-max, and others that freeze no block or keep another budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ...tracer.results.statistics import minmax

ArrayMap = Callable[[np.ndarray], np.ndarray]

LIFT = 0.1  # what "floor" leaves the lowest block


def _floor(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    return LIFT + (1 - LIFT) * minmax(values)


def _max(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    high = values.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(high > 0, np.clip(values, 0, None) / high, np.nan)


def _mean(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    positive = np.clip(values, 0, None)
    mean = positive.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mean > 0, positive / mean, np.nan)


def _softmax(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    spread = values.std(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.exp((values - values.max(axis=-1, keepdims=True)) / spread)


def _rank(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    from scipy.stats import rankdata

    return (rankdata(values, axis=-1) - 1) / (values.shape[-1] - 1)


def _none(values: Float[np.ndarray, "*draw block"]) -> Float[np.ndarray, "*draw block"]:
    return np.clip(values, 0, None)


NORMALIZERS: dict[str, ArrayMap] = {
    "minmax": minmax,
    "max": _max,
    "mean": _mean,
    "softmax": _softmax,
    "rank": _rank,
    "floor": _floor,
    "none": _none,
}


def _blocks(values: np.ndarray) -> np.ndarray:
    return values[..., 1:]


def _inner(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[..., 1:-1], values[..., -2:-1]], axis=-1)


LAYER_CHOICES: dict[str, ArrayMap] = {"blocks": _blocks, "inner": _inner}

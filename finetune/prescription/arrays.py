"""Checks arrays that users give: real numbers, or an error that says what they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import PrescriptionError


def real_array(values: Any, expected: str) -> np.ndarray:
    """``values`` as float64.

    expected: what the message asks for instead.

    Raises PrescriptionError for masked, complex or textual values, and for what is no array at all.

    >>> real_array([1, 2], "numbers")
    array([1., 2.])
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise PrescriptionError(
            f"the array masks {int(np.ma.getmaskarray(values).sum())} of its {values.size} values; fill them first, "
            f"or pass {expected}"
        )
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            array = np.asarray(values, dtype=np.float64) if not _holds_text(array) else array
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a torch tensor that requires gradients
        raise PrescriptionError(f"cannot prescribe from {type(values).__name__}; pass {expected}") from None
    if array.dtype.kind not in "iuf":
        raise PrescriptionError(f"cannot prescribe from {type(values).__name__} ({array.dtype}); pass {expected}")
    return array.astype(np.float64)


def _holds_text(array: np.ndarray) -> bool:
    return any(isinstance(value, str | bytes | bool | complex) for value in array.flat)


def short(values: np.ndarray) -> str:
    """An array as a message quotes it.

    >>> short(np.array([0.25, 1.0]))
    '[0.25 1]'
    """
    return "[" + " ".join(f"{value:.3g}" for value in np.ravel(values)) + "]"

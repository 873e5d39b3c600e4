"""Results whose arrays are read-only, as are those of their copies."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from ...cards import short_repr
from ...errors import TraceError

__all__ = ["ReadOnlyArrays", "set_array"]


class ReadOnlyArrays:
    """Base of frozen dataclasses of arrays: those of an object, a copy, a deep copy or a pickle of it are read-only.

    numpy's own copies and pickles are writable, whatever the array they were made from.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in cls.__dict__:  # dataclass would write out every array
            cls.__repr__ = short_repr  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, entry.name, read_only(value))

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, read_only(value) if isinstance(value, np.ndarray) else value)


def read_only(array: np.ndarray) -> np.ndarray:
    """A read-only view; the array that was given stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


def set_array(owner: Any, name: str, dtype: Any, ndim: int) -> None:
    """Store a field as a read-only view of this type and number of axes."""
    array = np.asarray(getattr(owner, name), dtype=dtype)
    if array.ndim != ndim:
        raise TraceError(f"{type(owner).__name__}.{name} must have {ndim} axes, not shape {array.shape}")
    object.__setattr__(owner, name, read_only(array))

"""Reads a matrix of numbers from a file: .npy or safetensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..errors import DataFormatError
from .quoting import shown_path
from .reading import MAX_DOCUMENT, open_regular
from .tensors import read_tensors

__all__ = ["read_matrix"]


def read_matrix(path: str | os.PathLike[str]) -> Float[np.ndarray, "row column"]:
    """The one matrix of a .npy file, or of a safetensors file that holds one array; float64.

    Raises:
        DataFormatError: no such file, another kind of file, pickled objects, or an array that is no matrix of finite
            numbers.

    >>> read_matrix("no/such.npy")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.npy': No such file or directory
    """
    name, suffix = shown_path(path), Path(path).suffix.lower()
    if suffix == ".safetensors":
        arrays = read_tensors(path, needs_checksum=False).tensors
        if len(arrays) != 1:
            raise DataFormatError(f"{name} holds {len(arrays)} arrays: give a file with one matrix")
        found = next(iter(arrays.values()))
    elif suffix == ".npy":
        with open_regular(path, MAX_DOCUMENT) as handle:
            try:
                found = np.load(handle, allow_pickle=False)
            except (ValueError, EOFError, OSError, SyntaxError, MemoryError) as error:
                raise DataFormatError(f"{name} is no .npy file of numbers: {error}") from error
    else:
        raise DataFormatError(f"{name} must end in .npy or .safetensors")
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu" or not found.size:
        kind = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise DataFormatError(f"{name} holds {kind}, not a matrix of numbers")
    matrix = found.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise DataFormatError(f"{name} holds NaN or infinity")
    return matrix

"""Safetensors files written array after array and read by memory map, so that no second copy of an array is made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

__all__ = ["map_tensor", "write_tensors"]

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_CHUNK = 8 * 2**20  # bytes of an array that are made contiguous at a time


def write_tensors(handle: IO[bytes], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: 8 bytes of header length, a JSON header, the arrays' bytes in little-endian order.

    The format is https://github.com/huggingface/safetensors#format; wide types come first, so that all are aligned.

    >>> import io
    >>> from safetensors.numpy import load
    >>> file = io.BytesIO()
    >>> write_tensors(file, {"x": np.arange(6.0).reshape(2, 3).T}, {"format": "demo"})
    >>> load(file.getvalue())["x"].tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    handle.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        array = np.atleast_1d(tensors[name])
        rows = max(1, _CHUNK // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            part = np.ascontiguousarray(array[start : start + rows])
            handle.write(part.astype(part.dtype.newbyteorder("<"), copy=False).data)


def map_tensor(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """One array of a safetensors file as a read-only memory map; the file must have been checked before."""
    with open(path, "rb") as file:  # noqa: PTH123
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    dtype = next(numpy for numpy, known in _NAMES.items() if known == entry["dtype"])
    offset = 8 + length + entry["data_offsets"][0]
    return np.memmap(
        path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r", offset=offset, shape=tuple(entry["shape"])
    )

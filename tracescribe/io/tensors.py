"""Safetensors files with a checksum over all their bytes, written array after array and read by memory map."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ..errors import DataFormatError, OutputError, TracescribeError
from .json_lines import parse_json
from .quoting import shown, shown_path
from .reading import open_regular

__all__ = [
    "CHECKSUM",
    "MAX_HEADER",
    "TensorFile",
    "explaining_content",
    "is_tensor_file",
    "map_tensor",
    "pack_texts",
    "read_metadata",
    "read_tensors",
    "reading_result",
    "unpack_texts",
    "write_tensors",
]

MAX_HEADER = 100_000_000  # bytes; safetensors itself refuses longer ones
CHECKSUM = "file_sha256"  # the metadata's entry over all bytes of the file, where its own 64 digits stand as zeros
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
_NO_SUM = "0" * 64


@dataclass(frozen=True)
class TensorFile:
    """What a safetensors file holds: texts by name, and arrays by name, mapped read-only from the disk."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, np.ndarray]


def write_tensors(handle: IO[bytes], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: 8 bytes of header length, a JSON header, the arrays' bytes in little-endian order.

    The format is https://github.com/huggingface/safetensors#format; wide types come first, so that all are aligned.
    The metadata get an entry "file_sha256" over all bytes of the file, which :func:`read_tensors` checks.

    handle: open for writing at its beginning; it must be able to seek.

    Raises:
        OutputError: the names and the metadata take more than `MAX_HEADER` bytes, which no reader would accept.

    >>> import io
    >>> from safetensors.numpy import load
    >>> file = io.BytesIO()
    >>> write_tensors(file, {"x": np.arange(6.0).reshape(2, 3).T}, {"format": "demo"})
    >>> load(file.getvalue())["x"].tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {CHECKSUM: _NO_SUM, **metadata}}
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
    if len(text) > MAX_HEADER:
        raise OutputError(
            f"the texts of this result take {len(text):,} bytes of header, and readers of safetensors files accept "
            f"{MAX_HEADER:,}; write fewer of them to a file"
        )
    digest = hashlib.sha256()

    def put(part: Any) -> None:
        digest.update(part)
        handle.write(part)

    put(len(text).to_bytes(8, "little") + text)
    for name in order:
        array = np.atleast_1d(tensors[name])
        rows = max(1, _CHUNK // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            part = np.ascontiguousarray(array[start : start + rows])
            part = part.astype(part.dtype.newbyteorder("<"), copy=False)
            if part.size:
                put(part.data.cast("B"))
    handle.seek(8 + text.index(_NO_SUM.encode()))
    handle.write(digest.hexdigest().encode())
    handle.seek(0, os.SEEK_END)


def is_tensor_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as safetensors do: the length of a header that the file can hold, and its first bracket.

    Raises:
        DataFormatError: there is no such file, or it is no regular file.
    """
    with open_regular(path) as handle:
        start = handle.read(9)
        handle.seek(0, os.SEEK_END)
        return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= handle.tell() - 8


def read_tensors(path: str | os.PathLike[str], *, needs_checksum: bool = True) -> TensorFile:
    """A file of :func:`write_tensors`: its metadata, and its arrays as read-only memory maps.

    All bytes are compared with the file's "file_sha256", which takes about a second per GiB.

    needs_checksum: refuse files without one; otherwise they, as other programs write them, are read as they are.

    Raises:
        DataFormatError: no such file; it is no regular file; it was cut short or changed; or it holds a type of numbers
            that these files never hold.
    """
    name = shown_path(path)
    header, text = _header(path)
    metadata = header.pop("__metadata__", {})
    stated = metadata.get(CHECKSUM)
    if stated is None and needs_checksum:
        raise DataFormatError(f"{name} states no checksum of its bytes: another program wrote it, or it is damaged")
    if stated is not None and _hash(path, text, stated) != stated:
        raise DataFormatError(f"{name} is damaged: its bytes are not those that were written (SHA-256 differs)")
    return TensorFile(metadata, {key: _map(path, key, entry, 8 + len(text)) for key, entry in header.items()})


def read_metadata(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """The metadata of a file of :func:`write_tensors` alone, without a look at the arrays' bytes.

    Raises:
        DataFormatError: no such file; it is no regular file; or it was cut short.
    """
    return _header(path)[0].get("__metadata__", {})


@contextmanager
def explaining_content(name: str, format: str) -> Iterator[None]:
    """Say which file is meant where a result cannot be made of what :func:`read_tensors` read.

    Raises:
        DataFormatError: in place of a KeyError (an entry is missing), and of another error over a value.

    >>> with explaining_content("'a.safetensors'", "demo/1"):
    ...     {}["layers"]
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: 'a.safetensors' says it is 'demo/1' but has no 'layers'
    """
    try:
        yield
    except KeyError as error:
        raise DataFormatError(f"{name} says it is {format!r} but has no {error.args[0]!r}") from error
    except (TypeError, ValueError, IndexError, TracescribeError) as error:
        raise DataFormatError(f"{name} is damaged: {error}") from error


@contextmanager
def reading_result(path: str | os.PathLike[str], format: str) -> Iterator[TensorFile]:
    """The file of a result of this format, for a block that makes the result of it; see :func:`explaining_content`.

    Raises:
        DataFormatError: no such file; it was cut short or changed; or it has another format.
    """
    file, name = read_tensors(path), shown_path(path)
    if file.metadata.get("format") != format:
        raise DataFormatError(f"{name} has format {shown(file.metadata.get('format'))}, expected {format!r}")
    with explaining_content(name, format):
        yield file


def map_tensor(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """One array of a safetensors file as a read-only memory map; the file must have been checked before."""
    with open(path, "rb") as file:  # noqa: PTH123
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    return _map(path, name, entry, 8 + length)


def pack_texts(name: str, texts: Iterable[str]) -> dict[str, np.ndarray]:
    """Texts as two arrays, ``name`` (their UTF-8 bytes) and ``name.ends``: a header has room for few texts only.

    >>> unpack_texts("ids", pack_texts("ids", ["a", "", "severe → no"]))
    ('a', '', 'severe → no')
    """
    # lone surrogates, which some tokenizers produce, survive as such
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {
        name: np.frombuffer(b"".join(encoded), dtype=np.uint8),
        f"{name}.ends": np.cumsum([len(text) for text in encoded], dtype=np.int64),
    }


def unpack_texts(name: str, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The texts of :func:`pack_texts`.

    Raises:
        KeyError: one of the two arrays is missing.
        ValueError: they are not texts.
    """
    data, ends = tensors[name], tensors[f"{name}.ends"]
    starts: Sequence[int] = [0, *ends[:-1].tolist()]
    whole = data.dtype == np.uint8 and data.ndim == ends.ndim == 1 and (ends[-1] if len(ends) else 0) == len(data)
    if not whole or ends.dtype != np.int64 or (np.diff(ends, prepend=0) < 0).any():
        raise ValueError(f"{name!r} does not hold texts")
    raw = data.tobytes()
    return tuple(
        raw[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends.tolist(), strict=True)
    )


def _header(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """The header, as what it says and as its bytes."""
    from safetensors import SafetensorError, safe_open

    name = shown_path(path)
    with open_regular(path) as handle:
        length = int.from_bytes(handle.read(8), "little")
        text = handle.read(length) if length <= MAX_HEADER else b""
    try:
        with safe_open(os.fspath(path), framework="np"):  # checks shapes, types and offsets against the file's size
            pass
        return parse_json(text.decode("utf-8"), name, lone_surrogates=True), text
    except (SafetensorError, UnicodeDecodeError, OSError) as error:
        raise DataFormatError(f"{name} is not a whole safetensors file ({error}); was it cut short?") from error


def _map(path: str | os.PathLike[str], name: str, entry: Mapping[str, Any], start: int) -> np.ndarray:
    dtype = next((numpy for numpy, known in _NAMES.items() if known == entry["dtype"]), None)
    if dtype is None:
        known = ", ".join(_NAMES.values())
        raise DataFormatError(f"{shown_path(path)}: {name!r} is of type {entry['dtype']}, expected one of {known}")
    shape, little = tuple(entry["shape"]), np.dtype(dtype).newbyteorder("<")
    if 0 in shape:  # nothing to map
        return np.zeros(shape, little)
    return np.memmap(path, dtype=little, mode="r", offset=start + entry["data_offsets"][0], shape=shape)


def _hash(path: str | os.PathLike[str], header: bytes, stated: str) -> str:
    """SHA-256 over all bytes, with the digits of the checksum itself as zeros."""
    digest = hashlib.sha256(len(header).to_bytes(8, "little"))
    digest.update(header.replace(stated.encode(), _NO_SUM.encode(), 1))
    with open_regular(path) as handle:
        handle.seek(8 + len(header))
        while part := handle.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()

"""TorchScript archives: weights are read as data, and the program in the archive is never run.

``torch.jit.load`` runs it: a class in an archive may have a ``__setstate__`` of its own, which may write files.
"""

from __future__ import annotations

import ast
import collections
import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}

_MAX_PROGRAM = 2**26  # bytes of a source file, or of the pickle that says where the tensors are


class ArchiveError(Exception):
    """The weights of an archive cannot be had without running its program."""


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in f"/{name}" or name.endswith("constants.pkl") for name in archive.namelist())


def archive_state(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of a TorchScript archive by name, as its ``state_dict()`` would give them.

    Raises:
        ArchiveError: a class has a ``__setstate__`` of its own, or the archive holds anything but plain tensors.
        Exception: whatever reading a damaged file raises.
    """
    with zipfile.ZipFile(path) as archive:
        root = next((name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if root is None or root.count("/") != 1:
            raise ArchiveError("it holds no data.pkl")
        if f"{root}byteorder" in archive.namelist() and _entry(archive, f"{root}byteorder") != b"little":
            raise ArchiveError("it was written on a big-endian machine")
        module = _Reader(archive, root).load()
        if not isinstance(module, _Object):
            raise ArchiveError("it holds no module")
        return dict(_weights(module, archive, root, "", ()))


def _entry(archive: zipfile.ZipFile, name: str, *, stored: bool = False) -> bytes:
    """The bytes of an entry. Tensors are never compressed, so that they are no larger than the file."""
    found = archive.getinfo(name)
    if stored and found.compress_type != zipfile.ZIP_STORED:
        raise ArchiveError(f"its tensor data {name!r} are compressed, which torch never does")
    if not stored and found.file_size > _MAX_PROGRAM:
        raise ArchiveError(f"its entry {name!r} has {found.file_size:,} bytes, and at most {_MAX_PROGRAM:,} are read")
    return archive.read(name)


class _Object:
    """An instance of a class of the archive's program: its state only."""

    name = ""
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors, lists and inert objects, and nothing that could run."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(_entry(archive, f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return type(name, (_Object,), {"name": f"{module}.{name}"})
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return list
        if module == "torch.jit._pickle" and name == "build_tensorlist":
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return _untagged
        raise ArchiveError(f"it names {module}.{name}, which is neither a tensor nor a list")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ArchiveError(f"it holds a {kind!r} that is no tensor")
        if key not in self._storages:
            raw = bytearray(_entry(self._archive, f"{self._root}data/{key}", stored=True))
            self._storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage) != count:
            raise ArchiveError(f"its tensor data {key!r} has {len(storage)} values and should have {count}")
        return storage


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    count = 1
    for side in size:
        count *= side
    if count > len(storage):
        raise ArchiveError(f"it has a tensor of shape {list(size)} over {len(storage)} values")
    return storage.as_strided(size, stride, offset)  # refuses what lies outside the storage


def _untagged(value: Any, tag: str) -> Any:
    return value


def _weights(
    module: _Object, archive: zipfile.ZipFile, root: str, prefix: str, inside: tuple[int, ...]
) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, then those of the submodules, in the order of ``state_dict()``."""
    if id(module) in inside:
        raise ArchiveError("a module of it holds itself")
    parameters, buffers = _declared(module.name, archive, root)
    if not isinstance(module.state, dict):
        raise ArchiveError(f"its class {module.name} restores itself by code of its own (__setstate__)")
    for name in (*parameters, *buffers):
        value = module.state.get(name)
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
    for name, value in module.state.items():
        if isinstance(value, _Object):
            yield from _weights(value, archive, root, f"{prefix}{name}.", (*inside, id(module)))


def _declared(name: str, archive: zipfile.ZipFile, root: str) -> tuple[list[str], list[str]]:
    """The names of a class's parameters and buffers, as its source in the archive lists them; the source is only read.

    Raises:
        ArchiveError: the class is not in the archive, or has a ``__setstate__``.
    """
    module, _, class_name = name.rpartition(".")
    place = f"{root}code/{module.replace('.', '/')}.py"
    if place not in archive.namelist():
        raise ArchiveError(f"its class {name} is not in it")
    source = _entry(archive, place).decode()
    found = re.search(rf"^class {re.escape(class_name)}\(Module\):\n((?:[ \t]+.*\n|\n)*)", source, re.MULTILINE)
    if found is None:
        raise ArchiveError(f"its class {name} is no module")
    body = found.group(1)
    if re.search(r"^\s+def __setstate__\(", body, re.MULTILINE):
        raise ArchiveError(f"its class {name} restores itself by code of its own (__setstate__)")
    lists = []
    for kind in ("parameters", "buffers"):
        listed = re.search(rf"^  __{kind}__ = (\[.*\])$", body, re.MULTILINE)
        lists.append([str(entry) for entry in ast.literal_eval(listed.group(1))] if listed else [])
    return lists[0], lists[1]

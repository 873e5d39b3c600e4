"""The cache: a folder of shards, each with the patched embeddings of some text pairs, found by content.

A shard is written completely or not at all, under a name that follows from what is in it, and carries a checksum over
all its bytes. So any number of processes may write to one folder, a killed run loses at most the shard it was working
on, and an entry made from other weights, texts or settings is never found instead of the wanted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ...errors import DataFormatError, OutputError, StaleCacheError, TraceWarning
from ...io.atomic import remove_abandoned, write_atomically
from ...io.json_lines import read_json
from ...io.reading import is_folder
from ...io.tensors import TensorFile, read_tensors, write_tensors
from ...warn import warn_user
from .cache_keys import shard_key

__all__ = ["Shard", "Store"]

FORMAT, SHARD_FORMAT = "tracescribe.cache/2", "tracescribe.shard/2"
MARKER = "tracescribe-cache.json"
_AXES = {"base": 2, "donor": 2, "patched": 4}


@dataclass(frozen=True, eq=False)
class Shard:
    """Embeddings of a shard's text pairs, in its order; NaN where a pair has fewer columns than the widest."""

    base: Float32[np.ndarray, "text_pair embed"]
    donor: Float32[np.ndarray, "text_pair embed"]
    patched: Float32[np.ndarray, "text_pair layer column embed"]


def check_cache(folder: str | os.PathLike[str]) -> None:
    """Raise if what is at ``folder`` is no cache and no empty folder; nothing is created or changed.

    Raises:
        StaleCacheError: a file, or a folder that holds something else.
        OutputError: the folder cannot be listed.
    """
    name, place = os.fspath(folder), Path(folder)
    if not os.path.exists(folder):  # noqa: PTH110 (never raises)
        return
    if not is_folder(folder):
        raise StaleCacheError(
            f"the cache {name!r} is a file, but a cache is a folder: give a new or empty folder (a saved trace is read "
            f"by load_trace)"
        )
    try:
        inside = {path.name for path in place.iterdir() if not path.name.startswith(".tracescribe-")}
    except OSError as error:
        raise OutputError(f"cannot use the folder {name!r} as a cache: {error.strerror or error}") from error
    # asked for again: another process may have made the cache while the folder was listed
    if inside and MARKER not in inside and not (place / MARKER).exists():
        raise StaleCacheError(
            f"{name!r} is not a tracescribe cache: it has no {MARKER} and holds {sorted(inside)[0]!r}; give a new or "
            f"empty folder"
        )


class Store:
    """Shards in a folder.

    >>> import tempfile
    >>> shard = Shard(np.zeros((1, 2), "f4"), np.ones((1, 2), "f4"), np.ones((1, 3, 4, 2), "f4"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store(folder)
    ...     store.write(["key of a text pair"], shard)
    ...     Store(folder).read(["key of a text pair"]).patched.shape, store.read(["another"])
    ((1, 3, 4, 2), None)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a cache folder, or make one.

        Raises:
            StaleCacheError: a file, a folder that holds something else, or a cache of another version of the format.
            OutputError: the folder cannot be made or written to.
        """
        self.folder = Path(folder)
        self._shards = self.folder / "shards"
        self._known: dict[str, tuple[Path, int]] | None = None  # which shard holds a text pair, and in which row
        name = os.fspath(folder)
        check_cache(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot use the folder {name!r} as a cache: {error.strerror or error}") from error
        if (self.folder / MARKER).exists():
            self._check_marker()
        else:
            with write_atomically(self.folder / MARKER) as file:
                json.dump({"format": FORMAT}, file)
        try:
            self._shards.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot use the folder {name!r} as a cache: {error.strerror or error}") from error
        remove_abandoned(self._shards)

    def _check_marker(self) -> None:
        try:
            found = read_json(self.folder / MARKER, 4096)["format"]
        except (DataFormatError, KeyError, TypeError) as error:
            raise StaleCacheError(f"{str(self.folder / MARKER)!r} is damaged ({error}): use another folder") from None
        if found != FORMAT:
            raise StaleCacheError(
                f"the cache {str(self.folder)!r} has format {found!r}, expected {FORMAT!r}: it was written by another "
                f"version of tracescribe; use another folder"
            )

    def path(self, keys: Sequence[str]) -> Path:
        """The file of a shard, whether it is there or not."""
        return self._shards / f"{shard_key(keys)}.safetensors"

    def write(self, keys: Sequence[str], shard: Shard) -> None:
        """Store one shard.

        Raises:
            OutputError: the disk is full, or the folder cannot be written to.
        """
        tensors = {name: np.asarray(getattr(shard, name), dtype=np.float32) for name in _AXES}
        with write_atomically(self.path(keys), binary=True) as file:
            write_tensors(file, tensors, {"format": SHARD_FORMAT, "keys": json.dumps(list(keys))})

    def read(self, keys: Sequence[str]) -> Shard | None:
        """One shard, or None if it is not there; a damaged one warns (TraceWarning) and counts as not there."""
        path = self.path(keys)
        if path.exists():
            loaded = self._load(path)
            if loaded is not None and loaded[0] == list(keys):
                return loaded[1]
        return self._gather(keys)

    def _gather(self, keys: Sequence[str]) -> Shard | None:
        """A shard whose pairs lie in other shards."""
        places = [self._index().get(key) for key in keys]
        loaded: dict[Path, tuple[list[str], Shard] | None] = {}
        rows: list[Shard] = []
        for key, place in zip(keys, places, strict=True):
            if place is None:
                return None
            path, row = place
            if path not in loaded:
                loaded[path] = self._load(path)
            found = loaded[path]
            if found is None or found[0][row : row + 1] != [key]:
                return None
            rows.append(Shard(*(getattr(found[1], name)[row : row + 1] for name in _AXES)))
        widest = max(row.patched.shape[2] for row in rows)
        padded = [
            np.pad(row.patched, ((0, 0), (0, 0), (0, widest - row.patched.shape[2]), (0, 0)), constant_values=np.nan)
            for row in rows
        ]
        return Shard(
            np.concatenate([row.base for row in rows]),
            np.concatenate([row.donor for row in rows]),
            np.concatenate(padded),
        )

    def _index(self) -> dict[str, tuple[Path, int]]:
        """Where each text pair is, by the headers of the shards that are there when it is first asked for."""
        if self._known is None:
            from safetensors import SafetensorError, safe_open

            self._known = {}
            for path in sorted(self._shards.glob("*.safetensors")):
                if not path.is_file():  # a pipe would be waited for
                    continue
                with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
                    with safe_open(os.fspath(path), framework="np") as file:
                        keys = json.loads((file.metadata() or {})["keys"])
                    for row, key in enumerate(keys):
                        self._known.setdefault(key, (path, row))
        return self._known

    def _load(self, path: Path) -> tuple[list[str], Shard] | None:
        """The keys and content of one shard, if all its bytes are those that were written."""
        try:
            return _content(read_tensors(path))
        except (DataFormatError, ValueError, KeyError, TypeError) as error:
            reason = str(error)
        warn_user(
            f"the shard {str(path)!r} is damaged ({reason}) and is not used; its text pairs are traced again",
            TraceWarning,
        )
        return None


def _content(file: TensorFile) -> tuple[list[str], Shard]:
    if file.metadata.get("format") != SHARD_FORMAT:
        raise ValueError(f"its format is {file.metadata.get('format')!r}")
    keys = json.loads(file.metadata["keys"])
    arrays = {name: file.tensors[name] for name in _AXES}
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.ndim != _AXES[name] or len(array) != len(keys):
            raise ValueError(f"{name!r} is {array.dtype} of shape {array.shape}")
    return keys, Shard(**arrays)

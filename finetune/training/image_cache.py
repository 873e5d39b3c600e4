"""Image embeddings on disk: every image of a frozen encoder is encoded once, also when the program is killed midway."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int

from ...errors import DataFormatError, OutputError
from ...io.quoting import shown_path

if TYPE_CHECKING:
    from ...patching import DualEncoder

logger = logging.getLogger(__name__)

CLOSE = 1e-4  # two probes of one encoder: other orders of summation differ by 1e-7, half precision by 1e-3 and more
_CHUNK = 256  # images between two writes


class ImageCache:
    """Embeddings of image files by path, size and time of change, one folder for each image encoder.

    An encoder (with its preprocessing) is recognised by what it makes of two probe images. Rows are appended to
    ``vectors.f32``, and count once their line in ``keys.jsonl`` is complete; each line has a checksum of its row.
    """

    def __init__(self, folder: str | os.PathLike[str], model: DualEncoder) -> None:
        self._model, self._width = model, model.embed_dim
        self.place = self._place_of(Path(folder), _probe(model))

    def embed(self, paths: Sequence[str]) -> tuple[Float32[np.ndarray, "row embed"], Int[np.ndarray, " path"]]:
        """All cached rows, mapped from the disk, and the row of each path; what is missing is encoded first.

        Raises:
            DataFormatError: an image cannot be read; those before it are kept.
            OutputError: the cache cannot be written.
        """
        with _locked(self.place), self._writing():
            rows = self._read_keys()
            keys = [_key(path) for path in paths]
            missing = list(dict.fromkeys(i for i, key in enumerate(keys) if key not in rows))
            todo = list({keys[i]: paths[i] for i in missing}.items())
            for at in range(0, len(todo), _CHUNK):
                part = todo[at : at + _CHUNK]
                vectors = self._model.encode_images([path for _, path in part]).float().cpu().numpy()
                self._append([key for key, _ in part], vectors, rows)
            if todo:
                logger.info("encoded %d images into %s, %d were there", len(todo), self.place, len(rows) - len(todo))
        return self._vectors(len(rows)), np.array([rows[key] for key in keys], dtype=np.int64)

    # files ----------------------------------------------------------------------------------------------------------

    def _read_keys(self) -> dict[str, int]:
        """Row by key; whatever a killed process left behind the last complete row is cut off."""
        keys, vectors, width = self.place / "keys.jsonl", self.place / "vectors.f32", 4 * self._width
        keys.touch()
        vectors.touch()
        rows: dict[str, int] = {}
        good = 0
        with keys.open("rb") as lines, vectors.open("rb") as data:
            for line in lines:
                row = data.read(width)
                if not line.endswith(b"\n") or len(row) < width:
                    break
                try:
                    key, checksum = json.loads(line)
                except ValueError:
                    break
                if zlib.crc32(row) != checksum:
                    raise DataFormatError(
                        f"the image cache {shown_path(self.place)} is damaged (row {len(rows) + 1} of vectors.f32 is "
                        "not what was written): delete the folder, and the images are encoded again"
                    )
                rows[key] = len(rows)
                good += len(line)
        os.truncate(keys, good)
        os.truncate(vectors, len(rows) * width)
        return rows

    def _append(self, keys: list[str], vectors: Float32[np.ndarray, "n embed"], rows: dict[str, int]) -> None:
        vectors = np.ascontiguousarray(vectors, dtype="<f4")
        for name, content in (
            ("vectors.f32", vectors.tobytes()),
            ("keys.jsonl", "".join(_line(key, row) for key, row in zip(keys, vectors, strict=True)).encode()),
        ):
            with (self.place / name).open("ab") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        for key in keys:
            rows[key] = len(rows)

    def _vectors(self, count: int) -> Float32[np.ndarray, "row embed"]:
        # copy-on-write: torch wants memory that it may write to, and nothing here does
        return np.memmap(self.place / "vectors.f32", dtype="<f4", mode="c", shape=(count, self._width))

    def _place_of(self, folder: Path, probe: Float32[np.ndarray, "two embed"]) -> Path:
        """The folder of this encoder, made if there is none yet."""
        with self._writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                number = 0
                while (place := folder / f"encoder-{number}" / "probe.npy").exists():
                    known = np.load(place, allow_pickle=False)
                    if known.shape == probe.shape and np.abs(known - probe).max() < CLOSE:
                        return place.parent
                    number += 1
                place.parent.mkdir(exist_ok=True)
                temporary = place.with_suffix(".tmp.npy")
                np.save(temporary, probe)
                temporary.replace(place)
                return place.parent

    @contextlib.contextmanager
    def _writing(self, folder: Path | None = None) -> Iterator[None]:
        place = self.place if folder is None else folder
        try:
            yield
        except OSError as problem:
            if isinstance(problem, DataFormatError | OutputError):
                raise
            raise OutputError(
                f"cannot write the image cache {shown_path(place)}: {problem.strerror or problem}"
            ) from problem


def _probe(model: DualEncoder) -> Float32[np.ndarray, "two embed"]:
    from PIL import Image

    # every channel another pattern: an encoder that takes them in another order must look different
    ramp = np.linspace(0, 255, 48 * 64 * 3).reshape(3, 48, 64).transpose(1, 2, 0)
    waves = 127 + 127 * np.sin(np.arange(64 * 64 * 3) ** 1.5 / 40).reshape(64, 64, 3)
    images = [Image.fromarray(pixels.astype(np.uint8)) for pixels in (ramp, waves)]
    return model.encode_images(images).float().cpu().numpy()


def _key(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as problem:
        raise DataFormatError(f"cannot read the image {shown_path(path)}: {problem.strerror}") from None
    return f"{os.path.realpath(path)}|{found.st_size}|{found.st_mtime_ns}"


def _line(key: str, row: Float32[np.ndarray, " embed"]) -> str:
    return json.dumps([key, zlib.crc32(row.tobytes())]) + "\n"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, where the system has locks; a second one waits and finds the rows of the first."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

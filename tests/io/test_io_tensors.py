"""Files written array by array are safetensors files, and a large array is never copied whole."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load
from safetensors.torch import save_file

from tracescribe.errors import DataFormatError, OutputError
from tracescribe.io.tensors import map_tensor, pack_texts, read_tensors, unpack_texts, write_tensors

DTYPES = ("float64", "float32", "float16", "int64", "int8", "uint8", "bool")


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4),
    order=st.sampled_from("CF"),
)
def test_safetensors_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], dtypes: list[str], order: str
) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        f"t{i}": np.asarray((rng.random(shape) * 100).astype(dtype), order=order)  # type: ignore[call-overload]
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    path = tmp_path_factory.mktemp("tensors") / "file"
    with path.open("wb") as handle:
        write_tensors(handle, tensors, {"note": "severe → no"})
    with safe_open(str(path), framework="np") as file:
        assert file.metadata().items() >= {"note": "severe → no"}.items()
    found = load(path.read_bytes())
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
        if array.size:
            np.testing.assert_array_equal(map_tensor(path, name), array)


class Nowhere(io.RawIOBase):
    """A file that keeps nothing."""

    def write(self, data: object) -> int:
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset


@pytest.mark.parametrize("strided", [False, True])
def test_writing_copies_no_large_array(tmp_path: Path, strided: bool) -> None:
    array = np.zeros((512, 2**16), dtype=np.float32)  # 128 MiB
    array = array[:, ::-1] if strided else array
    tracemalloc.start()
    write_tensors(Nowhere(), {"x": array}, {})  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20  # two pieces of 8 MiB at most; none where memory is in order


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "a.safetensors"
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.arange(3), "none": np.zeros((0, 4))}
    with path.open("wb") as handle:
        write_tensors(handle, arrays | pack_texts("ids", ["a", "", "\ud800 →"]), {"format": "demo/1"})
    return path


def test_what_was_written_is_read(small: Path) -> None:
    found = read_tensors(small)
    assert found.metadata["format"] == "demo/1"
    assert found.tensors["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and found.tensors["x"].dtype == np.float32
    assert not found.tensors["x"].flags.writeable
    assert found.tensors["none"].shape == (0, 4)
    assert unpack_texts("ids", found.tensors) == ("a", "", "\ud800 →")


def test_changed_bits_are_found(small: Path, tmp_path: Path) -> None:
    good, path = small.read_bytes(), tmp_path / "b.safetensors"
    for bit in range(0, 8 * len(good), 13):  # a prime: every place within a byte and within a word
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(DataFormatError):
            read_tensors(path)
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(DataFormatError):
            read_tensors(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(DataFormatError):
        read_tensors(path)


def test_types_that_are_never_written_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    save_file({"x": torch.zeros(2, dtype=torch.bfloat16)}, path)
    with pytest.raises(DataFormatError, match="'x' is of type BF16, expected one of F64"):
        read_tensors(path, needs_checksum=False)
    with pytest.raises(DataFormatError, match="states no checksum"):
        read_tensors(path)


def test_a_header_that_no_reader_accepts_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"take 100,000,\d+ bytes of header"):
        write_tensors(Nowhere(), {}, {"long": "x" * 100_000_000})  # type: ignore[arg-type]
    texts = [f"patient {number}" for number in range(500_000)]  # as strings in the header they would be 8 MB
    path = tmp_path / "many.safetensors"
    with path.open("wb") as handle:
        write_tensors(handle, pack_texts("ids", texts), {})
    assert unpack_texts("ids", read_tensors(path).tensors) == tuple(texts)


@pytest.mark.parametrize(
    "damage",
    [
        {"ids.ends": np.array([1, 3, 2])},
        {"ids.ends": np.array([1, 3, 99])},
        {"ids.ends": np.array([1.0])},
        {"ids.ends": np.zeros(0, np.int64)},
        {"ids": np.zeros(3)},
        {"ids": np.full(7, 0xFF, np.uint8)},
    ],
)
def test_texts_that_do_not_fit_their_ends_are_refused(damage: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError):
        unpack_texts("ids", pack_texts("ids", ["a", "bc", "defg"]) | damage)

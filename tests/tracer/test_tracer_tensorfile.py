"""Files written array by array are safetensors files, and a large array is never copied whole."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load

from tracescribe.io.tensors import map_tensor, write_tensors

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
        assert file.metadata() == {"note": "severe → no"}
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


@pytest.mark.parametrize("strided", [False, True])
def test_writing_copies_no_large_array(tmp_path: Path, strided: bool) -> None:
    array = np.zeros((512, 2**16), dtype=np.float32)  # 128 MiB
    array = array[:, ::-1] if strided else array
    tracemalloc.start()
    write_tensors(Nowhere(), {"x": array}, {})  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20  # two pieces of 8 MiB at most; none where memory is in order

"""What is saved can be read: whatever the provenance holds, a file reads back the same or is refused when written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import synthetic_head_edges, synthetic_negator_attention, synthetic_neurons
from fuzz.files import a_circuit, a_comparison, a_faithfulness, a_trace

import tracescribe as ts
from tracescribe.errors import OutputError, TraceError

KINDS: dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "trace": (a_trace, ts.load_trace),
    "comparison": (a_comparison, ts.tracer.load_comparison),
    "circuit": (a_circuit, ts.tracer.load_circuit),
    "faithfulness": (a_faithfulness, ts.load_faithfulness),
    "head edges": (synthetic_head_edges, ts.tracer.load_head_edges),
    "negator attention": (synthetic_negator_attention, ts.tracer.load_negator_attention),
    "neurons": (synthetic_neurons, ts.tracer.load_neurons),
}


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


ITSELF: list[Any] = []
ITSELF.append(ITSELF)
KEPT = ["a\ud800b", "a\0b\x1b[2J", {"a": [1, None, True]}, 2**62, 1e308]
REFUSED = [float("nan"), float("inf"), 10**30, 10**5000, nested(100), ITSELF, np.float32(1), {1}, b"x", object()]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_provenance_is_kept_or_refused_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    """Curves and circuits with NaN or a lone surrogate in it were saved, and could never be read again."""
    make, load = KINDS[kind]
    result, path = make(), tmp_path / "result"
    for value in KEPT:
        replace(result, provenance={**result.provenance, "odd": value}).save(path)
        assert load(path).provenance["odd"] == value
    path.unlink()
    for value in REFUSED:
        with pytest.raises(OutputError, match="not JSON"):
            replace(result, provenance={**result.provenance, "odd": value}).save(path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_provenance_of_a_wrong_type_is_refused_before_anything_is_written(tmp_path: Path, kind: str) -> None:
    """Reports and comparisons of saved results compute from it."""
    result = KINDS[kind][0]()
    for wrong in ({"window": 2.5}, {"tower": None}, {"metric": {"unit": 1.0}}):
        odd = {**result.provenance, **wrong}
        with pytest.raises((OutputError, TraceError), match=f"provenance has .* as '{next(iter(wrong))}"):
            changed = {"first": odd, "second": {}} if kind == "comparison" else odd
            replace(result, provenance=changed).save(tmp_path / "result")
        assert list(tmp_path.iterdir()) == []
    if kind == "comparison":
        with pytest.raises(OutputError, match="'second' must be the provenance of a trace, not None"):
            replace(result, provenance={"first": {}, "second": None}).save(tmp_path / "result")


def test_a_circuit_of_one_cluster_is_read_back(tmp_path: Path) -> None:
    """Its stability is NaN, which JSON does not know: the file could never be read."""
    alone = replace(a_circuit(), stability=np.array([np.nan, 0.5]))
    alone.save(tmp_path / "circuit.json")
    found = ts.tracer.load_circuit(tmp_path / "circuit.json")
    for entry in fields(alone):
        np.testing.assert_equal(getattr(found, entry.name), getattr(alone, entry.name))

"""Seeds and numbers of NumPy mean what Python's mean, and numbers that no float holds are refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import open_clip_model
from published import PUBLISHED

import tracescribe as ts
from tracescribe.benchmark.builders import build_contextual, build_mednega, write_pairs
from tracescribe.benchmark.phantom.drawing import draw
from tracescribe.benchmark.phantom.facts import sample_facts
from tracescribe.errors import FigureError, PrescriptionError, TraceError
from tracescribe.finetune import interpolate, lora_config
from tracescribe.validation import is_number, is_positive, is_whole
from tracescribe.viz.paper.files import PaperOptions

PLAN = ts.Prescription(np.array([0.5, 1.0, 0.0, 0.2]))
CELLS = ts.tracer.TraceMap(np.eye(2), ("no", "[end]"), np.arange(2), np.ones(2, int))
THREES = (np.int64(3), np.array(3), np.uint8(3))
HUGE = (2**64, -(2**63) - 1, 10**400, float("inf"), float("nan"), True, "1", None, np.array([1.0, 2.0]), 1j)


@pytest.mark.parametrize("three", THREES, ids=repr)
def test_a_seed_of_numpy_draws_what_pythons_draws(three: Any, tmp_path: Path) -> None:
    assert PLAN.permuted(three).alpha.tolist() == PLAN.permuted(3).alpha.tolist()
    assert PLAN.permuted(three).provenance == {"control": "permuted(seed=3)"}
    chosen = [ts.prescribe(8, by="random", k=k, seed=seed).alpha.tolist() for k, seed in ((3, 3), (three, three))]
    assert chosen[0] == chosen[1]
    assert sum(chosen[0]) == 3
    facts = sample_facts(np.random.default_rng(0))
    np.testing.assert_array_equal(draw(facts, three, size=16), draw(facts, 3, size=16))
    labels = tmp_path / "labels.csv"
    labels.write_text(str(PUBLISHED["chexpert"][1]))
    written = []
    for seed in (3, three):
        write_pairs(labels, tmp_path / "pairs.jsonl", lambda text: 7, seed=seed)
        written.append((tmp_path / "pairs.jsonl").read_bytes())
    assert written[0] == written[1]


def test_numbers_of_numpy_are_taken_as_options() -> None:
    assert lora_config(open_clip_model(layers=2), r=np.int64(4)).r == 4
    options = PaperOptions(dpi=np.array(100), size=np.float32(6), height=np.int16(2), width=np.float64(3))  # type: ignore[arg-type]
    assert (options.dpi, options.size, options.height) == (100, 6.0, 2.0)
    assert all(type(value) in (int, float) for value in (options.dpi, options.size, options.height))
    assert is_whole(np.array(3))
    assert is_number(np.float32(0.5), 0, 1)
    assert is_positive(np.int8(1))


@pytest.mark.parametrize("value", HUGE, ids=str)
def test_what_is_no_number_of_this_kind_is_refused(value: Any, tmp_path: Path) -> None:
    if not is_positive(value):
        with pytest.raises(PrescriptionError, match="scale must be a positive number, not "):
            ts.Prescription(np.array([0.5, 1.0]), scale=value)
    if not is_number(value, 0):
        with pytest.raises(PrescriptionError, match="beta must be a finite number >= 0, not "):
            ts.Prescription(np.array([0.5, 1.0]), beta=value)
    with pytest.raises(PrescriptionError, match="seed must be a whole number >= 0, not "):
        PLAN.permuted(value)
    with pytest.raises(PrescriptionError, match="LoRA's rank r must be a whole number of at least 1, not "):
        lora_config(open_clip_model(layers=2), r=value)
    for builder, folder in ((build_mednega, "out"), (build_contextual, "out"), (write_pairs, "out.jsonl")):
        more = {"count_tokens": len} if builder is write_pairs else {}
        with pytest.raises(TraceError, match="seed must be a whole number >= 0"):
            builder("labels.csv", tmp_path / folder, seed=value, **more)  # type: ignore[operator]
    if value is not None and not is_positive(value):
        with pytest.raises(FigureError, match=r"limit=.*: colours need a finite limit above 0"):
            ts.viz.heatmap(CELLS, limit=value)
    with pytest.raises(PrescriptionError, match="the weight between two models is a number such as "):
        interpolate(None, None, value)  # type: ignore[arg-type]


def test_a_scale_is_any_number_that_a_float_holds() -> None:
    assert ts.Prescription(np.array([0.5, 1.0]), scale=2**64).multipliers.tolist() == [2.0**63, 2.0**64]
    with pytest.raises(PrescriptionError, match="overflows"):
        ts.Prescription(np.array([0.5, 2.0]), scale=1.7e308)

"""Copies and pickles of every kind of result: their arrays are read-only too, and hold the same numbers."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from builders import arrays, synthetic_head_edges, synthetic_knock_out, synthetic_neurons, synthetic_trace
from fuzz.files import a_circuit, a_comparison, a_faithfulness, a_plan, a_trace
from fuzz.options import Stub, model

import tracescribe as ts
from tracescribe.atlas import Atlas, AtlasConfig
from tracescribe.benchmark import ClaimRecord, evaluate
from tracescribe.finetune import BlockGradients, UpdateShare
from tracescribe.finetune.training.result import History


def an_evaluation() -> Any:
    texts = ["no edema", "edema"]
    records = [
        ClaimRecord(id=str(i), image=np.eye(8)[i], claims=texts, label=i % 2, attribute="existence", group=str(i))
        for i in range(4)
    ]
    return evaluate(Stub(), records, split=None, n_boot=10)


def negator_attention() -> Any:
    pair = ts.Pair(
        correct="there is no edema .", foil="there is mild edema .", image=np.linspace(-1, 1, 16), negation="correct"
    )
    return ts.negator_attention(model(), [pair], n_boot=10, progress=False)


def an_atlas() -> Atlas:
    config = AtlasConfig(models={"one": "phantom"}, sets={"a": "pairs.jsonl"})
    return Atlas(config, {("one", "a"): a_trace()}, n_pairs={"a": 4})


ONES = np.ones(3)
RESULTS: dict[str, Callable[[], Any]] = {
    "trace": a_trace,
    "map": lambda: synthetic_trace(12, 3).map(segment="all"),
    "profile": lambda: synthetic_trace(12, 3).per_layer(segment="all", n_boot=10),
    "excess": lambda: synthetic_trace(12, 3).control(synthetic_trace(12, 3)),
    "comparison": a_comparison,
    "circuit": a_circuit,
    "faithfulness": a_faithfulness,
    "curve": lambda: a_faithfulness().curve("sufficiency"),
    "head edges": synthetic_head_edges,
    "knock-out": synthetic_knock_out,
    "neurons": synthetic_neurons,
    "negator attention": negator_attention,
    "plan": a_plan,
    "update share": lambda: UpdateShare(ONES),
    "history": lambda: History(ONES, ONES, ONES, ONES, ()),
    "gradients": lambda: BlockGradients(np.ones((2, 3)), np.ones((2, 3))),
    "evaluation": an_evaluation,
    "atlas": an_atlas,
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda result: result,
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "pickle": lambda result: pickle.loads(pickle.dumps(result)),
    "replace": dataclasses.replace,
}


@pytest.mark.parametrize("kind", RESULTS)
def test_no_copy_of_a_result_can_be_written_to(kind: str) -> None:
    result = RESULTS[kind]()
    held = dict(arrays(result))
    assert held
    for way, copied in WAYS.items():
        found = dict(arrays(copied(result)))
        assert [place for place, array in found.items() if array.flags.writeable] == [], way
        assert found.keys() == held.keys(), way
        for place, array in found.items():
            np.testing.assert_array_equal(array, held[place], err_msg=f"{way} {place}")

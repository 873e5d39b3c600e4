"""Finer cells in real states of torch and of models: the numbers are those of a quiet process and of a plain model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from adapted import optimiser_step, with_lora
from builders import arrays
from models import WordTokenizer, chinese_clip_model, open_clip_model, word_tokenizer
from torch import nn
from torch_states import STATES, state_of_torch

import tracescribe as ts
from tracescribe.errors import DataFormatError, TorchStateError, TraceError

CAPTIONS = ("there is no edema.", "there is some edema.", "there is no mass.", "there is some mass.", "see a mass now.")
IMAGES = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
PAIRS = [
    ts.Pair(correct=CAPTIONS[at], foil=CAPTIONS[at + 1], image=IMAGES[at // 2], negation="correct", group=str(at))
    for at in (0, 2)
]
DIRECTIONS = np.random.default_rng(1).normal(size=(2, 32))
OPTIONS: Any = {"progress": False, "floor": 0}
EVERY: Any = {**OPTIONS, "segment": "all"}


def joint(model: ts.DualEncoder) -> Any:
    trace = ts.trace(model, PAIRS, positions="all", **OPTIONS)
    return ts.faithfulness(model, trace, sizes=[1], random=1, segment="all", progress=False)


def traced(**options: Any) -> Callable[[ts.DualEncoder], Any]:
    return lambda model: ts.trace(model, PAIRS, **options, **OPTIONS)


ANALYSES: dict[str, Callable[[ts.DualEncoder], Any]] = {
    "neurons": lambda model: ts.neurons(model, PAIRS, top=2, others=1, steps=2, **EVERY),
    "residual directions": traced(directions=DIRECTIONS),
    "head edges": lambda model: ts.head_edges(model, PAIRS[:1], **EVERY),
    "cut": traced(site="edges", replace="cut", queries="[end]"),
    "knock-out": lambda model: ts.knock_out(model, PAIRS[:1], heads=1, **OPTIONS),
    "direct": traced(site="z", heads="each", method="direct"),
    "heads": traced(site="z", heads="each"),
    "zero": traced(site="mlp", replace="zero"),
    "mean": traced(site="attn", replace="mean", pool=CAPTIONS),
    "donors": traced(replace="resample", donors=2, pool=CAPTIONS),
    "attention": lambda model: ts.negator_attention(model, PAIRS, n_boot=10, progress=False),
    "sets": joint,
}
FEW = ("neurons", "residual directions", "head edges", "cut", "donors", "attention")
# Of the process; those of single kernels and products are tried with the other passes, which share the code.
OF_A_PROCESS = (
    "autocast",
    "inference mode",
    "no_grad",
    "enable_grad",
    "default dtype",
    "default device",
    "function mode",
    "deterministic",
)


def numbers(model: ts.DualEncoder, names: Sequence[str] = tuple(ANALYSES)) -> dict[str, np.ndarray]:
    """Every array of every analysis, by where it is."""
    return {f"{name} {place}": array for name in names for place, array in arrays(ANALYSES[name](model))}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for place, values in expected.items():
        assert found[place].dtype == values.dtype and found[place].tobytes() == values.tobytes(), place


def wrapped(source: Any) -> ts.DualEncoder:
    return ts.wrap(source, tokenizer=WordTokenizer(), name="tiny")


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return wrapped(open_clip_model(layers=2))


@pytest.fixture(scope="module")
def quiet(model: ts.DualEncoder) -> dict[str, np.ndarray]:
    found = numbers(model)
    assert {place.partition(" .")[0] for place in found} == ANALYSES.keys()
    return found


@pytest.mark.parametrize("state", OF_A_PROCESS)
def test_finer_cells_are_those_of_a_quiet_process(
    model: ts.DualEncoder, quiet: dict[str, np.ndarray], state: str
) -> None:
    with STATES[state]():
        before = state_of_torch()
        found = numbers(model)
        assert state_of_torch() == before
    assert_same(found, quiet)


def loud() -> ExitStack:
    """Several of the states at once, as a training script has them."""
    stack = ExitStack()
    for state in ("autocast", "default half", "deterministic", "default device", "no_grad"):
        stack.enter_context(STATES[state]())
    return stack


SOURCES: dict[str, Callable[[], nn.Module]] = {
    "bfloat16": lambda: open_clip_model(layers=2).bfloat16(),
    "float64": lambda: open_clip_model(layers=2).double(),
    "bidirectional, with dropout": lambda: chinese_clip_model(layers=2),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_other_sources_in_training_mode_and_a_loud_process(kind: str) -> None:
    source = SOURCES[kind]()
    model = ts.wrap(source, tokenizer=word_tokenizer(source))
    expected = numbers(model, FEW)
    source.train()
    model.text.train()
    with loud():
        found = numbers(model, FEW)
    assert_same(found, expected)
    assert all(module.training for root in (source, model.text) for module in root.modules())
    assert all(parameter.grad is None for parameter in source.parameters())


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "torch.compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_sources_give_the_numbers_of_what_they_hold(kind: str, quiet: dict[str, np.ndarray]) -> None:
    found = numbers(wrapped(WRAPPERS[kind](open_clip_model(layers=2))), FEW)
    assert_same(found, {place: array for place, array in quiet.items() if place.partition(" .")[0] in FEW})


def disabled(source: Any) -> None:
    source.base_model.disable_adapter_layers()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "trained on": optimiser_step,
    "merged": lambda source: source.merge_adapter(),
    "disabled": disabled,
}


@pytest.mark.filterwarnings("ignore:All adapters are already merged")  # peft meets fused attention's output twice
@pytest.mark.parametrize("change", CHANGES)
def test_adapters_are_read_as_they_are_at_each_call(change: str) -> None:
    source = with_lora(open_clip_model(layers=2))
    model = wrapped(source)
    before = numbers(model, FEW)
    if change == "merged":  # a model without peft, with the weights that peft computes
        assert_same(numbers(wrapped(copy.deepcopy(source).merge_and_unload()), FEW), before)
    trace = ts.trace(model, PAIRS, positions="all", **OPTIONS)
    CHANGES[change](source)
    after = numbers(model, FEW)
    assert_same(after, numbers(wrapped(source), FEW))
    moved = np.abs(after["neurons .effects"] - before["neurons .effects"]).max()
    assert moved < 1e-6 if change == "merged" else moved > 1e-4
    if change != "merged":
        with pytest.raises(TraceError, match="made with other weights"):
            ts.faithfulness(model, trace, sizes=[1], segment="all", progress=False)


@pytest.mark.parametrize("name", ANALYSES)
def test_inside_a_fake_tensor_mode_every_analysis_says_so(model: ts.DualEncoder, name: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.raises(TorchStateError, match="fake-tensor mode"):
        ANALYSES[name](model)


def test_tensors_without_values_are_named(model: ts.DualEncoder) -> None:
    """What was made under a default device "meta"."""
    pair = PAIRS[0].model_copy(update={"image": torch.ones(16, device="meta")})
    with pytest.raises(DataFormatError, match="pair '0' has an image embedding on the meta device"):
        ts.neurons(model, [pair], **EVERY)
    with pytest.raises(TraceError, match="directions must be"):
        ts.trace(model, PAIRS, directions=torch.ones(2, 32, device="meta"), **OPTIONS)

"""Neurons, cut attention and edges between heads in other towers: gated MLPs, distance biases, rotation, RMS norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from test_head_edges import by_hooks as edge_by_hooks
from torch import Tensor, nn
from zoo import Entry, entries
from zoo.hooks import put_hook

import tracescribe as ts
from tracescribe.patching import Column, HeadEdgeEngine, JointEngine, KnockOutEngine, Sweep, site_named
from tracescribe.patching.engine.head_edges import all_edges

ZOO = {entry.name: entry for entry in entries()}
# name: the entry, and the module of its blocks whose input the neurons are
KINDS = {
    "mT5: distance biases, gated, RMS": ("open_clip:mt5-base-ViT-B-32", "layer.1.DenseReluDense.wo"),
    "MPNet: distance biases": ("transformers:VisionTextDualEncoderModel, MPNet", "output.dense"),
    "ModernBERT: rotation, windows, gated": (
        "open_clip variant: ModernBERT, cls_last_hidden_state_pooler, mlp",
        "mlp.Wo",
    ),
    "AIMv2: causal, gated, RMS in float32": ("transformers:Aimv2Model", "ffn.down_proj"),
    "SigLIP 2: padding attended to": ("transformers:Siglip2Model", "mlp.fc2"),
}
TEXTS = ("there is no edema in here", "there is some mass in here")
ROUNDING = {"AIMv2: causal, gated, RMS in float32": 1e-6}  # else float64 throughout
SOFTMAX = 1e-6  # transformers' written-out attention computes it in float32


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest) -> tuple[Entry, Any, ts.DualEncoder, str, float]:
    name, down = KINDS[request.param]
    entry = ZOO[name]
    source = entry.build(0).double()
    model = ts.wrap(source, tokenizer=entry.tokenizer)
    return entry, source, model, down, ROUNDING.get(request.param, 1e-12)


def by_hooks(entry: Entry, source: nn.Module, down: str, ids: Tensor, seen: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The source's own embedding, with what ``seen`` makes of the input of every block's last linear layer."""
    handles = [
        put_hook(block.get_submodule(down), "in", lambda state, at=at: seen(at, state))
        for at, block in enumerate(entry.reading.blocks(source))
    ]
    try:
        return entry.reading.embed(source, ids)[0]
    finally:
        for handle in handles:
            handle.remove()


def test_neurons_equal_plain_hooks_on_the_source_model(made: Any) -> None:
    entry, source, model, down, rounding = made
    [base], [donor] = (model.text.rows([text]) for text in TEXTS)
    columns = [Column((position,), neuron) for position, neuron in ((3, 5), (len(base) - 1, 40), (4, 47))]
    sets = np.zeros((4, model.text.n_layers, 3), dtype=bool)
    sets[0, 0, 0] = sets[1, 1, 1] = sets[2, 2, 2] = True
    sets[3] = True
    engine = JointEngine(model.text)
    prepared = engine.prepare([base], [donor], sweep=Sweep(site_named("neurons")), columns=[columns])
    found = engine.patch_sets(prepared, {0: sets})[0].patched
    kept: dict[int, Tensor] = {}

    def keep(layer: int, state: Tensor) -> Tensor:
        kept[layer] = state.clone()
        return state

    by_hooks(entry, source, down, entry.ids(TEXTS[1]), keep)
    for number, one in enumerate(sets):

        def put(layer: int, state: Tensor, one: np.ndarray = one) -> Tensor:
            state, other = state.clone(), kept[layer]
            for column in np.flatnonzero(one[layer]).tolist():
                cell = (*(0,) * (state.ndim - 2), columns[column].positions[0], columns[column].head)
                state[cell] = other[cell]
            return state

        expected = by_hooks(entry, source, down, entry.ids(TEXTS[0]), put)
        assert float((found[number] - expected).abs().max()) <= rounding
    assert float((found[3] - engine.encode([base])[0]).norm()) > 1e-3


@contextmanager
def masked(source: nn.Module, layer: int, column: Column) -> Iterator[list[int]]:
    """Put -inf before the softmax of one block of the source model; yields how many softmaxes ran."""
    for module in source.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = "eager"  # type: ignore[union-attr]
    ran, real = [0], nn.functional.softmax

    def softmax(scores: Tensor, *given: Any, **named: Any) -> Tensor:
        if ran[0] == layer:
            scores = scores.clone()
            for query in column.queries or ():
                scores[..., column.head, query, list(column.positions)] = -torch.inf
        ran[0] += 1
        return real(scores, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "softmax", softmax)
        yield ran


def test_cut_attention_equals_the_source_model_with_minus_infinity_before_its_softmax(made: Any) -> None:
    entry, source, model, *_ = made
    [base], [donor] = (model.text.rows([text]) for text in TEXTS)
    columns = [Column((3,), 1, (len(base) - 1,)), Column((0, 2), 0, (4, 5)), Column((1,), 1, (2, 3))]
    found = KnockOutEngine(model.text).patch([base], [donor], sweep=Sweep(site_named("edges")), columns=[columns])
    for layer in range(model.text.n_layers):
        for number, column in enumerate(columns):
            with masked(source, layer, column) as ran:
                expected = entry.reading.embed(source, torch.tensor([base]))[0]
            assert torch.isfinite(expected).all()  # written out, ModernBERT's is NaN where a window holds padding only
            assert ran == [model.text.n_layers]
            assert float((found.patched[0, layer, number] - expected).abs().max()) <= SOFTMAX
    assert float((found.patched - found.base[0]).norm(dim=-1).max()) > 1e-3


def test_edges_are_what_three_passes_of_plain_hooks_give(made: Any) -> None:
    _, _, model, _, rounding = made
    [base], [donor] = (model.text.rows([text]) for text in TEXTS)
    [(_, found)] = HeadEdgeEngine(model.text).between_heads([base], [donor])
    edges = all_edges(model.text.n_layers, model.text.n_heads or 1)
    for pick in np.random.default_rng(0).permutation(len(edges))[:3].tolist():
        expected = edge_by_hooks(model.text, base, donor, edges[pick], "qkv")
        assert float((found.patched[edges[pick]] - expected).abs().max()) <= rounding
    assert float((found.patched - found.base).nan_to_num().abs().max()) > 1e-6

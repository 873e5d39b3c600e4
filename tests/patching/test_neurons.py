"""Single MLP neurons: plain hooks on the source model agree in float64, and they add up to their MLP."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from models import open_clip_hf_model, open_clip_model, source_blocks, source_encoder, transformers_model
from torch import Tensor, nn
from towers import rows_for, tower_over
from zoo.hooks import put_hook

from tracescribe.errors import NonFiniteError, SiteError
from tracescribe.patching import (
    AttributionEngine,
    Column,
    JointEngine,
    NeuronAttribution,
    PatchingEngine,
    Sweep,
    site_named,
)
from tracescribe.patching.engine.buckets import clean_buckets
from tracescribe.patching.engine.generic import run_cells
from tracescribe.patching.torch_state import neutral_state

# name: the source model, and the module of its blocks whose input the neurons are
MODELS: dict[str, Any] = {
    "open_clip": (open_clip_model, "mlp.c_proj"),
    "LayerScale": (lambda: open_clip_model(ls_init_value=0.5), "mlp.c_proj"),
    "transformers": (transformers_model, "mlp.fc2"),
    "BERT, post-norm": (lambda: open_clip_hf_model(pooler="mean_pooler"), "output.dense"),
}
BASE, FOIL = "there is no large edema", "there is some large edema"
ROUNDING = 1e-12  # unit vectors in float64, of at most 3 blocks
NEURONS = Sweep(site_named("neurons"))


def doubled(name: str) -> tuple[nn.Module, str]:
    make, down = MODELS[name]
    return copy.deepcopy(make()).double(), down


def by_hooks(source: nn.Module, down: str, base: Tensor, donor: Tensor, cells: list[tuple[int, int, int]]) -> Tensor:
    """The source model's embedding with the donor's activations in cells (layer from 1, position, neuron)."""
    blocks, kept = source_blocks(source), {}
    layers = {layer for layer, _, _ in cells}

    def run(ids: Tensor, seen: Any) -> Tensor:
        handles = [
            put_hook(blocks[layer - 1].get_submodule(down), "in", lambda state, layer=layer: seen(layer, state))
            for layer in layers
        ]
        try:
            with torch.no_grad():
                return nn.functional.normalize(source_encoder(source, ids), dim=-1)[0]
        finally:
            for handle in handles:
                handle.remove()

    def keep(layer: int, state: Tensor) -> Tensor:
        kept[layer] = state.clone()
        return state

    def put(layer: int, state: Tensor) -> Tensor:
        state = state.clone()
        for at, position, neuron in cells:
            if at == layer:
                state[0, position, neuron] = kept[layer][0, position, neuron]
        return state

    run(donor, keep)
    return run(base, put)


@pytest.mark.parametrize("name", MODELS)
def test_neurons_alone_and_together_equal_plain_hooks_on_the_source_model(name: str) -> None:
    source, down = doubled(name)
    tower = tower_over(source)
    [base], [foil] = tower.rows([BASE]), tower.rows([FOIL])
    texts = tower.tokenize([BASE]), tower.tokenize([FOIL])
    n_neurons, length = tower.n_neurons, len(base)
    assert n_neurons is not None
    rng = np.random.default_rng(0)
    positions = [3, 3, length - 1, length - 1, 4]
    columns = [Column((position,), int(rng.integers(n_neurons))) for position in positions]
    engine = JointEngine(tower)
    sets = np.zeros((7, tower.n_layers, len(columns)), dtype=bool)
    sets[np.arange(5), rng.integers(tower.n_layers, size=5), np.arange(5)] = True  # each alone
    sets[5:] = rng.random(sets[5:].shape) < 0.5  # many together
    found = {}
    for path in ("resume", "generic"):
        prepared = engine.prepare([base], [foil], sweep=NEURONS, columns=[columns], path=path)
        found[path] = engine.patch_sets(prepared, {0: sets})[0].patched
    moved = 0.0
    for number, one in enumerate(sets):
        cells = [
            (layer + 1, columns[column].positions[0], columns[column].head)
            for layer, column in np.argwhere(one).tolist()
        ]
        expected = by_hooks(source, down, *texts, cells)  # type: ignore[arg-type]
        for path in found:
            assert float((found[path][number] - expected).abs().max()) <= ROUNDING
        moved = max(moved, float((expected - engine.encode([base])[0]).norm()))
    assert moved > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_all_neurons_of_a_token_are_the_mlps_output(name: str) -> None:
    """Of exact replacements, and of estimates: the MLP's last layer is linear."""
    source, _ = doubled(name)
    tower = tower_over(source)
    base, foil = (rows_for(tower, *tower.rows([text])) for text in (BASE, FOIL))
    engine = PatchingEngine(tower)
    by_site = {site: engine.patch(base, foil, sweep=Sweep(site_named(site))).patched for site in ("neurons", "mlp")}
    assert float((by_site["neurons"] - by_site["mlp"]).abs().max()) <= ROUNDING
    target = torch.nn.functional.normalize(torch.randn(1, by_site["mlp"].shape[-1], dtype=torch.float64), dim=1)
    [(_, of_neurons)] = NeuronAttribution(tower).by_neuron(base, foil, [3 * target[0]])
    of_mlp = AttributionEngine(tower).attribute(base, foil, [target], sweep=Sweep(site_named("mlp"))).effects[0][0]
    assert of_neurons.shape == (*of_mlp.shape, tower.n_neurons)
    torch.testing.assert_close(of_neurons.sum(dim=-1), 3 * of_mlp, atol=ROUNDING, rtol=0)
    assert (of_neurons[:, :3] == 0).all() or not tower.causal  # before the first difference


def test_estimates_are_slopes_of_plain_hooks_on_the_source_model() -> None:
    source, down = doubled("open_clip")
    tower = tower_over(source)
    texts = tower.tokenize([BASE]), tower.tokenize([FOIL])
    target = torch.nn.functional.normalize(torch.randn(16, dtype=torch.float64), dim=0)
    [(_, found)] = NeuronAttribution(tower).by_neuron(tower.rows([BASE]), tower.rows([FOIL]), [target])
    layer, position, neuron = 2, 4, int(found[1, 4].abs().argmax())
    point = source_blocks(source)[layer - 1].get_submodule(down)
    kept: list[Tensor] = []

    def similarity(ids: Tensor, change: Any) -> float:
        handle = put_hook(point, "in", change)
        with torch.no_grad():
            embedding = nn.functional.normalize(source_encoder(source, ids), dim=-1)[0]
        handle.remove()
        return float(embedding @ target)

    def moved(share: float) -> Any:
        def change(state: Tensor) -> Tensor:
            state = state.clone()
            state[0, position, neuron] += share * (kept[0] - state)[0, position, neuron]
            return state

        return change

    similarity(texts[1], lambda state: kept.append(state.clone()) or state)
    step = 1e-5
    slope = (similarity(texts[0], moved(step)) - similarity(texts[0], moved(-step))) / (2 * step)
    # central differences: step² times a third derivative, and 1e-16 / step of rounding
    assert float(found[layer - 1, position, neuron]) == pytest.approx(slope, abs=1e-9)


def test_where_the_readout_is_linear_single_neurons_add_up() -> None:
    """The last block's MLP at the token that is read, with the final norm and the projection taken out."""
    source, _ = doubled("open_clip")
    tower = tower_over(source)
    engine = PatchingEngine(tower)
    for part in (engine.tower.ln_final, engine.tower.projection):
        part.forward = lambda x: x  # type: ignore[method-assign]
    base, foil = tower.rows([BASE]), tower.rows([FOIL])
    end, at = len(base[0]) - 1, tower.n_layers - 1
    columns = [[*(Column((end,), neuron) for neuron in range(tower.n_neurons or 0))], [Column((end,))]]

    def states(of: list[Column]) -> Tensor:
        prepared = engine.prepare(base, foil, sweep=NEURONS, columns=[of], path="generic")
        with neutral_state(engine.tower):
            [bucket] = clean_buckets(engine.tower, prepared, [0])
            cells = [(0, column) for column in range(len(of))]
            return run_cells(engine._model, engine.tower, bucket, NEURONS, at, cells) - bucket.base.embedding

    single, together = (states(of) for of in columns)
    torch.testing.assert_close(single.sum(dim=0), together[0], atol=1e-12, rtol=0)
    assert float(together.abs().max()) > 1e-2


def test_what_a_tower_does_not_have_is_refused() -> None:
    tower = tower_over(open_clip_model())
    rows = tower.rows([BASE]), tower.rows([FOIL])
    with pytest.raises(SiteError, match="no neuron 128: this tower's blocks have 128"):
        PatchingEngine(tower).prepare(*rows, sweep=NEURONS, columns=[[Column((1,), 128)]])
    with pytest.raises(SiteError, match="without heads or neurons"):
        PatchingEngine(tower).prepare(*rows, sweep=NEURONS, directions=torch.ones(1, 32))
    with pytest.raises(NonFiniteError, match="gradient"):
        list(NeuronAttribution(tower).by_neuron(*rows, [torch.full((16,), torch.nan)]))

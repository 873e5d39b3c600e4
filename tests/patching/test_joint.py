"""Sets of cells that are replaced together equal plain hooks on the source model, however they are run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import open_clip_hf_model, open_clip_model, source_blocks, source_encoder, word_tokenizer
from zoo.hooks import Reading, patched_together
from zoo.open_clip_models import BERT_SITES, NATIVE_SITES
from zoo.tokens import WordTokenizer

import tracescribe as ts
from tracescribe.errors import SiteError, TowerMismatchError
from tracescribe.patching import Column, GivenStates, JointEngine, Sweep, align_rows, site_named
from tracescribe.patching.engine.joint import run_passes as original

BASE, FOIL = "there is no large edema", "there is some big edema"
MODELS = {
    "causal": (open_clip_model, NATIVE_SITES),
    "cls": (open_clip_hf_model, BERT_SITES),
    "mean": (lambda: open_clip_hf_model(pooler="mean_pooler"), BERT_SITES),
}
TOLERANCE = 1e-5  # unit vectors of the same float32 passes in another order of summation; measured 5e-7


def random_sets(n: int, n_layers: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """Sets of all sizes, with the empty and the full one."""
    rng = np.random.default_rng(seed)
    shares = np.linspace(0, 1, n)
    return rng.random((n, n_layers, n_columns)) < shares[:, None, None]


@pytest.mark.parametrize("site", ["resid", "mlp", "attn"])
@pytest.mark.parametrize("name", MODELS)
def test_each_set_equals_plain_hooks_on_the_source_model(name: str, site: str) -> None:
    make, sites = MODELS[name]
    source = make()
    reading = Reading("", source_encoder, source_blocks, sites, WordTokenizer)
    tower = ts.wrap(source, tokenizer=word_tokenizer(source)).text
    engine, sweep = JointEngine(tower), Sweep(site_named(site))
    rows = tower.rows([BASE]), tower.rows([FOIL])
    sets = random_sets(7, sweep.site.n_layers(tower.n_layers), len(rows[0][0]))
    found = {}
    for path in ("resume", "generic"):
        prepared = engine.prepare(*rows, sweep=sweep, path=path)
        found[path] = engine.patch_sets(prepared, {0: sets}, checks=7)[0].patched
    assert float((found["resume"] - found["generic"]).abs().max()) < TOLERANCE
    for one, embedding in zip(sets, found["resume"], strict=True):
        texts = tower.tokenize([BASE]), tower.tokenize([FOIL])
        expected = patched_together(reading, source, *texts, one, sweep.site.first_layer, site=site)
        assert float((embedding - expected).abs().max()) < TOLERANCE


def test_single_cells_are_the_map() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    engine = JointEngine(tower)
    rows = tower.rows([BASE, "a small nodule"]), tower.rows([FOIL, "no small nodule"])
    for site in ("resid", "z", "k", "pattern"):
        sweep = Sweep(site_named(site))
        columns = None
        if sweep.site.by_head:
            columns = [[Column(tuple(range(len(row))), head) for head in range(2)] for row in rows[0]]
        prepared = engine.prepare(*rows, sweep=sweep, columns=columns)
        alone = engine.patch(*rows, sweep=sweep, columns=columns)
        sets = {}
        for i in range(2):
            shape = (sweep.site.n_layers(tower.n_layers), len(prepared.columns[i]))
            sets[i] = np.eye(int(np.prod(shape)), dtype=bool).reshape(-1, *shape)
        for i, one in engine.patch_sets(prepared, sets).items():
            cells = alone.patched[i, :, : sets[i].shape[2]].flatten(0, 1)
            assert float((one.patched - cells).abs().max()) < TOLERANCE
            assert torch.equal(one.base, alone.base[i]) and torch.equal(one.donor, alone.donor[i])


def test_what_is_known_is_exact_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    engine = JointEngine(tower)
    [base], [foil] = tower.rows([BASE]), tower.rows([FOIL])
    sets = np.zeros((6, tower.n_layers + 1, len(base)), dtype=bool)
    sets[1, :, :3] = True  # before the first difference
    sets[2, -1, :-1] = True  # the last layer where it is not read
    sets[3, 2, 3:] = True  # a layer, as far as it differs
    sets[4, 0, 3:5] = True  # layer 0 where the tokens differ
    sets[5, -1, -1] = True
    prepared = engine.prepare([base], [foil])
    run = []
    monkeypatch.setattr(
        "tracescribe.patching.engine.joint.run_passes",
        lambda model, tower, parts, *rest: run.append(len(parts)) or original(model, tower, parts, *rest),
    )
    found = engine.patch_sets(prepared, {0: sets})[0]
    assert run == [0]
    assert all(torch.equal(found.patched[at], found.base) for at in range(3))
    assert all(torch.equal(found.patched[at], found.donor) for at in range(3, 6))


def test_equal_sets_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    engine = JointEngine(tower)
    [base], [foil] = tower.rows([BASE]), tower.rows([FOIL])
    sets = np.zeros((3, tower.n_layers + 1, len(base)), dtype=bool)
    sets[:, 2, 4] = True
    sets[1, 1, :3] = True  # where both runs are equal
    run = []
    monkeypatch.setattr(
        "tracescribe.patching.engine.joint.run_passes",
        lambda model, tower, parts, *rest: run.extend(map(len, parts)) or original(model, tower, parts, *rest),
    )
    found = engine.patch_sets(engine.prepare([base], [foil]), {0: sets})[0]
    assert run == [1]
    assert torch.equal(found.patched[0], found.patched[1]) and torch.equal(found.patched[0], found.patched[2])


def test_given_states_and_aligned_captions_are_patched_together_too() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    engine = JointEngine(tower)
    [base], [foil] = tower.rows([BASE]), tower.rows(["there is some edema"])
    options = ({"given": GivenStates()}, {"alignments": [align_rows(base, foil)]})
    for option in options:
        sets = random_sets(9, tower.n_layers + 1, len(base), seed=1)
        found = [
            engine.patch_sets(engine.prepare([base], [foil], path=path, **option), {0: sets})[0].patched
            for path in ("resume", "generic")
        ]
        assert float((found[0] - found[1]).abs().max()) < TOLERANCE
    zeroed = engine.patch_sets(engine.prepare([base], [foil], given=GivenStates()), {0: np.ones_like(sets)})[0].patched
    assert float((zeroed[0] - zeroed).abs().max()) == 0  # whatever came before, the last state is 0


def test_a_wrong_resumed_pass_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    engine = JointEngine(tower)
    rows = tower.rows([BASE]), tower.rows([FOIL])
    monkeypatch.setattr(
        "tracescribe.patching.engine.joint.run_passes", lambda *given: [part.flip(-1) for part in original(*given)]
    )
    sets = np.zeros((1, tower.n_layers + 1, len(rows[0][0])), dtype=bool)
    sets[0, 2, 4] = True
    with pytest.raises(TowerMismatchError, match="1 cells patched together"):
        engine.patch_sets(engine.prepare(*rows), {0: sets})


def test_windows_and_other_shapes_are_refused() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    engine = JointEngine(tower)
    rows = tower.rows([BASE]), tower.rows([FOIL])
    with pytest.raises(SiteError, match="window=3 overlap"):
        engine.patch_sets(engine.prepare(*rows, sweep=Sweep(window=3)), {0: random_sets(2, 4, 7)})
    with pytest.raises(SiteError, match=r"a set of cells has shape \(2, 7\)"):
        engine.patch_sets(engine.prepare(*rows), {0: random_sets(2, 2, 7)})

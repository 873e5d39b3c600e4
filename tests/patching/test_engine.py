"""Three independent ways to patch agree, and what the method fixes by construction holds exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import (
    WordTokenizer,
    chinese_clip_model,
    open_clip_hf_model,
    open_clip_model,
    patched_by_hooks,
    siglip_model,
    transformers_model,
    vision_text_model,
    word_tokenizer,
)
from torch import nn
from towers import differing_rows, rows_for, tower_over

import tracescribe as ts
from tracescribe.errors import LengthMismatchError, PatchDidNotFireError, TowerMismatchError
from tracescribe.patching import PatchingEngine, Sweep, TextTower, site_named
from tracescribe.patching.engine import buckets, generic, resumed
from tracescribe.patching.resume.known_cells import BASE, RUN

TOLERANCE = 2e-5  # on S; float32 and different orders of summation over at most 4 blocks give about 1e-6

FAMILIES = {
    "open_clip": lambda **kw: open_clip_model(**kw),
    "open_clip, quick_gelu, LayerScale": lambda **kw: open_clip_model(quick_gelu=True, ls_init_value=0.5, **kw),
    "custom eos": lambda **kw: open_clip_model(custom=True, pool_type="eos", eos_id=63, **kw),
    "bidirectional last": lambda **kw: open_clip_model(custom=True, no_causal_mask=True, pool_type="last", **kw),
    "bidirectional argmax": lambda **kw: open_clip_model(custom=True, no_causal_mask=True, pool_type="argmax", **kw),
    "causal last": lambda **kw: open_clip_model(custom=True, pool_type="last", **kw),
    "transformers": transformers_model,
    "SigLIP": siglip_model,
    "ChineseCLIP": chinese_clip_model,
    "RoBERTa with a pooler": lambda **kw: vision_text_model(text="Roberta", **kw),
    "BiomedCLIP's kind": open_clip_hf_model,
}


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    """A random tower and random token rows that differ at random places."""
    base, donor = draw(differing_rows())
    return {
        "family": draw(st.sampled_from(sorted(FAMILIES))),
        "layers": draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 10_000)),
        "base": base,
        "donor": donor,
    }


def build(situation: dict[str, Any]) -> tuple[nn.Module, TextTower, list[int], list[int]]:
    source = FAMILIES[situation["family"]](seed=situation["seed"], layers=situation["layers"])
    tower = tower_over(source)
    base, donor = rows_for(tower, situation["base"], situation["donor"])
    return source, tower, base, donor


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations())
def test_resumed_generic_and_plain_hooks_agree(situation: dict[str, Any]) -> None:
    source, tower, base, donor = build(situation)
    patching = PatchingEngine(tower)
    resumed = patching.patch([base], [donor]).patched[0]
    generic = patching.patch([base], [donor], path="generic").patched[0]
    assert resumed.shape == generic.shape and resumed.shape[:2] == (tower.n_layers + 1, len(base))
    assert (resumed - generic).abs().max() <= TOLERANCE
    pad = tower.tokenizer.pad_id
    padded = [torch.tensor([row + [pad] * (tower.context_length - len(row))]) for row in (base, donor)]
    generator = torch.Generator().manual_seed(situation["seed"])
    for _ in range(4):
        layer = int(torch.randint(tower.n_layers + 1, (), generator=generator))
        position = int(torch.randint(len(situation["base"]), (), generator=generator))
        expected = patched_by_hooks(source, *padded, layer, [position])
        assert (resumed[layer, position] - expected).abs().max() <= TOLERANCE


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations())
def test_what_holds_by_construction_holds_exactly_and_in_the_generic_path(situation: dict[str, Any]) -> None:
    _, tower, base, donor = build(situation)
    found = PatchingEngine(tower).patch([base], [donor])
    generic = PatchingEngine(tower).patch([base], [donor], path="generic").patched[0]
    cells, clean, other = found.patched[0], found.base[0], found.donor[0]
    differs = [b != d for b, d in zip(base, donor, strict=True)]
    first = differs.index(True)
    pooled = int(tower.pooled_positions(torch.tensor([base]))[0])

    def is_run(layer: int, position: int, run: torch.Tensor) -> None:
        assert torch.equal(cells[layer, position], run)
        assert (generic[layer, position] - run).abs().max() <= TOLERANCE  # nothing filled in: the fact itself

    for position in range(len(base)):
        is_run(tower.n_layers, position, other if position == pooled else clean)
        if not differs[position]:
            is_run(0, position, clean)
        if tower.causal and (position < first or position > pooled):
            for layer in range(tower.n_layers + 1):
                is_run(layer, position, clean)
    if sum(differs) == 1:
        is_run(0, first, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_all_tokens_of_any_layer_gives_the_donor(family: str) -> None:
    source = FAMILIES[family]()
    tower = ts.wrap(source, tokenizer=word_tokenizer(source)).text
    base, donor = (torch.tensor([row]) for row in tower.rows(["there is no edema.", "there are two masses here"]))
    lens = tower.to_transformer_lens()
    _, cache = lens.run_with_cache(donor)
    for layer in range(tower.n_layers):
        name = f"blocks.{layer}.hook_resid_pre"
        patched = lens.run_with_hooks(base, fwd_hooks=[(name, lambda state, hook: cache[hook.name])])
        torch.testing.assert_close(patched, tower(donor), atol=2e-6, rtol=1e-5)


def test_transformer_lens_patching_gives_the_same_map() -> None:
    from transformer_lens import patching

    tower = ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer()).text
    base, donor = tower.rows(["there is no edema.", "there is some edema."])
    image = nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(1)), dim=0)
    lens = tower.to_transformer_lens()
    assert {id(p) for p in lens.parameters()} == {id(p) for p in tower.parameters()}
    _, cache = lens.run_with_cache(torch.tensor([donor]))
    assert "blocks.1.attn.hook_pattern" in cache and cache["blocks.1.attn.hook_pattern"].shape == (1, 2, 7, 7)

    def similarity(embedding: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(embedding, dim=-1)[0] @ image

    theirs = patching.get_act_patch_resid_pre(lens, torch.tensor([base]), cache, similarity)
    ours = PatchingEngine(tower).patch([base], [donor]).patched[0, :3] @ image
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """Pairs of rows of several lengths over three words, so that most of them share their beginnings."""
    pairs = []
    for _ in range(draw(st.integers(2, 6))):
        length = draw(st.integers(1, 5))
        base, donor = (draw(st.lists(st.integers(2, 4), min_size=length, max_size=length)) for _ in range(2))
        if base == donor:
            donor[draw(st.integers(0, length - 1))] = 5
        pairs.append(([62, *base, 63], [62, *donor, 63]))
    return pairs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pairs=batches(),
    family=st.sampled_from(sorted(FAMILIES)),
    site=st.sampled_from(["resid", "resid_post", "mlp", "z", "k"]),
    memory=st.sampled_from([1, 2**17, 2**29]),
    seed=st.integers(0, 10_000),
)
def test_the_batch_a_pair_is_in_does_not_change_its_embeddings(
    pairs: list[tuple[list[int], list[int]]], family: str, site: str, memory: int, seed: int
) -> None:
    """Whatever rows texts share, and in however many passes sequences resume from them."""
    tower = tower_over(FAMILIES[family](seed=seed))
    base, donor = (rows_for(tower, *side) for side in zip(*pairs, strict=True))
    patching, sweep = PatchingEngine(tower), Sweep(site_named(site))
    together = patching.patch(base, donor, sweep=sweep, batch_size=4, memory=memory)
    for i, row in enumerate(base):
        alone = patching.patch([row], [donor[i]], sweep=sweep, path="generic")
        assert (together.patched[i, :, : len(row)] - alone.patched[0]).abs().max() <= TOLERANCE
        for ours, theirs in ((together.base[i], alone.base[0]), (together.donor[i], alone.donor[0])):
            assert (ours - theirs).abs().max() <= TOLERANCE
        assert together.patched[i, :, len(row) :].isnan().all()


def test_float64_paths_agree_to_rounding() -> None:
    tower = ts.wrap(open_clip_model(layers=4), tokenizer=WordTokenizer()).text
    base, donor = tower.rows(["there is no edema.", "there are some masses."])
    patching = PatchingEngine(tower, dtype=torch.float64)
    resumed, generic = (patching.patch([base], [donor], path=path).patched for path in ("resume", "generic"))
    assert resumed.dtype == torch.float64
    assert (resumed - generic).abs().max() < 1e-13


def test_a_patch_that_does_not_fire_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    base, donor = tower.rows(["there is no edema.", "there is some edema."])
    real = generic.hook_point

    class Elsewhere:
        """A hook point whose activation is a copy: what is written to it never goes on."""

        def __init__(self, *args: Any) -> None:
            self.point = real(*args)

        @property
        def output(self) -> Any:
            return self.point.output.clone()

    for path in (generic, resumed):
        monkeypatch.setattr(path, "hook_point", Elsewhere)
    for path in ("resume", "generic"):
        with pytest.raises(PatchDidNotFireError, match=r"block \d \(hook_resid_pre\), positions"):
            PatchingEngine(tower).patch([base], [donor], path=path)


def test_the_self_check_catches_a_cell_that_was_filled_in_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    base, donor = tower.rows(["there is no edema.", "there is some edema."])
    honest = buckets.known_cells

    def wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
        known = honest(*args, **kwargs)
        known[known == RUN] = BASE
        return known

    monkeypatch.setattr(buckets, "known_cells", wrong)
    with pytest.raises(TowerMismatchError, match="self-check failed at layer"):
        PatchingEngine(tower).patch([base], [donor], checks=50)


def test_rows_that_cannot_be_patched_are_refused() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).text
    with pytest.raises(LengthMismatchError, match="rows of 3 and 4 tokens"):
        PatchingEngine(tower).patch([[62, 1, 63]], [[62, 1, 2, 63]])
    with pytest.raises(LengthMismatchError, match="read at positions"):
        PatchingEngine(tower).patch([[62, 1, 2, 63]], [[62, 1, 63, 0]])

"""Every site, head, set of positions and window of layers: three ways agree, and what must hold exactly does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import chinese_clip_model, open_clip_hf_model, open_clip_model, siglip_model, transformers_model
from torch import nn
from towers import differing_rows, rows_for, tower_over

from tracescribe.errors import SiteError
from tracescribe.patching import Column, PatchingEngine, Sweep, TextTower, site_named
from tracescribe.patching.resume.clean_run import run_clean
from tracescribe.patching.sites import SITES

TOLERANCE = 2e-5  # on S; float32 and other orders of summation over at most 4 blocks give about 1e-6
FAMILIES = {
    "open_clip": lambda **kw: open_clip_model(**kw),
    "LayerScale": lambda **kw: open_clip_model(ls_init_value=0.5, **kw),
    "bidirectional argmax": lambda **kw: open_clip_model(custom=True, no_causal_mask=True, **kw),
    "transformers": transformers_model,
    "SigLIP": siglip_model,
    "ChineseCLIP": chinese_clip_model,
    "mean over tokens": lambda **kw: open_clip_hf_model(pooler="mean_pooler", **kw),
}


def tower_of(family: str, **options: Any) -> TextTower:
    return tower_over(FAMILIES[family](**options))


def by_hooks(
    tower: TextTower, base: list[int], donor: list[int], sweep: Sweep, at: int, column: Column
) -> torch.Tensor:
    """One patch by plain PyTorch hooks on a twin of the tower: a full pass, without nnsight."""
    twin = tower.twin()
    for block in twin.blocks:
        block.attn.explicit = True
    events = sweep.events(at, twin.n_layers)
    kept: dict[tuple[int, str], torch.Tensor] = {}

    def entries(state: torch.Tensor) -> tuple[Any, ...]:
        heads = slice(None) if column.head is None else column.head
        if sweep.site.name == "pattern":
            return 0, heads, list(column.positions)
        return (0, list(column.positions), heads) if sweep.site.parts is not None else (0, list(column.positions))

    def run(row: list[int], put: bool) -> torch.Tensor:
        def hook(event: tuple[int, str]) -> Any:
            def fire(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
                if not put:
                    kept[event] = output.clone()
                    return None
                output = output.clone()
                output[entries(output)] = kept[event][entries(output)]
                return output

            return fire

        handles = [
            twin.blocks[block].get_submodule(name).register_forward_hook(hook((block, name))) for block, name in events
        ]
        try:
            with torch.no_grad():
                return nn.functional.normalize(twin(torch.tensor([row])), dim=-1)[0]
        finally:
            for handle in handles:
                handle.remove()

    run(donor, put=False)
    return run(base, put=True)


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    base, donor = draw(differing_rows())
    site = draw(st.sampled_from(sorted(SITES)))
    sets = draw(st.lists(st.sets(st.integers(0, len(base) - 1), min_size=1), min_size=1, max_size=4))
    one_head = SITES[site].parts is not None and draw(st.booleans())
    heads = [draw(st.integers(0, 1)) if one_head else None for _ in sets]
    return {
        "family": draw(st.sampled_from(sorted(FAMILIES))),
        "layers": draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 10_000)),
        "base": base,
        "donor": donor,
        "sweep": Sweep(site_named(site), window=draw(st.integers(1, 3))),
        "columns": [Column(tuple(sorted(s)), head) for s, head in zip(sets, heads, strict=True)],
    }


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations())
def test_resumed_generic_and_plain_hooks_agree_at_every_site(situation: dict[str, Any]) -> None:
    tower = tower_of(situation["family"], seed=situation["seed"], layers=situation["layers"])
    base, donor = rows_for(tower, situation["base"], situation["donor"])
    sweep, columns = situation["sweep"], situation["columns"]
    engine = PatchingEngine(tower)
    found = engine.patch([base], [donor], sweep=sweep, columns=[columns])
    generic = engine.patch([base], [donor], sweep=sweep, columns=[columns], path="generic")
    n_layers = tower.n_layers + (sweep.site.name == "resid")
    assert found.patched.shape[:3] == (1, n_layers, len(columns))
    assert found.path == ("generic" if sweep.site.name == "pattern" else "resume") and generic.path == "generic"
    assert (found.patched - generic.patched).abs().max() <= TOLERANCE
    generator = torch.Generator().manual_seed(situation["seed"])
    for _ in range(3):
        at = int(torch.randint(n_layers, (), generator=generator))
        column = int(torch.randint(len(columns), (), generator=generator))
        expected = by_hooks(tower, base, donor, sweep, at, columns[column])
        assert (found.patched[0, at, column] - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_all_tokens_of_any_residual_layer_give_the_donor_and_no_token_before_the_difference_matters(
    family: str,
) -> None:
    tower = tower_of(family)
    base, donor = rows_for(tower, [62, 5, 6, 7, 8, 63], [62, 5, 6, 40, 8, 63])
    everything = Column(tuple(range(len(base))))
    engine = PatchingEngine(tower)
    for site in ("resid", "resid_pre", "resid_mid", "resid_post"):
        for path in ("resume", "generic"):
            found = engine.patch([base], [donor], sweep=Sweep(site_named(site)), columns=[[everything]], path=path)
            assert (found.patched[0, :, 0] - found.donor[0]).abs().max() <= 2e-6
    if tower.causal:
        for site in SITES:
            found = engine.patch([base], [donor], sweep=Sweep(site_named(site)), columns=[[Column((0, 1, 2))]])
            assert (found.patched[0, :, 0] - found.base[0]).abs().max() <= 1e-6


def test_a_state_is_the_sum_of_what_the_blocks_wrote() -> None:
    tower = tower_of("open_clip")
    ids = torch.tensor([[62, 40, 6, 7, 63]])
    attention, mlp = (run_clean(tower, ids, hook) for hook in ("hook_attn_out", "hook_mlp_out"))
    for block in range(tower.n_layers):
        total = attention.resid[block] + attention.site[block] + mlp.site[block]
        torch.testing.assert_close(total, attention.resid[block + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_that_reaches_the_last_state_replaces_it(family: str, window: int) -> None:
    """Where every position is read, the last state counts at any of them; elsewhere at the pooled one."""
    tower = tower_of(family)
    base, donor = rows_for(tower, [62, 5, 6, 7, 8, 63], [62, 5, 40, 7, 41, 63])
    sweep, columns = Sweep(site_named("resid"), window), [Column((2,)), Column((0, 5)), Column((3, 4))]
    found = PatchingEngine(tower).patch([base], [donor], sweep=sweep, columns=[columns], checks=0)
    assert found.path == "resume"
    for at in range(tower.n_layers + 1):
        for number, column in enumerate(columns):
            expected = by_hooks(tower, base, donor, sweep, at, column)
            assert (found.patched[0, at, number] - expected).abs().max() <= TOLERANCE


def test_runs_of_two_preparations_do_not_disturb_each_other() -> None:
    tower = tower_of("open_clip")
    base, donor = [62, 5, 6, 7, 63], [62, 40, 6, 7, 63]
    engine = PatchingEngine(tower)
    pattern, states = (engine.prepare([base], [donor], sweep=Sweep(site_named(name))) for name in ("pattern", "resid"))
    for prepared in (pattern, states, pattern):
        found = engine.run(prepared, [0])
        expected = PatchingEngine(tower).patch([base], [donor], sweep=prepared.sweep).patched
        torch.testing.assert_close(found.patched, expected, atol=2e-6, rtol=0)


def test_heads_together_are_the_whole_attention() -> None:
    """z of every head at once is the attention output: the same embedding as patching hook_attn_out."""
    tower = tower_of("transformers")
    base, donor = [62, 5, 6, 7, 63], [62, 5, 40, 41, 63]
    engine = PatchingEngine(tower)
    columns = [[Column((position,)) for position in range(5)]]
    by_z, by_out = (
        engine.patch([base], [donor], sweep=Sweep(site_named(site)), columns=columns).patched for site in ("z", "attn")
    )
    torch.testing.assert_close(by_z, by_out, atol=TOLERANCE, rtol=0)


def test_what_a_tower_does_not_have_is_refused() -> None:
    tower = tower_of("open_clip")
    engine = PatchingEngine(tower)
    base, donor = [62, 5, 6, 63], [62, 5, 40, 63]
    with pytest.raises(SiteError, match=r"no head 2.*have 2"):
        engine.patch([base], [donor], sweep=Sweep(site_named("z")), columns=[[Column((1,), 2)]])
    with pytest.raises(SiteError, match="'attn' has no heads"):
        engine.patch([base], [donor], sweep=Sweep(site_named("attn")), columns=[[Column((1,), 0)]])
    with pytest.raises(SiteError, match=r"no position \[4\].*4 tokens"):
        engine.patch([base], [donor], columns=[[Column((1, 4))]])
    with pytest.raises(SiteError, match="some columns name a head and others do not"):
        engine.patch([base], [donor], sweep=Sweep(site_named("z")), columns=[[Column((1,), 0), Column((1,))]])
    for window in (0, -1, True, 2.0, float("nan"), float("inf"), "3", None):
        with pytest.raises(SiteError, match="window must be"):
            Sweep(window=window)
    with pytest.raises(SiteError, match="path='resume'"):
        engine.patch([base], [donor], sweep=Sweep(site_named("pattern")), path="resume")

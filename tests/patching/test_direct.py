"""Direct effects: plain hooks agree, they add up in a pre-norm tower, and what is held still stays still."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import chinese_clip_model, open_clip_model, siglip_model, transformers_model
from torch import Tensor, nn
from towers import rows_for, tower_over

from tracescribe.errors import PatchDidNotFireError, SiteError
from tracescribe.patching import Column, DirectEngine, Sweep, TextTower, site_named
from tracescribe.patching.engine import direct as paths
from tracescribe.patching.sites import SITES

TOLERANCE = 2e-5  # on a unit vector; float32 and other orders of summation over at most 4 blocks give about 1e-6
FAMILIES = {
    "open_clip": lambda **kw: open_clip_model(**kw),
    "LayerScale": lambda **kw: open_clip_model(ls_init_value=0.5, **kw),
    "transformers": transformers_model,
    "SigLIP": siglip_model,
    "ChineseCLIP, post-norm": chinese_clip_model,
}
WITHIN = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_pattern", "attn.hook_z")
NEURONS = "mlp.hook_post"
PASS = ("hook_resid_pre", *WITHIN, "hook_attn_out", "hook_resid_mid", NEURONS, "hook_mlp_out", "hook_resid_post")


def tower_of(family: str, **options: Any) -> TextTower:
    return tower_over(FAMILIES[family](**options))


def direct_by_hooks(
    tower: TextTower, base: list[int], donor: list[int], sweep: Sweep, at: int, column: Column, through_mlps: bool
) -> Tensor:
    """Three full passes with plain PyTorch hooks: the base's outputs are kept, the donor's put in, the rest held."""
    twin = tower.twin()
    for block in twin.blocks:
        block.attn.explicit = True
    [(patched, hook)] = sweep.events(at, twin.n_layers)
    held_hooks = ("hook_attn_out",) if through_mlps else ("hook_attn_out", "hook_mlp_out")
    held = {
        (number, name)
        for number in range(patched, twin.n_layers)
        for name in held_hooks
        if number > patched
        or (
            PASS.index(name) > PASS.index(hook)
            and not (name == "hook_attn_out" and hook in WITHIN)
            and not (name == "hook_mlp_out" and hook == NEURONS)
        )
    }
    kept: dict[tuple[str, int, str], Tensor] = {}

    def run(row: list[int], replace: bool, keep: str = "") -> Tensor:
        def hook_of(number: int, name: str) -> Any:
            def fire(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                if keep:
                    kept[keep, number, name] = output
                if replace and (number, name) in held:
                    return kept["base", number, name]
                if replace and (number, name) == (patched, hook):
                    output = output.clone()
                    at_head = slice(None) if column.head is None else column.head
                    where: Any = (0, list(column.positions))
                    if sweep.site.parts is not None:
                        where = (
                            (0, at_head, list(column.positions)) if sweep.site.name == "pattern" else (*where, at_head)
                        )
                    output[where] = kept["donor", number, name][where]
                return output

            return fire

        handles = [
            twin.blocks[number].get_submodule(name).register_forward_hook(hook_of(number, name))
            for number in range(twin.n_layers)
            for name in PASS
        ]
        try:
            with torch.no_grad():
                return nn.functional.normalize(twin(torch.tensor([row])), dim=-1)[0]
        finally:
            for handle in handles:
                handle.remove()

    run(base, replace=False, keep="base")
    run(donor, replace=False, keep="donor")
    return run(base, replace=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nnsight_and_plain_hooks_agree_at_every_site(data: st.DataObject) -> None:
    tower = tower_of(
        data.draw(st.sampled_from(sorted(FAMILIES))),
        seed=data.draw(st.integers(0, 999)),
        layers=data.draw(st.integers(1, 4)),
    )
    base, donor = rows_for(tower, [62, 5, 6, 7, 8, 63], [62, 5, 40, 7, 41, 63])
    site = site_named(data.draw(st.sampled_from(sorted(SITES))))
    head = data.draw(st.sampled_from([None, 0, 1])) if site.parts is not None else None
    columns = [Column((2,), head), Column((1, 4, 5), head), Column(tuple(range(6)), head)]
    through_mlps = data.draw(st.booleans())
    sweep = Sweep(site)
    found = DirectEngine(tower, through_mlps=through_mlps).patch([base], [donor], sweep=sweep, columns=[columns])
    assert found.path == "generic" and found.patched.shape[1] == site.n_layers(tower.n_layers)
    for at in range(found.patched.shape[1]):
        number = data.draw(st.integers(0, 2))
        expected = direct_by_hooks(tower, base, donor, sweep, at, columns[number], through_mlps)
        assert (found.patched[0, at, number] - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("family", ["open_clip", "LayerScale", "transformers"])
def test_direct_effects_of_all_parts_add_up_to_the_donors_last_state(family: str) -> None:
    """In a pre-norm tower the last state is layer 0 plus what every head, bias and MLP wrote: nothing is left over.

    Every part's change is read off the final state that a direct patch leaves, so that the sum tests the patches.
    """
    tower = tower_of(family).twin(torch.float64)
    for part in (tower.ln_final, tower.projection):  # so that "embeddings" are final states
        part.forward = lambda x: x  # type: ignore[method-assign]
    base, donor = rows_for(tower, [62, 5, 6, 7, 8, 63], [62, 5, 40, 7, 41, 63])

    class Unscaled(DirectEngine):
        """Keeps the state that is read out before it is normalised."""

        states: list[Tensor]

        def _direct(self, *args: Any) -> Tensor:
            found = super()._direct(*args)
            self.states.append(found)
            return found

    def changes(site: str, columns: list[Column], layers: slice = slice(None)) -> Tensor:
        engine = Unscaled(tower)
        engine.states = []
        engine.patch([base], [donor], sweep=Sweep(site_named(site)), columns=[columns])
        return sum(state - ours for state in torch.stack(engine.states)[layers].flatten(0, 1))  # type: ignore

    everything = tuple(range(len(base)))
    ours, theirs = (tower(torch.tensor([row]))[0].detach() for row in (base, donor))
    heads = changes("z", [Column(everything, head) for head in range(2)])
    together = changes("attn", [Column(everything)])
    mlps = changes("mlp", [Column(everything)])
    start = changes("resid", [Column(everything)], layers=slice(0, 1))
    torch.testing.assert_close(heads, together, atol=1e-12, rtol=0)  # float64: rounding only
    torch.testing.assert_close(start + heads + mlps, theirs - ours, atol=1e-12, rtol=0)
    assert heads.abs().max() > 0.01 and mlps.abs().max() > 0.01


def test_only_the_row_that_is_read_matters_once_all_is_held() -> None:
    tower = tower_of("open_clip")
    base, donor = [62, 5, 6, 7, 63], [62, 5, 40, 41, 63]
    columns = [[Column((position,), head) for position in range(5) for head in range(2)]]
    found = DirectEngine(tower).patch([base], [donor], sweep=Sweep(site_named("z")), columns=columns)
    assert (found.patched[0, :, :8] - found.base[0]).abs().max() <= 1e-6
    assert (found.patched[0, :, 8:] - found.base[0]).abs().max() > 1e-3


def test_a_part_that_is_not_held_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = tower_of("open_clip")
    real = paths.hook_point

    class Elsewhere:
        def __init__(self, *args: Any) -> None:
            self.point, self.hook = real(*args), args[1]

        @property
        def output(self) -> Any:
            return self.point.output.clone() + 1 if self.hook == "hook_mlp_out" else self.point.output

    monkeypatch.setattr(paths, "hook_point", Elsewhere)
    with pytest.raises(PatchDidNotFireError, match=r"hook_mlp_out\), in the path from block 0 \(attn.hook_z\)"):
        DirectEngine(tower).patch([[62, 5, 63]], [[62, 40, 63]], sweep=Sweep(site_named("z")))


def test_what_has_no_direct_effect_is_refused() -> None:
    engine = DirectEngine(tower_of("open_clip"))
    with pytest.raises(SiteError, match="not of window=2"):
        engine.patch([[62, 5, 63]], [[62, 40, 63]], sweep=Sweep(window=2))
    with pytest.raises(SiteError, match="does not hold anything still"):
        engine.patch([[62, 5, 63]], [[62, 40, 63]], path="resume")

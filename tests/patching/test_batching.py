"""Batches of the engine: every pair once, bounded rows, the same bits whatever else is run, float32 in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.patching import PatchingEngine, Sweep, TextTower, site_named
from tracescribe.patching.engine.batching import RowLimits, full_float32
from tracescribe.patching.resume.shared_prefix import Bundles


@pytest.fixture(scope="module")
def tower() -> TextTower:
    return ts.wrap(open_clip_model(layers=4), tokenizer=WordTokenizer()).text


def rows(n: int) -> tuple[list[list[int]], list[list[int]]]:
    generator = torch.Generator().manual_seed(0)
    base = [[62, *torch.randint(2, 50, (3 + i % 4,), generator=generator).tolist(), 51, 63] for i in range(n)]
    return base, [[*row[:-2], 52, row[-1]] for row in base]


def test_streaming_gives_every_pair_once_and_what_patch_collects(tower: TextTower) -> None:
    engine, (base, donor) = PatchingEngine(tower), rows(30)
    prepared = engine.prepare(base, donor, batch_size=7)
    whole = engine.patch(base, donor, batch_size=7)
    seen: list[int] = []
    for batch in engine.stream(prepared):
        width = batch.patched.shape[2]
        assert torch.equal(batch.base, whole.base[batch.members])
        assert torch.equal(batch.patched.nan_to_num(9), whole.patched[batch.members, :, :width].nan_to_num(9))
        seen += batch.members
    assert sorted(seen) == list(range(30))
    assert [len(unit) for unit in prepared.units] == [7, 7, 7, 7, 2]


def test_a_unit_has_the_same_bits_alone_and_among_others(tower: TextTower) -> None:
    base, donor = rows(30)
    engine = PatchingEngine(tower)
    prepared = engine.prepare(base, donor, batch_size=7)
    streamed = list(engine.stream(prepared))
    again = PatchingEngine(tower)
    for number in (3, 0):  # as when a run goes on in another process
        alone = again.run(again.prepare(base, donor, batch_size=7), prepared.units[number])
        assert alone.patched.numpy().tobytes() == streamed[number].patched.numpy().tobytes()


@pytest.mark.parametrize("memory", [2**17, 2**19])
@pytest.mark.parametrize("site", ["resid", "mlp"])
def test_no_pass_has_more_rows_than_the_budget_allows(tower: TextTower, memory: int, site: str) -> None:
    engine, (base, donor) = PatchingEngine(tower), rows(60)
    sweep = Sweep(site_named(site))
    limits = RowLimits.within(tower, sweep, memory)
    assert limits.lanes < 3072 and limits.clean < 512  # or nothing would be tested
    seen: list[int] = []
    for block in engine.tower.blocks:
        block.mlp.register_forward_hook(lambda module, args, output: seen.append(output[..., 0].numel()))
    small = engine.patch(base, donor, sweep=sweep, memory=memory)
    longest = max(map(len, base))
    # a batch is closed by the pair that reaches the limit; a pass never exceeds it by more than one lane
    assert max(seen) <= max(limits.clean + 2 * longest, limits.lanes + longest)
    large = engine.patch(base, donor, sweep=sweep)
    # float32 in another order of summation
    torch.testing.assert_close(small.patched, large.patched, atol=2e-6, rtol=0, equal_nan=True)


def test_keys_and_values_of_late_patches_are_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions as long as the context that differ in the last word: one row of each is run, and attends to all."""
    tower = ts.wrap(open_clip_model(layers=8, context_length=77), tokenizer=WordTokenizer()).text
    base = [[62, *[2 + i % 40] * 74, 51, 63] for i in range(36)]
    donor = [[*row[:-2], 52, 63] for row in base]
    engine, memory = PatchingEngine(tower), 2**18
    held: list[int] = []
    keys = Bundles.keys

    def counted(self: Bundles, *given: Any) -> Any:
        found = keys(self, *given)
        held[-1] += 2 * found.size * tower.d_model * 4
        return found

    monkeypatch.setattr(Bundles, "keys", counted)
    for block in engine.tower.blocks:
        block.attn.register_forward_pre_hook(lambda *_: held.append(0))
    engine.patch(base, donor, memory=memory, batch_size=len(base), checks=0)
    assert memory // 4 < max(held) <= memory // 2


def test_the_budget_shrinks_with_width_and_depth() -> None:
    def limits(**size: int) -> RowLimits:
        tower = ts.wrap(open_clip_model(**size), tokenizer=WordTokenizer()).text
        return RowLimits.within(tower, Sweep(), 2**20)

    small, deep, wide = limits(layers=2, width=32), limits(layers=8, width=32), limits(layers=2, width=128)
    assert deep.clean < small.clean and deep.lanes > small.lanes  # more lanes of a text share the rows before them
    assert wide.clean < small.clean and wide.lanes < small.lanes


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_float32_products_are_float32_inside_and_the_setting_comes_back(tower: TextTower, allowed: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        engine, (base, donor) = PatchingEngine(tower), rows(2)
        seen: list[bool] = []
        engine.tower.blocks[0].register_forward_hook(lambda *_: seen.append(tf32_is_off()))
        engine.tower.blocks[0].mlp.register_forward_hook(lambda *_: seen.append(tf32_is_off()))
        engine.patch(base, donor)
        assert seen and all(seen)
        assert torch.get_float32_matmul_precision() == allowed
        with pytest.raises(RuntimeError, match="stop"), full_float32():
            raise RuntimeError("stop")
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(before)


def tf32_is_off() -> bool:
    matmul = torch.backends.cuda.matmul
    if hasattr(torch.backends.mkldnn, "matmul"):
        return matmul.fp32_precision == "ieee"
    return not matmul.allow_tf32

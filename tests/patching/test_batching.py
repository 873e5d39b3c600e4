"""Batches of the engine: every pair once, bounded rows, the same bits whatever else is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.patching import PatchingEngine, Sweep, TextTower, site_named
from tracescribe.patching.engine.batching import clean_rows, patched_rows
from tracescribe.patching.resume.resumed_pass import BlockLayout


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
    collected = engine.patch(base, donor, batch_size=7)
    seen: list[int] = []
    for batch in engine.stream(prepared):
        width = batch.patched.shape[2]
        assert torch.equal(batch.base, collected.base[batch.members])
        assert torch.equal(batch.patched.nan_to_num(9), collected.patched[batch.members, :, :width].nan_to_num(9))
        seen += batch.members
    assert sorted(seen) == list(range(30))
    assert [len(shard) for shard in prepared.shards] == [7, 7, 7, 7, 2]


def test_a_shard_has_the_same_bits_alone_and_among_others(tower: TextTower) -> None:
    base, donor = rows(30)
    engine = PatchingEngine(tower)
    prepared = engine.prepare(base, donor, batch_size=7)
    streamed = list(engine.stream(prepared))
    again = PatchingEngine(tower)
    for number in (3, 0):  # as when a run goes on in another process
        alone = again.run(again.prepare(base, donor, batch_size=7), prepared.shards[number])
        assert alone.patched.numpy().tobytes() == streamed[number].patched.numpy().tobytes()


@pytest.mark.parametrize("memory", [2**17, 2**19])
@pytest.mark.parametrize("site", ["resid", "mlp"])
def test_no_pass_has_more_rows_than_the_budget_allows(tower: TextTower, memory: int, site: str) -> None:
    engine, (base, donor) = PatchingEngine(tower), rows(60)
    sweep = Sweep(site_named(site))
    longest = max(map(len, base))
    clean, patched = clean_rows(tower, sweep, memory), patched_rows(tower, longest, memory)
    assert patched < 3072 and clean < 512  # or nothing would be tested
    seen: list[int] = []
    for block in engine.tower.blocks:
        block.mlp.register_forward_hook(lambda module, args, output: seen.append(output[..., 0].numel()))
    small = engine.patch(base, donor, sweep=sweep, memory=memory)
    # a shard is closed by the pair that reaches the limit; a pass never exceeds it by more than one sequence
    assert max(seen) <= max(clean + 2 * longest, patched + longest)
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
    lookups = BlockLayout._lookups

    def counted(self: BlockLayout, shift: int) -> Any:
        queries, keys = lookups(self, shift)
        held.append(sum(2 * rows.size * tower.d_model * 4 for rows in keys))
        return queries, keys

    monkeypatch.setattr(BlockLayout, "_lookups", counted)
    engine.patch(base, donor, memory=memory, batch_size=len(base), checks=0)
    assert memory // 4 < max(held) <= memory // 2


def test_the_budget_shrinks_with_width_and_depth() -> None:
    def limits(length: int = 10, **size: int) -> tuple[int, int]:
        tower = ts.wrap(open_clip_model(**size), tokenizer=WordTokenizer()).text
        return clean_rows(tower, Sweep(), 2**20), patched_rows(tower, length, 2**20)

    (clean, patched), deep, wide = limits(layers=2, width=32), limits(layers=8, width=32), limits(layers=2, width=128)
    assert deep[0] < clean and deep[1] == patched  # all layers of a cache are kept, one block of a pass at a time
    assert wide[0] < clean and wide[1] < patched
    assert limits(length=77, layers=2, width=32)[1] < patched  # a row may attend to 77 keys

"""TransformerLens runs on a tower unchanged, and gives what nnsight and plain PyTorch hooks give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from models import (
    chinese_clip_model,
    open_clip_model,
    patched_by_hooks,
    siglip_model,
    transformers_model,
    word_tokenizer,
)
from torch import Tensor, nn

import tracescribe as ts
from tracescribe.errors import LengthMismatchError, UnsupportedTowerError
from tracescribe.patching import PatchingEngine, TextTower

# Similarities of unit vectors after two blocks in float32; different orders of summation give about 1e-6.
TOLERANCE = 1e-5

FAMILIES = {
    "open_clip": lambda: open_clip_model(layers=2),
    "open_clip, LayerScale": lambda: open_clip_model(layers=2, ls_init_value=0.5),
    "transformers": lambda: transformers_model(layers=2),
    "SigLIP": lambda: siglip_model(layers=2),
    "ChineseCLIP": lambda: chinese_clip_model(layers=2),  # BERT: post-LN, bidirectional, no final norm
}

# Which activation each of TransformerLens' sweeps replaces, and what its axes after the layer index; None: all.
POS, POS_HEAD, ALL_HEAD = ("pos",), ("pos", "head"), (None, "head")
SWEEPS: dict[str, tuple[str, tuple[str | None, ...], tuple[str, ...]]] = {
    "resid_pre": ("hook_resid_pre", POS, ("pos",)),
    "resid_mid": ("hook_resid_mid", POS, ("pos",)),
    "attn_out": ("hook_attn_out", POS, ("pos",)),
    "mlp_out": ("hook_mlp_out", POS, ("pos",)),
    **{
        f"attn_head_{name}_{kind}": (f"attn.hook_{hook}", dims, axes)
        for name, hook in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"))
        for kind, dims, axes in (("by_pos", POS_HEAD, ("pos", "head")), ("all_pos", ALL_HEAD, ("head",)))
    },
    "attn_head_pattern_all_pos": ("attn.hook_pattern", ("head",), ("head",)),
    "attn_head_pattern_by_pos": ("attn.hook_pattern", ("head", "dest"), ("head", "dest")),
    "attn_head_pattern_dest_src_pos": ("attn.hook_pattern", ("head", "dest", "src"), ("head", "dest", "src")),
}


def wrapped(source: nn.Module) -> TextTower:
    return ts.wrap(source, tokenizer=word_tokenizer(source)).text


def pair(tower: TextTower) -> tuple[Tensor, Tensor]:
    base, donor = tower.rows(["there is no edema.", "there are some masses."])
    return torch.tensor([base]), torch.tensor([donor])


def similarity(to: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda embedding: nn.functional.normalize(embedding, dim=-1)[0] @ to


def direction(size: int) -> Tensor:
    return nn.functional.normalize(torch.randn(size, generator=torch.Generator().manual_seed(1)), dim=0)


def sweep(name: str, model: Any, base: Tensor, donor: Tensor, metric: Callable[[Tensor], Tensor]) -> Tensor:
    """TransformerLens' own sweep, from the donor's cache into the base's run."""
    from transformer_lens import patching

    with torch.no_grad():
        _, cache = model.run_with_cache(donor)
        return getattr(patching, f"get_act_patch_{name}")(model, base, cache, metric)


def with_one_cell(tower: TextTower, base: Tensor, donor: Tensor, hook: str, layer: int, at: tuple[Any, ...]) -> Tensor:
    """The embedding with one cell of one activation replaced, by plain PyTorch hooks on the tower's hook points."""
    twin = tower.twin()
    for block in twin.blocks:
        block.attn.explicit = True  # so that the pattern exists
    point = twin.blocks[layer].get_submodule(hook)
    kept: list[Tensor] = []

    def keep_or_put(module: nn.Module, args: Any, state: Tensor) -> Tensor:
        if not kept:
            kept.append(state.clone())
            return state
        state = state.clone()
        state[at] = kept[0][at]
        return state

    with torch.no_grad():
        point.register_forward_hook(keep_or_put)
        twin(donor)
        return twin(base)


def random_cells(shape: Sequence[int], n: int = 3) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(int(torch.randint(size, (), generator=generator)) for size in shape) for _ in range(n)]


def test_the_table_names_every_sweep_of_transformer_lens() -> None:
    from transformer_lens import patching

    every = {name.removeprefix("get_act_patch_") for name in dir(patching) if name.startswith("get_act_patch_")}
    stacked = {"block_every", "attn_head_all_pos_every", "attn_head_by_pos_every"}
    assert every == set(SWEEPS) | stacked | {"direct_path", "direct_path_all_sources"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_sweep_gives_what_plain_hooks_give(family: str) -> None:
    tower = wrapped(FAMILIES[family]())
    base, donor = pair(tower)
    lens = tower.to_transformer_lens()
    metric = similarity(direction(tower(base).shape[-1]))
    for name, (hook, dims, axes) in SWEEPS.items():
        found = sweep(name, lens, base, donor, metric)
        for layer, *cell in random_cells(found.shape):
            where = dict(zip(axes, cell, strict=True))
            at = (slice(None), *(slice(None) if dim is None else where[dim] for dim in dims))
            expected = metric(with_one_cell(tower, base, donor, hook, layer, at))
            assert abs(float(found[(layer, *cell)] - expected)) <= TOLERANCE, (name, layer, cell)
        assert (found - metric(tower(base))).abs().max() > 10 * TOLERANCE, f"no {name} had any effect"


@pytest.mark.parametrize("family", FAMILIES)
def test_nnsight_and_plain_hooks_on_the_source_agree_at_every_cell_of_the_residual_stream(family: str) -> None:
    source = FAMILIES[family]()
    tower = wrapped(source)
    base, donor = pair(tower)
    to = direction(tower(base).shape[-1])
    lens = sweep("resid_pre", tower.to_transformer_lens(), base, donor, similarity(to))
    nnsight = PatchingEngine(tower).patch(base.tolist(), donor.tolist()).patched[0] @ to
    torch.testing.assert_close(lens, nnsight[: tower.n_layers], atol=TOLERANCE, rtol=0)
    fill = nn.functional.pad
    padded = [
        fill(ids, (0, tower.context_length - ids.shape[1]), value=tower.tokenizer.pad_id) for ids in (base, donor)
    ]
    for layer, position in random_cells(lens.shape):
        expected = patched_by_hooks(source, *padded, layer, [position]) @ to
        assert abs(float(lens[layer, position] - expected)) <= TOLERANCE


def test_per_example_results_are_the_causal_tracing_effect() -> None:
    """(patched − base) / (donor − base) of TransformerLens' PatchingResult is CTE, equation of NAST."""
    from transformer_lens import patching

    tower = wrapped(open_clip_model(layers=2))
    base = torch.tensor(tower.rows(["there is no edema.", "the left lung is."]))
    donor = torch.tensor(tower.rows(["there is some edema.", "the right lung is."]))
    to = direction(16)

    def metric(embeddings: Tensor) -> Tensor:
        return nn.functional.normalize(embeddings, dim=-1) @ to

    lens = tower.to_transformer_lens()
    with torch.no_grad():
        clean, cache = lens.run_with_cache(donor)
        result = patching.get_act_patch_resid_pre(lens, base, cache, metric, reduce="none", baseline=True)
    assert isinstance(result, patching.PatchingResult)
    ours = PatchingEngine(tower).patch(base.tolist(), donor.tolist())
    b, d = ours.base @ to, ours.donor @ to
    cte = ((ours.patched[:, :2] @ to - b[:, None, None]) / (d - b)[:, None, None]).movedim(0, -1)
    # the tolerance on S over the smallest difference
    torch.testing.assert_close(
        result.normalized(metric(clean)), cte, atol=float(TOLERANCE / (d - b).abs().min()), rtol=0
    )


@pytest.mark.parametrize("family", ["open_clip", "transformers", "SigLIP"])
def test_the_parts_of_the_residual_stream_add_up(family: str) -> None:
    from transformer_lens import ActivationCache

    tower = wrapped(FAMILIES[family]())
    base, _ = pair(tower)
    lens = tower.to_transformer_lens()
    with torch.no_grad():
        embedding, cache = lens.run_with_cache(base)
        assert isinstance(cache, ActivationCache)
        last = cache["resid_post", -1]
        close = {"atol": 2e-5, "rtol": 0}  # states of order 10: a few units in the last place for each of 100 terms
        parts, labels = cache.decompose_resid(return_labels=True)
        assert labels[:2] == ["embed", "pos_embed"]
        torch.testing.assert_close(parts.sum(dim=0), last, **close)
        torch.testing.assert_close(cache.get_full_resid_decomposition().sum(dim=0), last, **close)
        neurons_together = cache.get_full_resid_decomposition(expand_neurons=False)
        torch.testing.assert_close(neurons_together.sum(dim=0), last, **close)
        heads = cache.stack_head_results(incl_remainder=True)
        assert len(heads) == tower.n_layers * tower.n_heads + 1
        torch.testing.assert_close(heads.sum(dim=0), last, **close)
        assert cache.stack_activation("pattern").shape == (2, 1, 2, base.shape[1], base.shape[1])
        # the logit lens: the last state, normed and projected, is the embedding
        states = cache.accumulated_resid(apply_ln=True)[-1]
        torch.testing.assert_close(tower.projection(states)[0, tower.pooled_positions(base)], embedding, **close)
        # results of heads can be had from z and W_O alone
        _, small = lens.run_with_cache(base, names_filter=lambda name: name.endswith("hook_z"))
        torch.testing.assert_close(small.stack_head_results(), heads[:-1], **close)
        with pytest.raises(UnsupportedTowerError, match="apply_ln=False"):
            cache.decompose_resid(apply_ln=True)


def test_weights_have_the_meaning_that_transformer_lens_gives_them() -> None:
    for family in ("open_clip", "transformers"):  # fused, and one linear layer each
        tower = wrapped(FAMILIES[family]())
        lens = tower.to_transformer_lens()
        with torch.no_grad():
            _, cache = lens.run_with_cache(pair(tower)[0])
            block, x = lens.blocks[1], cache["resid_pre", 1]
            for name, (_, weight, bias) in zip("qkv", block.attn.head_inputs(), strict=True):
                assert torch.equal(weight, getattr(block.attn, f"W_{name.upper()}"))
                expected = torch.einsum("bpd,hdc->bphc", block.ln_1(x), weight) + bias
                torch.testing.assert_close(cache[name, 1], expected, atol=2e-5, rtol=0)
            neurons = block.ln_2(cache["resid_mid", 1]) @ block.mlp.W_in + block.mlp.up.bias
            torch.testing.assert_close(cache["pre", 1, "mlp"], neurons, atol=2e-5, rtol=0)
            out = cache["post", 1, "mlp"] @ block.mlp.W_out + block.mlp.down.bias
            torch.testing.assert_close(cache["mlp_out", 1], out, atol=2e-5, rtol=0)


def test_what_is_no_sum_is_not_taken_apart() -> None:
    from transformer_lens import patching

    for family, reason in (("ChineseCLIP", "post-LN"), ("open_clip, LayerScale", "LayerScale")):
        tower = wrapped(FAMILIES[family]())
        base, donor = pair(tower)
        lens = tower.to_transformer_lens()
        with torch.no_grad():
            (_, cache), (_, other) = lens.run_with_cache(base), lens.run_with_cache(donor)
        for refused in (cache.stack_head_results, cache.stack_neuron_results, cache.get_full_resid_decomposition):
            with pytest.raises(UnsupportedTowerError, match=f"block 0 .*{reason}"):
                refused(2) if refused == cache.stack_neuron_results else refused()
        with pytest.raises(UnsupportedTowerError, match=reason):
            patching.get_act_patch_direct_path(lens, base, other, cache, similarity(direction(16)), 0, 0)
        assert not lens.cfg.use_split_qkv_input
    with torch.no_grad():  # LayerScale is inside attn_out and mlp_out, so these do add up
        torch.testing.assert_close(cache.decompose_resid().sum(dim=0), cache["resid_post", -1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_users_model_and_tower_stay_as_they_were(family: str) -> None:
    source = FAMILIES[family]()
    tower = wrapped(source)
    base, donor = pair(tower)
    before, keys = copy.deepcopy(source.state_dict()), list(tower.state_dict())
    dicts = {id(module): set(module.__dict__) for module in (*source.modules(), *tower.modules())}
    expected = tower(base).detach()
    lens = tower.to_transformer_lens()
    assert {id(p) for p in lens.parameters()} == {id(p) for p in tower.parameters()}
    sweep("resid_pre", lens, base, donor, similarity(direction(expected.shape[-1])))

    def fails(state: Tensor, hook: Any) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lens.run_with_hooks(base, fwd_hooks=[("blocks.0.hook_resid_mid", fails)])
    torch.testing.assert_close(lens(base).detach(), expected, atol=TOLERANCE, rtol=0)  # no hook stayed behind
    assert torch.equal(tower(base).detach(), expected)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert list(tower.state_dict()) == keys
    for module in (*source.modules(), *tower.modules()):
        assert set(module.__dict__) == dicts[id(module)]
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_texts_go_in_as_the_tower_tokenises_them() -> None:
    tower = wrapped(open_clip_model(layers=2))
    lens = tower.to_transformer_lens()
    texts = ["there is no edema.", "there is some edema."]
    with torch.no_grad():
        embeddings, cache = lens.run_with_cache(texts)
        torch.testing.assert_close(nn.functional.normalize(embeddings, dim=-1), tower.encode(texts), atol=2e-6, rtol=0)
    assert cache["resid_post", 0].shape == (2, 7, 32)
    assert lens.to_str_tokens(texts[0]) == ["[SOT]", "there", "is", "no", "edema", ".", "[EOT]"]
    single, plain = lens.run_with_cache(texts[0], return_cache_object=False)
    assert isinstance(plain, dict) and single.shape == (1, 16)
    _, cache = lens.run_with_cache(lens.to_tokens(texts[0]), remove_batch_dim=True)
    assert cache["resid_post", 0].shape == (7, 32) and cache.stack_head_results().shape == (4, 7, 32)
    with pytest.raises(LengthMismatchError, match="7, 5 tokens"):
        lens.to_tokens(["there is no edema.", "no edema."])

"""Image towers compute what their sources compute, share their weights, and patch as plain hooks on a source do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import (
    chinese_clip_model,
    clip_text_only_model,
    clipseg_model,
    counterfactual_pixels,
    open_clip_image_model,
    open_clip_timm_model,
    siglip_model,
    transformers_model,
    vision_text_model,
    word_tokenizer,
)
from torch import Tensor, nn
from zoo import entries

import tracescribe as ts
from tracescribe.errors import DataFormatError, NonFiniteError, SiteError, TowerMismatchError, UnsupportedTowerError
from tracescribe.patching import Column, ImageTower, PatchingEngine, Sweep, site_named

TOLERANCE = 2e-5  # on S, as for texts; float32 and other orders of summation give about 1e-6

RESNET = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 8, "head_width": 32}
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "open_clip": open_clip_image_model,
    "open_clip avg": lambda: open_clip_image_model(pool_type="avg"),
    "open_clip avg, norm after": lambda: open_clip_image_model(pool_type="avg", final_ln_after_pool=True),
    "open_clip no ln_pre, LayerScale, dropout": lambda: open_clip_image_model(
        no_ln_pre=True, ls_init_value=0.5, patch_dropout=0.5
    ),
    "open_clip attentional pool": lambda: open_clip_image_model(
        attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2
    ),
    "open_clip uneven image": lambda: open_clip_image_model(image_size=(24, 37)),
    "open_clip ResNet": lambda: open_clip_image_model(**RESNET),
    "timm token": open_clip_timm_model,
    "timm map, no class token": lambda: open_clip_timm_model(class_token=False, global_pool="map", init_values=0.3),
    "timm avg, registers": lambda: open_clip_timm_model(global_pool="avg", reg_tokens=2, no_embed_class=True),
    "transformers CLIP": transformers_model,
    "MetaCLIP 2": lambda: next(entry for entry in entries() if entry.name == "transformers:MetaClip2Model").build(0),
    "CLIPSeg": clipseg_model,
    "ChineseCLIP": chinese_clip_model,
    "SigLIP": siglip_model,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, ImageTower]:
    source = FAMILIES[request.param]()
    return source, wrapped(source).vision


def wrapped(source: nn.Module) -> ts.DualEncoder:
    return ts.wrap(source, tokenizer=word_tokenizer(source))


def source_embedding(source: Any, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        found = (
            source.encode_image(pixels)
            if hasattr(source, "visual")
            else source.get_image_features(pixel_values=pixels).pooler_output
        )
    return nn.functional.normalize(found, dim=-1)


def source_stages(source: Any) -> list[nn.Module]:
    """The modules of the source model whose outputs are layers 0..L, found without the package."""
    visual = getattr(source, "visual", None)
    if hasattr(visual, "layer1"):
        return [visual.avgpool, visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    if hasattr(visual, "trunk"):
        return [visual.trunk.norm_pre, *visual.trunk.blocks]
    if visual is not None:
        return [visual.ln_pre, *visual.transformer.resblocks]
    vision = source.vision_model
    return [vision.pre_layrnorm if hasattr(vision, "pre_layrnorm") else vision.embeddings, *vision.encoder.layers]


def patched_by_hooks(source: nn.Module, tower: ImageTower, image: Tensor, donor: Tensor, at: int, position: int) -> Any:
    """Two whole passes of the source model with a plain hook: no tower, no nnsight, no shortcut."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, state: Tensor) -> None:
        kept.append(state.clone())

    def put(module: nn.Module, args: Any, state: Tensor) -> Tensor:
        state = state.clone()
        if state.ndim == 3:
            state[:, position] = kept[0][:, position]
            return state
        row, column = divmod(position, tower.grid[1])
        high, wide = state.shape[2] // tower.grid[0], state.shape[3] // tower.grid[1]
        box = (slice(row * high, (row + 1) * high), slice(column * wide, (column + 1) * wide))
        state[:, :, *box] = kept[0][:, :, *box]
        return state

    for hook, pixels in ((keep, donor), (put, image)):
        handle = source_stages(source)[at].register_forward_hook(hook)
        found = source_embedding(source, pixels[None])[0]
        handle.remove()
    return found


def test_embeddings_are_the_source_models(family: tuple[nn.Module, ImageTower]) -> None:
    source, tower = family
    pixels = torch.randn(3, 3, *tower.image_size, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(tower.encode(pixels), source_embedding(source, pixels), atol=2e-6, rtol=0)
    assert tower.context_length == len(tower.position_names) == len(tower.first) + tower.grid[0] * tower.grid[1]


def test_weights_are_shared_and_the_source_is_left_alone(family: tuple[nn.Module, ImageTower]) -> None:
    source, tower = family
    theirs = {id(tensor) for tensor in [*source.parameters(), *source.buffers()]}
    assert {id(tensor) for tensor in [*tower.parameters(), *tower.buffers()]} <= theirs
    before = copy.deepcopy(source.state_dict())
    dicts = {name: set(module.__dict__) for name, module in source.named_modules()}
    source.train()
    other = wrapped(source).vision
    image, donor = counterfactual_pixels(1, tower.image_size, tower.cell, [(0, 1)])
    PatchingEngine(other).patch([image], [donor], checks=0)
    assert all(module.training for module in source.modules())
    source.eval()
    assert {name: set(module.__dict__) for name, module in source.named_modules()} == dicts
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in source.modules())
    after = source.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_both_paths_and_plain_hooks_on_the_source_agree(family: tuple[nn.Module, ImageTower]) -> None:
    source, tower = family
    image, donor = counterfactual_pixels(2, tower.image_size, tower.cell, [(0, 0), (1, 1)])
    engine = PatchingEngine(tower)
    found = engine.patch([image], [donor])
    assert found.path == ("resume" if tower.resumable else "generic")
    generic = engine.patch([image], [donor], path="generic").patched[0]
    assert found.patched.shape[1:3] == (tower.n_layers + 1, tower.context_length)
    assert (found.patched[0] - generic).abs().max() <= TOLERANCE
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        layer = int(torch.randint(tower.n_layers + 1, (), generator=generator))
        position = int(torch.randint(tower.context_length, (), generator=generator))
        expected = patched_by_hooks(source, tower, image, donor, layer, position)
        assert (found.patched[0, layer, position] - expected).abs().max() <= TOLERANCE


def test_what_holds_by_construction(family: tuple[nn.Module, ImageTower]) -> None:
    _, tower = family
    image, donor = counterfactual_pixels(4, tower.image_size, tower.cell, [(0, 1)])
    engine = PatchingEngine(tower)
    found = engine.patch([image], [donor])
    cells, clean, other = found.patched[0], found.base[0], found.donor[0]
    assert (clean - other).abs().max() > 1e-3
    changed = len(tower.first) + 1
    same = [position for position in range(tower.context_length) if position != changed]
    if tower.resumable:  # a patch's pixels are its layer 0; a ResNet's stem looks a little over the edge
        assert torch.equal(cells[0, same], clean.expand(len(same), -1))
        assert torch.equal(cells[0, changed], other)
    if tower.spec.reads_one:
        assert torch.equal(cells[-1, 0], other)
        assert torch.equal(cells[-1, 1:], clean.expand(tower.context_length - 1, -1))
    everything = [[Column(tuple(range(tower.context_length)))]]
    whole = engine.patch([image], [donor], columns=everything, path="generic").patched[0, :, 0]
    torch.testing.assert_close(whole, other.expand(tower.n_layers + 1, -1), atol=2e-6, rtol=0)


def test_the_batch_does_not_change_a_pair(family: tuple[nn.Module, ImageTower]) -> None:
    _, tower = family
    pairs = [counterfactual_pixels(seed, tower.image_size, tower.cell, [(1, 0)]) for seed in range(3)]
    columns = [[Column((0,)), Column((1, 2))]] * 3
    engine = PatchingEngine(tower)
    together = engine.patch([a for a, _ in pairs], [b for _, b in pairs], columns=columns, batch_size=3)
    alone = [engine.patch([a], [b], columns=columns[:1]).patched for a, b in pairs]
    torch.testing.assert_close(together.patched, torch.cat(alone), atol=2e-6, rtol=0)


@pytest.mark.parametrize("site", ["attn", "mlp", "z", "pattern"])
def test_sites_inside_blocks_of_a_transformer(site: str) -> None:
    tower = wrapped(open_clip_image_model(pool_type="avg")).vision
    image, donor = counterfactual_pixels(6, tower.image_size, tower.cell, [(0, 0)])
    sweep, columns = Sweep(site_named(site)), [[Column((0, 1, 2)), Column((5,))]]
    engine = PatchingEngine(tower)
    found = engine.patch([image], [donor], sweep=sweep, columns=columns)
    generic = engine.patch([image], [donor], sweep=sweep, columns=columns, path="generic")
    assert (found.patched - generic.patched).abs().max() <= TOLERANCE
    assert (found.patched - found.base[:, None, None]).abs().max() > 1e-4


def test_a_resnet_on_finer_grids_is_the_same_encoder_with_fewer_stages() -> None:
    source = open_clip_image_model(**RESNET)
    model = wrapped(source)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    for grid, n_layers in ((2, 4), (4, 3), (8, 2), (16, 1)):
        tower = model.image_tower(grid=grid)
        assert (tower.grid, tower.n_layers) == ((grid, grid), n_layers)
        torch.testing.assert_close(tower.encode(pixels), source_embedding(source, pixels), atol=2e-6, rtol=0)
    image, donor = counterfactual_pixels(8, (64, 64), (8, 8), [(2, 5)])
    tower = model.image_tower(grid=8)
    found = PatchingEngine(tower).patch([image], [donor]).patched[0]
    for layer, position in ((0, 21), (1, 21), (2, 13)):
        expected = patched_by_hooks(source, tower, image, donor, layer, position)
        assert (found[layer, position] - expected).abs().max() <= TOLERANCE
    with pytest.raises(SiteError, match=r"no stage on a grid of 3: choose grid= one of \[16, 8, 4, 2\]"):
        model.image_tower(grid=3)
    with pytest.raises(SiteError, match="4 x 4 patches: grid=8 is a choice only for ResNets"):
        wrapped(open_clip_image_model()).image_tower(grid=8)


def test_transformer_lens_runs_an_image_tower() -> None:
    tower = wrapped(open_clip_image_model()).vision
    pixels = torch.randn(1, 3, *tower.image_size, generator=torch.Generator().manual_seed(9))
    embedding, cache = tower.to_transformer_lens().run_with_cache(pixels)
    torch.testing.assert_close(nn.functional.normalize(embedding, dim=-1), tower.encode(pixels), atol=2e-6, rtol=0)
    assert cache["blocks.1.attn.hook_pattern"].shape == (1, 2, 17, 17)


def test_bfloat16_stays_near() -> None:
    source = open_clip_image_model(**RESNET)
    tower = wrapped(source).vision
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    low = nn.functional.normalize(tower.twin(torch.bfloat16)(pixels.to(torch.bfloat16)).float(), dim=-1)
    assert (low - tower.encode(pixels)).abs().max() < 4e-2  # eight bits of mantissa through four stages


def siglip_2() -> nn.Module:
    return siglip_model(version=2)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (siglip_2, "patches with their mask and shape"),
        (clip_text_only_model, "holds no image encoder"),
        (vision_text_model, "holds a ViTModel"),
        (lambda: open_clip_image_model(attentional_pool="parallel", attn_pooler_heads=2), "'parallel'"),
        (lambda: open_clip_image_model(pool_type="none"), "'none' gives a sequence"),
        (lambda: open_clip_image_model(block_type="custom"), "CustomResidualAttentionBlock"),
        (lambda: open_clip_timm_model(qk_norm=True), "norms or gates"),
        (lambda: open_clip_timm_model(dynamic_img_size=True), "any size"),
        (lambda: open_clip_timm_model(global_pool="max"), "'max'"),
        (lambda: open_clip_image_model(timm_model_name="test_convnext", timm_proj="linear"), "timm's ConvNeXt"),
        (lambda: open_clip_image_model(**RESNET | {"image_size": 80}), "80 pixels"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(make: Callable[[], nn.Module], reason: str) -> None:
    model = wrapped(make())  # the text tower works all the same
    with pytest.raises(UnsupportedTowerError, match=reason):
        _ = model.vision


def test_wrong_weights_and_pixels_are_refused() -> None:
    source = open_clip_image_model()
    model = wrapped(source)
    with pytest.raises(DataFormatError, match=r"shape \[3, 8, 8\].*takes \[3, 32, 32\]"):
        model.vision.encode(torch.zeros(1, 3, 8, 8))
    with torch.no_grad():
        source.visual.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"ImageTower's weight 'embedding\.weight' holds 1 NaN"):
        _ = wrapped(source).vision


def test_a_tower_that_computes_something_else_is_refused_with_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_clip_image_model()
    source.visual.transformer.resblocks[1].mlp.register_forward_hook(lambda module, args, out: out * 1.5)
    with pytest.raises(TowerMismatchError, match="ImageTower built by the adapter 'open_clip'") as error:
        _ = wrapped(source).vision
    table = dict(line.split()[-2:] for line in str(error.value).splitlines()[1:])
    assert float(table["1"]) < 1e-5 < float(table["2"])


def test_peft_adapters_are_active_in_blocks_and_refused_where_stages_run_whole() -> None:
    import peft

    source = open_clip_image_model()
    config = peft.LoraConfig(r=2, target_modules=r"visual\.transformer\.resblocks\.\d+\.mlp\.c_fc")
    tuned = peft.get_peft_model(source, config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tower = wrapped(tuned).vision
    torch.testing.assert_close(tower.encode(pixels), source_embedding(source, pixels), atol=5e-6, rtol=0)
    assert (tower.encode(pixels) - wrapped(open_clip_image_model()).vision.encode(pixels)).abs().max() > 1e-2
    resnet = peft.get_peft_model(
        open_clip_image_model(**RESNET), peft.LoraConfig(r=2, target_modules=["layer2.0.conv1"])
    )
    with pytest.raises(UnsupportedTowerError, match="peft adapters"):
        _ = wrapped(resnet).vision

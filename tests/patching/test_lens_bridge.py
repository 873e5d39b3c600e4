"""TransformerLens' own bridge reads CLIP's and SigLIP's text models through an adapter that it finds by itself."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from models import (
    clip_text_only_model,
    patched_by_hooks,
    siglip_model,
    transformers_model,
    word_tokenizer,
)
from test_lens import SWEEPS, TOLERANCE, direction, pair, random_cells, similarity, sweep
from torch import nn

import tracescribe as ts
from tracescribe.errors import DataFormatError, UnsupportedTowerError
from tracescribe.patching import PatchingEngine

ROOT = Path(__file__).resolve().parents[2]
GROUP = "transformer_lens.architectures"
IDS = torch.tensor([[62, 5, 6, 7, 63, 0], [62, 8, 6, 9, 10, 63]])  # a short text, padded, and a longer one

# a model, and where transformers' own output holds what the bridge returns
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "CLIPTextModelWithProjection": (clip_text_only_model, "text_embeds"),
    "CLIPTextModel": (lambda: clip_text_only_model().text_model, "last_hidden_state"),
    "SiglipTextModel": (lambda: siglip_model().text_model, "pooler_output"),
    "Siglip2TextModel": (lambda: siglip_model(version=2).text_model, "pooler_output"),
}


def text_bridge(source: Any, **load: Any) -> Any:
    from tracescribe.patching.towers.transformerlens_bridge import text_bridge

    return text_bridge(source, **load)


@pytest.fixture(params=MODELS)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "in a folder"])
def test_activations_and_embeddings_are_the_models_own(architecture: str, stored: bool, tmp_path: Path) -> None:
    make, field = MODELS[architecture]
    model = make()
    assert type(model).__name__ == architecture
    if stored:
        model.save_pretrained(tmp_path)
    bridge = text_bridge(tmp_path if stored else model)
    model.set_attn_implementation("eager")  # or transformers returns no attention pattern
    with torch.no_grad():
        out, cache = bridge.run_with_cache(IDS)
        own = model(IDS, output_hidden_states=True, output_attentions=True)
    close = {"atol": 2e-5, "rtol": 0}  # states of order 10 after three blocks in float32
    torch.testing.assert_close(out, getattr(own, field), **close)
    for layer, pattern in enumerate(own.attentions):
        torch.testing.assert_close(cache["resid_pre", layer], own.hidden_states[layer], **close)
        torch.testing.assert_close(cache["resid_post", layer], own.hidden_states[layer + 1], **close)
        torch.testing.assert_close(cache["pattern", layer], pattern, **close)
        assert cache["q", layer].shape == cache["z", layer].shape == (2, 6, 2, 16)
    torch.testing.assert_close(cache["ln_final.hook_out"], own.last_hidden_state, **close)
    torch.testing.assert_close(cache.decompose_resid().sum(dim=0), own.hidden_states[-1], **close)


@pytest.mark.parametrize("make", [transformers_model, siglip_model])
def test_the_text_model_of_a_whole_model_is_found(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.get_text_features(IDS).pooler_output
        for source in (model, tmp_path, str(tmp_path)):
            torch.testing.assert_close(text_bridge(source)(IDS), expected, atol=2e-5, rtol=0)


def test_the_adapter_is_declared_for_each_architecture_and_found_by_transformer_lens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories import architecture_adapter_factory as factory

    from tracescribe.patching.towers.transformerlens_bridge import ClipTextAdapter

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"][GROUP]
    assert sorted(declared) == sorted(MODELS)
    assert {entry.name: entry.value for entry in entry_points(group=GROUP)}.items() >= declared.items()
    declared_only = [EntryPoint(name, value, GROUP) for name, value in declared.items()]
    monkeypatch.setattr(factory, "entry_points", lambda group: declared_only if group == GROUP else [])
    fresh = type("Fresh", (factory.ArchitectureAdapterFactory,), {"_adapters": dict(factory.SUPPORTED_ARCHITECTURES)})
    fresh._entry_points_discovered = False
    for name in declared:
        cfg = TransformerBridgeConfig(d_model=32, d_head=16, n_layers=2, n_ctx=12, n_heads=2, architecture=name)
        assert type(fresh.select_architecture_adapter(cfg)) is ClipTextAdapter


@pytest.mark.parametrize("make", [transformers_model, siglip_model])
def test_every_sweep_on_the_bridge_gives_what_it_gives_on_our_tower(make: Callable[..., Any]) -> None:
    """Two implementations, one by TransformerLens over transformers' modules and one of our own: the same maps."""
    source = make(layers=2)
    tower = ts.wrap(source, tokenizer=word_tokenizer(source)).text
    base, donor = pair(tower)
    lens, bridge = tower.to_transformer_lens(), text_bridge(source)
    metric = similarity(direction(tower(base).shape[-1]))
    by_position = tower.causal  # heads at each of SigLIP's 12 positions would be slow, and are the same code
    for name in [name for name in SWEEPS if by_position or not name.endswith(("by_pos", "src_pos"))]:
        theirs, ours = (sweep(name, model, base, donor, metric) for model in (bridge, lens))
        torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0, msg=name)


@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("make", [transformers_model, siglip_model])
def test_direct_paths_on_the_bridge_are_those_on_our_tower(make: Callable[..., Any], component: str) -> None:
    from transformer_lens import patching

    source = make()
    tower = ts.wrap(source, tokenizer=word_tokenizer(source)).text
    base, donor = pair(tower)
    metric = similarity(direction(tower(base).shape[-1]))
    maps = []
    with torch.no_grad():
        for model in (tower.to_transformer_lens(), text_bridge(source)):
            caches = model.run_with_cache(donor)[1], model.run_with_cache(base)[1]
            path = patching.get_act_patch_direct_path(
                model, base, *caches, metric, src_layer=0, src_head=1, component=component, verbose=False
            )
            assert not model.cfg.use_split_qkv_input
            maps.append(path)
    assert (maps[0][1:] - metric(tower(base))).abs().max() > 10 * TOLERANCE, "no path had any effect"
    torch.testing.assert_close(*maps, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("make", [transformers_model, siglip_model])
def test_the_bridge_agrees_with_nnsight_and_plain_hooks_on_the_source(make: Callable[[], Any]) -> None:
    source = make()
    tower = ts.wrap(source, tokenizer=word_tokenizer(source)).text
    base, donor = pair(tower)
    to = direction(tower(base).shape[-1])
    bridge = sweep("resid_pre", text_bridge(source), base, donor, similarity(to))
    nnsight = PatchingEngine(tower).patch(base.tolist(), donor.tolist()).patched[0] @ to
    torch.testing.assert_close(bridge, nnsight[: tower.n_layers], atol=TOLERANCE, rtol=0)
    padded = [nn.functional.pad(ids, (0, tower.context_length - ids.shape[1])) for ids in (base, donor)]
    for layer, position in random_cells(bridge.shape):
        expected = patched_by_hooks(source, *padded, layer, [position]) @ to
        assert abs(float(bridge[layer, position] - expected)) <= TOLERANCE


@pytest.mark.parametrize("make", [clip_text_only_model, transformers_model, siglip_model])
def test_the_users_model_stays_as_it_was(make: Callable[[], Any]) -> None:
    source = make().train()  # even the mode
    before = copy.deepcopy(source.state_dict())
    dicts = {name: dict(module.__dict__) for name, module in source.named_modules()}
    config = copy.deepcopy(source.config.to_dict()), source.config._attn_implementation
    bridge = text_bridge(source)
    text = {id(p) for name, p in source.named_parameters() if name.startswith("text_")}
    assert {id(p) for p in bridge.parameters()} == text
    bridge.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_pre", lambda state, hook: state * 2)])
    assert (source.config.to_dict(), source.config._attn_implementation) == config
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert {name for name, _ in source.named_modules()} == set(dicts)
    for name, module in source.named_modules():
        assert set(module.__dict__) == set(dicts[name]) and module.training
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_text_without_its_end_token_is_refused() -> None:
    bridge = text_bridge(clip_text_only_model())
    with pytest.raises(DataFormatError, match="no end token 63"):
        bridge(torch.tensor([[62, 5, 63], [62, 5, 6]]))


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    from transformers import BertConfig

    with pytest.raises(UnsupportedTowerError, match=r"Linear is no text model.*CLIPTextModelWithProjection"):
        text_bridge(nn.Linear(2, 2))
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedTowerError, match=r"'bert'.*clip_text_model"):
        text_bridge(tmp_path)


def test_no_hook_point_is_there_only_for_show() -> None:
    """Rotary positions do not exist in these models: nothing offers to patch them."""
    bridge = text_bridge(clip_text_only_model())
    assert not [name for name in bridge.hook_dict if "cos" in name or "sin" in name or "rot" in name]

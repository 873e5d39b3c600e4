"""A DualEncoder follows its source: after any change, its texts have the embeddings that the source itself gives."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from adapted import optimiser_step, with_lora
from models import WordTokenizer, open_clip_model, source_encoder, transformers_model
from torch import Tensor, nn
from torch.nn.utils import prune

import tracescribe as ts
from tracescribe.errors import StaleTowerError, TowerMismatchError, UnsupportedTowerError
from tracescribe.patching.adapters.wrappers import inner_source

TEXTS = ["there is no edema.", "no", "there is severe edema in the left lung."]
PAIR = [ts.Pair(correct="there is no edema.", foil="there is some edema.", image=torch.arange(16.0) - 7)]
CLOSE = 5e-6  # unit vectors in float32 over three blocks; adapters merged or applied apart round differently


def said_by(source: Any, model: ts.DualEncoder) -> Tensor:
    """What the source itself says of TEXTS, in a copy: peft's attention moves weights by rounding when it runs."""
    list(source.modules())  # after a merge, peft's attention is copyable only once its modules were listed
    inner = inner_source(copy.deepcopy(source)).eval()
    with torch.no_grad():
        return nn.functional.normalize(source_encoder(inner, model.text.tokenize(TEXTS)), dim=-1)


def assign(source: Any) -> None:
    source.load_state_dict({name: t * 1.25 for name, t in source.state_dict().items()}, assign=True)


def replace_module(source: Any) -> None:
    source.ln_final = nn.LayerNorm(32)


def replace_parameter(source: Any) -> None:
    source.text_projection = nn.Parameter(source.text_projection.detach().flip(0))


def parametrize(source: Any) -> None:
    layer = source.transformer.resblocks[1].mlp.c_fc
    nn.utils.parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.mul_(1.5)


def computed_by(way: Callable[[nn.Module], Any], trained: str) -> Callable[[Any], None]:
    """A hook computes a weight at each pass, and what it is computed from moves on without one."""

    def change(source: Any) -> None:
        layer = source.transformer.resblocks[1].mlp.c_fc
        way(layer)
        stretch(layer, trained)

    return change


def stretch(layer: nn.Module, weight: str) -> None:
    getattr(layer, weight).data.mul_(torch.linspace(0.5, 2, 128)[:, None])


def pruned(layer: nn.Module) -> None:
    prune.random_unstructured(layer, "weight", 0.5)


def weight_norm_by_hook(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has another since
        nn.utils.weight_norm(layer)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrize_root(source: Any) -> None:
    source.text_projection.data.copy_(torch.eye(32, 16))
    nn.utils.parametrize.register_parametrization(source, "text_projection", Doubled())


CHANGES: dict[str, Callable[[Any], Any]] = {
    "weight_norm by a hook": computed_by(weight_norm_by_hook, "weight_g"),
    "spectral_norm by a hook": computed_by(nn.utils.spectral_norm, "weight_orig"),
    "a weight pruned": computed_by(pruned, "weight_orig"),
    "the projection parametrized": parametrize_root,
    "LoRA put into the source": with_lora,
    "load_state_dict(assign=True)": assign,
    "a module replaced": replace_module,
    "a parameter replaced": replace_parameter,
    "a weight written through .data": lambda source: source.ln_final.weight.data.mul_(torch.linspace(0.5, 2, 32)),
    "a weight parametrized": parametrize,
    "another precision": lambda source: source.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_of_the_source_its_own_numbers_are_given(change: str) -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    before = model.encode_texts(TEXTS)
    CHANGES[change](source)
    after = model.encode_texts(TEXTS)
    torch.testing.assert_close(after, said_by(source, model).to(after.dtype), atol=CLOSE, rtol=0)
    if change != "another precision":
        assert (after - before).abs().max() > 1e-3
    assert model.text is model.text  # unchanged since: nothing is built again


@pytest.mark.parametrize(("way", "weight"), [(weight_norm_by_hook, "weight_g"), (pruned, "weight_orig")])
def test_a_weight_that_a_hook_computes_follows_what_is_trained(way: Callable[[nn.Module], Any], weight: str) -> None:
    source: Any = open_clip_model()
    layer = source.transformer.resblocks[1].mlp.c_fc
    way(layer)
    model = ts.wrap(source, tokenizer=WordTokenizer())
    before = model.encode_texts(TEXTS)
    stretch(layer, weight)
    after = model.encode_texts(TEXTS)
    torch.testing.assert_close(after, said_by(source, model), atol=CLOSE, rtol=0)
    assert (after - before).abs().max() > 1e-3


def replace_method(source: Any) -> None:
    encode = source.encode_text
    source.encode_text = lambda ids, **options: encode(ids, **options) + 1


@pytest.mark.parametrize(
    "change",
    [replace_method, lambda source: source.attn_mask.zero_(), lambda source: source.attn_mask.data.zero_()],
    ids=["a method replaced", "a mask written in place", "a mask written through .data"],
)
def test_a_change_that_no_tower_can_follow_is_refused(change: Callable[[Any], Any]) -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    model.encode_texts(TEXTS)
    change(source)
    with pytest.raises(TowerMismatchError):
        model.encode_texts(TEXTS)


def test_what_is_built_otherwise_is_refused_with_the_reason() -> None:
    source: Any = open_clip_model()
    source.transformer.resblocks[0].mlp.c_fc = nn.Sequential(source.transformer.resblocks[0].mlp.c_fc, nn.Dropout())
    with pytest.raises(UnsupportedTowerError, match=r"this CLIP is built otherwise than the adapter 'open_clip' reads"):
        ts.wrap(source, tokenizer=WordTokenizer())


def told_twice(**text: Any) -> Any:
    """open_clip's text tower, which gives the tokens' states too."""
    return open_clip_model(custom=True, output_tokens=True, **text)


def without_output_objects() -> Any:
    source: Any = transformers_model()
    source.config.return_dict = source.config.text_config.return_dict = False
    return source


@pytest.mark.parametrize("make", [told_twice, without_output_objects])
def test_embeddings_are_found_in_what_a_source_is_set_to_return(make: Callable[[], Any]) -> None:
    source = make()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    ids = model.text.tokenize(TEXTS)
    with torch.no_grad():
        found = source.encode_text(ids)[0] if make is told_twice else source.get_text_features(input_ids=ids)[1]
    expected = nn.functional.normalize(found, dim=-1)
    torch.testing.assert_close(model.encode_texts(TEXTS), expected, atol=CLOSE, rtol=0)
    assert model.encode_images(torch.zeros(1, 3, 32, 32)).shape == (1, 16)


def test_a_source_that_fails_by_itself_is_said() -> None:
    source: Any = transformers_model()
    source.text_model.eos_token_id = [63]  # which its own forward cannot compare
    with pytest.raises(
        UnsupportedTowerError, match=r"CLIPModel cannot encode a text itself.*own encoder on \[\d, 12\]"
    ):
        ts.wrap(source, tokenizer=WordTokenizer())


def test_embeddings_that_each_pass_changes_are_refused() -> None:
    source: Any = open_clip_model()
    source.token_embedding.max_norm = 1.0
    with pytest.raises(UnsupportedTowerError, match=r"max_norm=1\.0, by which each pass changes its weights"):
        ts.wrap(source, tokenizer=WordTokenizer())


def randomise(wrapped: Any) -> None:
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.3)  # .data: no version counts this


def second_adapter(wrapped: Any) -> None:
    wrapped.add_adapter("other", wrapped.peft_config["default"])
    wrapped.set_adapter("other")


ADAPTER_CHANGES: dict[str, Callable[[Any], Any]] = {
    "trained": optimiser_step,
    "written": randomise,
    "switched": second_adapter,
    "merged": lambda wrapped: wrapped.merge_adapter(),
    "disabled": lambda wrapped: wrapped.base_model.disable_adapter_layers(),
    "unloaded": lambda wrapped: wrapped.unload(),
    "merged and unloaded": lambda wrapped: wrapped.merge_and_unload(),
}


# peft's own merge_adapter meets the output layer of fused attention twice
@pytest.mark.filterwarnings("ignore:All adapters are already merged")
@pytest.mark.parametrize("make", [open_clip_model, transformers_model])
@pytest.mark.parametrize("change", ADAPTER_CHANGES)
def test_a_wrapped_peft_model_is_followed(change: str, make: Callable[[], nn.Module]) -> None:
    wrapped = with_lora(make())
    model = ts.wrap(wrapped, tokenizer=WordTokenizer())
    before = model.encode_texts(TEXTS)
    ADAPTER_CHANGES[change](wrapped)
    expected = said_by(wrapped, model)
    torch.testing.assert_close(model.encode_texts(TEXTS), expected, atol=CLOSE, rtol=0)
    moved = (expected - before).abs().max()
    assert moved <= CLOSE if change.startswith("merged") else moved > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["ln_final"]},
        {"use_rslora": True},
        {"trainable_token_indices": {"token_embedding": [1, 2]}},
    ],
    ids=str,
)
def test_other_parts_of_adapters_are_read(options: dict[str, Any]) -> None:
    wrapped = with_lora(open_clip_model(), **options)
    if "modules_to_save" in options:
        wrapped.base_model.model.ln_final.modules_to_save["default"].weight.data.mul_(torch.linspace(0.5, 2, 32))
    model = ts.wrap(wrapped, tokenizer=WordTokenizer())
    torch.testing.assert_close(model.encode_texts(TEXTS), said_by(wrapped, model), atol=CLOSE, rtol=0)


def test_prompt_tuning_is_refused_by_name() -> None:
    wrapped = type("PeftModel", (nn.Module,), {"__module__": "peft.peft_model"})()
    wrapped.active_peft_config = peft.PromptTuningConfig(num_virtual_tokens=2)
    with pytest.raises(UnsupportedTowerError, match="PROMPT_TUNING"):
        inner_source(wrapped)


def test_trace_fine_tune_trace_gives_the_trained_models_map() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    before = ts.trace(model, PAIR, floor=0).scores.patched
    with_lora(source)
    again = ts.trace(model, PAIR, floor=0)
    fresh = ts.trace(ts.wrap(source, tokenizer=WordTokenizer()), PAIR, floor=0)
    np.testing.assert_allclose(again.scores.patched, fresh.scores.patched, atol=CLOSE, rtol=0)
    assert np.nanmax(np.abs(again.scores.patched - before)) > 1e-3


def test_training_in_place_keeps_the_tower() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    tower = model.text
    with torch.no_grad():
        source.text_projection.mul_(torch.linspace(0.5, 2, source.text_projection.shape[1]))
        source.logit_scale.fill_(3.0)
    assert model.text is tower
    torch.testing.assert_close(model.encode_texts(TEXTS), said_by(source, model), atol=CLOSE, rtol=0)
    assert model.logit_scale == pytest.approx(float(torch.tensor(3.0).exp()))


def test_a_tower_kept_over_a_change_refuses() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    text, vision = model.text, model.vision
    replace_module(source)
    for use in (lambda: text.encode(TEXTS), lambda: vision.encode(torch.zeros(1, 3, 32, 32)), lambda: text.twin()):
        with pytest.raises(StaleTowerError, match=r"CLIP that this tower was built from has changed.*model\.text"):
            use()
    assert model.vision is not vision


def test_an_image_tower_follows_too() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model.vision.encode(pixels)
    source.visual.proj = nn.Parameter(source.visual.proj.detach().flip(0))
    torch.testing.assert_close(model.vision.encode(pixels), model.encode_images(pixels), atol=CLOSE, rtol=0)
    assert (model.vision.encode(pixels) - before).abs().max() > 1e-3


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_has_weights_of_its_own_and_says_the_same(way: str) -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    other = COPIES[way](model)
    assert other.name == "tiny"
    assert other.text.fingerprint() == model.text.fingerprint()
    assert {id(p) for p in other.text.parameters()} <= {id(p) for p in other.source.parameters()}
    assert torch.equal(other.encode_texts(TEXTS), model.encode_texts(TEXTS))
    replace_module(other.source)
    assert (other.encode_texts(TEXTS) - model.encode_texts(TEXTS)).abs().max() > 1e-3


def test_a_tower_copied_by_itself_is_a_snapshot() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=WordTokenizer())
    before, kept = model.encode_texts(TEXTS), copy.deepcopy(model.text)
    replace_module(source)
    assert torch.equal(kept.encode(TEXTS), before)


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def in_place(source: Any) -> Any:
    source.transformer.compile()
    source.compile()
    return source


def compile_blocks(source: Any) -> Any:
    blocks = source.transformer.resblocks
    for number, block in enumerate(blocks):
        blocks[number] = torch.compile(block)
    return source


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "torch.compile": torch.compile,
    "module.compile()": in_place,
    "compiled blocks": compile_blocks,
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "compiled DDP": lambda source: torch.compile(nn.parallel.DistributedDataParallel(source)),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_compiled_and_parallel_models_are_wrapped_and_take_lora(kind: str, process_group: None) -> None:
    expected = ts.wrap(open_clip_model(), tokenizer=WordTokenizer()).encode_texts(TEXTS)
    wrapped = WRAPPERS[kind](open_clip_model())
    model = ts.wrap(wrapped, tokenizer=WordTokenizer())
    assert torch.equal(model.encode_texts(TEXTS), expected)
    assert model.encode_images(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    blocks = ts.patching.text_blocks(wrapped)
    assert blocks == ts.patching.text_blocks(model)
    assert all(any(block is module for module in wrapped.modules()) for block in blocks)
    config = peft.LoraConfig(r=2, target_modules=ts.patching.lora_targets(wrapped))
    adapted = peft.get_peft_model(wrapped, config)
    trainable = {id(p) for p in adapted.parameters() if p.requires_grad}
    inside = {id(p) for block in ts.patching.text_blocks(wrapped) for p in block.parameters()}
    assert len(trainable) == 2 * 4 * 3  # A and B of in_proj, out_proj and two MLP layers in three blocks
    assert trainable <= inside


def test_a_sharded_model_is_refused_with_the_way_out(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    source = open_clip_model()
    fully_shard(source.transformer, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(UnsupportedTowerError, match=r"sharded over processes.*full_state_dict=True"):
        ts.wrap(source, tokenizer=WordTokenizer())


def test_weights_on_the_meta_device_are_named() -> None:
    with pytest.raises(UnsupportedTowerError, match=r"positional_embedding.*meta device"):
        ts.wrap(open_clip_model().to("meta"), tokenizer=WordTokenizer())
    source: Any = open_clip_model()
    source.attn_mask = source.attn_mask.to("meta")
    with pytest.raises(UnsupportedTowerError, match=r"'attn_mask'.*meta device"):
        ts.wrap(source, tokenizer=WordTokenizer())


class Packed(torch.Tensor):
    """A tensor that holds its values in another form, as torchao's quantised weights do."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return [], None


def dynamically_quantised(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao says that torchao follows it
        return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)


def with_weight(module: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module


QUANTISED = {
    "torch.ao": dynamically_quantised,
    "torchao": lambda module: with_weight(module, module.weight.detach().as_subclass(Packed)),
    "bitsandbytes": lambda module: with_weight(module, module.weight.detach().to(torch.int8)),
    "float8": lambda module: with_weight(module, module.weight.detach().to(torch.float8_e4m3fn)),
}


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize(
    ("part", "layer"), [("text", "transformer.resblocks.1"), ("image", "visual.transformer.resblocks.0")]
)
def test_quantised_weights_are_named(kind: str, part: str, layer: str) -> None:
    source = open_clip_model()
    mlp = source.get_submodule(layer).mlp
    mlp.c_fc = QUANTISED[kind](nn.Sequential(mlp.c_fc) if kind == "torch.ao" else mlp.c_fc)
    with pytest.raises(
        UnsupportedTowerError, match=rf"'{layer}\.mlp\.c_fc.* has quantised weights .*without quantisation"
    ):
        model = ts.wrap(source, tokenizer=WordTokenizer())
        assert part == "image"  # only tracing through the image tower needs its weights
        _ = model.vision


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(UnsupportedTowerError, match=r"a builtins\.str is no model"):
        ts.patching.text_blocks("clip")

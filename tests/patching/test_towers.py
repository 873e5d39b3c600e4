"""A tower computes what its source computes, over the source's own parameters, and leaves the source as it was."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
from models import (
    VISION,
    WordTokenizer,
    align_model,
    chinese_clip_model,
    clip_text_only_model,
    clipseg_model,
    open_clip_hf_model,
    open_clip_model,
    siglip_model,
    source_encoder,
    transformers_model,
    vision_text_model,
    word_tokenizer,
)
from torch import nn

import tracescribe as ts
from tracescribe.errors import NonFiniteError, TowerMismatchError, UnsupportedTowerError

TEXTS = ["there is no edema.", "no", "there is severe edema in the left lung."]


def with_text(model: nn.Module, **flags: bool) -> nn.Module:
    """Flags of open_clip's text tower that no configuration passes on."""
    for name, value in flags.items():
        setattr(model.text, name, value)
    return model


SOURCES = {
    "open_clip": lambda: open_clip_model(),
    "open_clip quick_gelu": lambda: open_clip_model(quick_gelu=True),
    "open_clip LayerScale": lambda: open_clip_model(ls_init_value=0.3),
    "open_clip tanh GELU": lambda: open_clip_model(act_kwargs={"approximate": "tanh"}),
    "open_clip eos": lambda: open_clip_model(pool_type="eos", eos_id=63),
    "open_clip custom": lambda: open_clip_model(custom=True),
    "open_clip custom, projection with bias": lambda: open_clip_model(custom=True, proj_bias=True),
    "open_clip custom, no projection": lambda: open_clip_model(custom=True, proj_type="none"),
    "open_clip bidirectional, last": lambda: open_clip_model(custom=True, no_causal_mask=True, pool_type="last"),
    "open_clip bidirectional, first": lambda: open_clip_model(custom=True, no_causal_mask=True, pool_type="first"),
    "open_clip bidirectional, argmax": lambda: open_clip_model(custom=True, no_causal_mask=True, pool_type="argmax"),
    "open_clip, CoCa's token": lambda: open_clip_model(custom=True, embed_cls=True),
    "open_clip, CoCa's token, its mask corrected": lambda: with_text(
        open_clip_model(custom=True, embed_cls=True), correct_cls_mask=True
    ),
    "open_clip bidirectional, padding masked": lambda: with_text(
        open_clip_model(custom=True, no_causal_mask=True, pool_type="first"), use_pad_mask=True
    ),
    "open_clip query/key norm, opaque": lambda: open_clip_model(custom=True, qk_norm=True),
    "open_clip causal, last": lambda: open_clip_model(custom=True, pool_type="last"),
    "transformers": lambda: transformers_model(),
    "transformers legacy eos": lambda: transformers_model(eos_token_id=2),
    "transformers gelu": lambda: transformers_model(act="gelu"),
    "transformers, text only": lambda: clip_text_only_model(),
    "transformers CLIPSeg": lambda: clipseg_model(),
    "transformers SigLIP": lambda: siglip_model(),
    "transformers SigLIP 2": lambda: siglip_model(version=2),
    "transformers ChineseCLIP": lambda: chinese_clip_model(),
    "transformers ALIGN": lambda: align_model(),
    "transformers VisionTextDualEncoder, BERT": lambda: vision_text_model(),
    "transformers VisionTextDualEncoder, RoBERTa": lambda: vision_text_model(text="Roberta"),
    "open_clip BERT, as BiomedCLIP": lambda: open_clip_hf_model(),
    "open_clip BERT, pooler, linear": lambda: open_clip_hf_model(pooler="cls_pooler", proj="linear"),
    "open_clip RoBERTa": lambda: open_clip_hf_model(text="Roberta"),
}


@pytest.fixture(params=SOURCES, ids=SOURCES)
def source(request: pytest.FixtureRequest) -> nn.Module:
    return SOURCES[request.param]()


def test_embeddings_equal_the_source_models(source: nn.Module) -> None:
    model = ts.wrap(source, tokenizer=word_tokenizer(source))
    with torch.no_grad():
        expected = nn.functional.normalize(source_encoder(source, model.text.tokenize(TEXTS)), dim=-1)
    # float32, unit vectors, three blocks: a few units in the last place
    torch.testing.assert_close(model.encode_texts(TEXTS), expected, atol=2e-6, rtol=0)
    with torch.no_grad():
        padded = nn.functional.normalize(model.text(model.text.from_source(model.text.tokenize(TEXTS))), dim=-1)
    torch.testing.assert_close(padded, expected, atol=2e-6, rtol=0)
    assert list(model.verified) == [*(f"layer {i}" for i in range(model.text.n_layers + 1)), "embedding"]
    assert max(model.verified.values()) < 1e-5


def test_the_tower_holds_the_sources_own_parameters(source: nn.Module) -> None:
    tower = ts.wrap(source, tokenizer=word_tokenizer(source)).text
    own = {id(p) for p in source.parameters()}
    assert {id(p) for p in tower.parameters()} <= own
    assert not list(tower.buffers())
    theirs, ours = {id(m) for m in source.modules()}, {id(m) for m in tower.modules()}
    assert not theirs & ours


def test_wrapping_and_tracing_leave_the_source_untouched(source: nn.Module) -> None:
    source.train()  # even the mode
    before = copy.deepcopy(source.state_dict())
    dicts = {name: set(module.__dict__) for name, module in source.named_modules()}
    model = ts.wrap(source, tokenizer=word_tokenizer(source))
    image = torch.randn(model.embed_dim, generator=torch.Generator().manual_seed(0))
    ts.trace(model, [ts.Pair(correct="there is no edema.", foil="there is some edema.", image=image)], floor=0)
    assert {name: set(module.__dict__) for name, module in source.named_modules()} == dicts
    assert all(module.training for module in source.modules())
    for module in source.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in module.__dict__, "nnsight installed itself in the user's model"
    after = source.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all("forward" not in module.__dict__ for module in model.text.modules()), "or in the user's tower"


def test_a_tower_that_computes_something_else_is_refused_with_the_stage() -> None:
    source = open_clip_model(quick_gelu=True)
    model = ts.wrap(source, tokenizer=WordTokenizer())
    model.text.blocks[1].mlp.activation = nn.GELU()
    with pytest.raises(TowerMismatchError, match="layer 2") as error:
        model.verify()
    table = dict(line.split()[-2:] for line in str(error.value).splitlines()[1:])
    assert float(table["1"]) < 1e-5 < float(table["2"])  # "layer 1", "layer 2": the first wrong stage shows


def test_a_nan_weight_is_named() -> None:
    source = open_clip_model()
    with torch.no_grad():
        source.transformer.resblocks[1].mlp.c_fc.weight[3, 3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"blocks\.1\.mlp\.up\.weight"):
        ts.wrap(source, tokenizer=WordTokenizer())


@pytest.mark.parametrize("make", [open_clip_model, transformers_model])
def test_a_peft_model_is_traced_with_its_adapters_and_not_changed(make) -> None:  # type: ignore[no-untyped-def]
    import peft

    source = make()
    plain = ts.wrap(copy.deepcopy(source), tokenizer=WordTokenizer())
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=ts.patching.lora_targets(source), lora_dropout=0.5)
    wrapped = peft.get_peft_model(source, config)
    generator = torch.Generator().manual_seed(0)
    lora = [p for name, p in wrapped.named_parameters() if "lora_" in name]
    for p in lora:
        p.data.normal_(std=0.3, generator=generator)
    before = copy.deepcopy(wrapped.state_dict())
    model = ts.wrap(wrapped, tokenizer=WordTokenizer())
    after = wrapped.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (model.encode_texts(TEXTS) - plain.encode_texts(TEXTS)).abs().max() > 1e-2, "the adapters were not active"
    merged = copy.deepcopy(wrapped).eval().merge_and_unload()
    with torch.no_grad():
        expected = nn.functional.normalize(source_encoder(merged, model.text.tokenize(TEXTS)), dim=-1)
    torch.testing.assert_close(model.encode_texts(TEXTS), expected, atol=5e-6, rtol=0)
    with wrapped.disable_adapter():
        off = ts.wrap(wrapped, tokenizer=WordTokenizer())
        torch.testing.assert_close(off.encode_texts(TEXTS), plain.encode_texts(TEXTS), atol=2e-6, rtol=0)
    torch.testing.assert_close(off.encode_texts(TEXTS), expected, atol=5e-6, rtol=0)  # it follows its source


@pytest.mark.parametrize("make", [open_clip_model, lambda: open_clip_model(custom=True), transformers_model])
def test_lora_targets_are_the_text_blocks_linears_and_nothing_else(make) -> None:  # type: ignore[no-untyped-def]
    import peft

    source = make()
    blocks = ts.patching.text_blocks(source)
    assert len(blocks) == 3
    own = {id(p) for block in blocks for p in block.parameters()}
    wrapped = peft.get_peft_model(source, peft.LoraConfig(r=2, target_modules=ts.patching.lora_targets(source)))
    inside = {id(p) for block in ts.patching.text_blocks(wrapped) for p in block.parameters()}
    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    assert trainable and all(id(p) in inside for p in trainable)
    assert len(trainable) in (2 * 4 * 3, 2 * 6 * 3)  # A and B of in_proj|q,k,v, out_proj and two MLP layers, 3 blocks
    assert own  # blocks had parameters before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"pool_type": "none"}, "none"),
    ],
)
def test_what_no_adapter_reads_is_refused_with_the_reason(text: dict, reason: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UnsupportedTowerError, match=reason):
        ts.wrap(open_clip_model(custom=True, **text), tokenizer=WordTokenizer())


def test_an_unknown_model_is_refused_by_what_it_holds() -> None:
    with pytest.raises(
        UnsupportedTowerError, match=r"Sequential.*0: Linear.*open_clip, open_clip_hf, open_clip_modern, trans"
    ):
        ts.wrap(nn.Sequential(nn.Linear(2, 2)), tokenizer=WordTokenizer())


def test_precision_follows_the_source() -> None:
    source = open_clip_model().to(torch.bfloat16)
    model = ts.wrap(source, tokenizer=WordTokenizer())
    assert model.text.dtype == torch.bfloat16
    assert model.encode_texts(TEXTS).dtype == torch.float32
    double = model.text.twin(torch.float64)
    assert double.dtype == torch.float64 and model.text.dtype == torch.bfloat16


def test_the_real_tokenizer_and_size_of_open_clip() -> None:
    source = open_clip.model.CLIP(
        embed_dim=16, vision_cfg=VISION, text_cfg={"width": 32, "heads": 2, "layers": 2}
    ).eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    model = ts.wrap(source, tokenizer=tokenizer)
    texts = ["There is no effusion.", "A photo of a café — naïve ½", ""]
    assert torch.equal(model.text.tokenize(texts), tokenizer(texts))
    assert model.text.token_strings(model.text.token_ids("No café.")) == ["[SOT]", "no", "café", ".", "[EOT]"]

"""transformers' dual encoders around the text tower: images, scale, LoRA targets; attention that knows positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import Entry, entries
from zoo.building import BERT
from zoo.tokens import WordTokenizer
from zoo.transformers_models import EFFICIENTNET, dual

import tracescribe as ts
from tracescribe.errors import UnsupportedTowerError
from tracescribe.patching import PatchingEngine, Sweep, site_named
from tracescribe.patching.towers.block import Block

TEXTS = ("there is no edema in here", "there is some mass in here")
ZOO = {entry.name: entry for entry in entries() if entry.group != "medical"}
TRANSFORMERS = {name: entry for name, entry in ZOO.items() if entry.group == "transformers"}
MODERNBERT = "open_clip variant: ModernBERT, cls_last_hidden_state_pooler, mlp"
MPNET = "transformers:VisionTextDualEncoderModel, MPNet"
KNOWS_POSITIONS = {"distance biases, post-norm": MPNET, "rotary and windows": MODERNBERT}
KNOWS_POSITIONS |= {"distance biases, no scale, gated": "open_clip:mt5-base-ViT-B-32"}
DECODER = "sentence:Qwen3Model"
KNOWS_POSITIONS |= {"rotary, normed heads": DECODER, "rotary and causal windows": "sentence:Qwen2Model, windows"}
NO_IMAGES = {"CLIPTextModelWithProjection", "MetaClip2TextModelWithProjection", "SiglipTextModel", "Siglip2TextModel"}
NO_IMAGES |= {"XCLIPModel"}
NO_LOGITS = NO_IMAGES | {"FlavaModel"}  # its contrastive logits belong to FlavaForPreTraining

# ALIGN has no projection of images, so that both halves must be as wide as its image encoder: here 8 channels
ALIGN = dual("Align", BERT, EFFICIENTNET, projection_dim=8)


def kind_of(entry: Entry) -> str:
    return entry.name.removeprefix("transformers:").partition(",")[0]


def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def own_logits(source: Any, ids: Tensor, images: Tensor) -> Tensor:
    """Logits [text, image] of the source's own forward pass over captions and images."""
    inputs = {"input_ids": ids, "pixel_values": images}
    if "Siglip2" in type(source).__name__:
        inputs |= {"pixel_values": patches(images, 16), "spatial_shapes": torch.full((len(images), 2), 2)}
        inputs["pixel_attention_mask"] = torch.ones(len(images), 4, dtype=torch.long)
    encoder = getattr(source, "text_model", None) or source.text_encoder
    if source.config.text_config.model_type not in ("siglip_text_model", "siglip2_text_model", "owlvit_text_model"):
        inputs["attention_mask"] = (ids != encoder.config.pad_token_id).long()
    if "Blip" in type(source).__name__ and hasattr(source, "itm_head"):
        return source(**inputs, use_itm_head=False).itm_score.T
    return source(**inputs).logits_per_text - getattr(source, "logit_bias", 0.0)


def patches(images: Tensor, size: int) -> Tensor:
    """What SigLIP 2's processor makes of pixels, written out."""
    rows = [
        [image[:, y : y + size, x : x + size].permute(1, 2, 0).flatten() for y in (0, size) for x in (0, size)]
        for image in images
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("name", [n for n, e in TRANSFORMERS.items() if kind_of(e) not in NO_LOGITS])
def test_texts_images_and_scale_give_the_sources_own_logits(name: str) -> None:
    entry = TRANSFORMERS[name]
    build = entry.build if kind_of(entry) != "AlignModel" else ALIGN
    source: Any = build(0)
    model = ts.wrap(source, tokenizer=entry.tokenizer)
    with torch.no_grad():
        expected = own_logits(source, entry.ids(*TEXTS), pixels())
    ours = model.logit_scale * model.encode_texts(TEXTS) @ model.encode_images(pixels()).T
    # float32 on logits of up to logit_scale (15 here)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n, e in TRANSFORMERS.items() if kind_of(e) in NO_IMAGES])
def test_what_encodes_no_images_says_so(name: str) -> None:
    entry = TRANSFORMERS[name]
    model = ts.wrap(entry.build(0), tokenizer=entry.tokenizer)
    with pytest.raises(UnsupportedTowerError, match=rf"{kind_of(entry)} encodes .*ts\.Text"):
        model.encode_images(pixels())


def test_flava_reads_the_first_patch_of_an_image() -> None:
    entry = TRANSFORMERS["transformers:FlavaModel"]
    source: Any = entry.build(0)
    model = ts.wrap(source, tokenizer=entry.tokenizer)
    with torch.no_grad():
        states = source.image_model(pixel_values=pixels()).last_hidden_state
        expected = nn.functional.normalize(source.image_projection(states[:, 0]), dim=-1)
    torch.testing.assert_close(model.encode_images(pixels()), expected, atol=2e-6, rtol=0)
    assert model.logit_scale == pytest.approx(float(source.logit_scale.detach().exp()))


@pytest.mark.parametrize(
    "name", [*TRANSFORMERS, MODERNBERT, DECODER, "open_clip:mt5-base-ViT-B-32", "open_clip:nllb-clip-base"]
)
def test_lora_takes_every_linear_of_the_text_blocks_and_is_traced(name: str) -> None:
    import peft

    entry = ZOO[name]
    source = entry.build(0)
    inside = {
        f"{number}.{path}"
        for number, block in enumerate(ts.patching.text_blocks(source))
        for path, module in block.named_modules()
        if isinstance(module, nn.Linear) and "crossattention" not in path  # BLIP's, for captioning
    }
    plain = ts.wrap(source, tokenizer=entry.tokenizer).encode_texts(TEXTS)
    wrapped: Any = peft.get_peft_model(
        source, peft.LoraConfig(r=2, target_modules=ts.patching.lora_targets(source), init_lora_weights=False)
    )
    blocks = ts.patching.text_blocks(wrapped)
    adapted = {
        f"{number}.{path.removesuffix('.lora_A')}"
        for number, block in enumerate(blocks)
        for path, module in block.named_modules()
        if path.endswith(".lora_A")
    }
    assert adapted == inside
    own = {id(p) for block in blocks for p in block.parameters()}
    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    assert len(trainable) == 2 * len(inside) and all(id(p) in own for p in trainable)
    model = ts.wrap(wrapped, tokenizer=entry.tokenizer)  # verified against the source with its adapters
    assert (model.encode_texts(TEXTS) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", [*TRANSFORMERS, MODERNBERT, DECODER, "sentence:AlbertModel, groups"])
def test_the_tower_holds_the_sources_own_memory(name: str) -> None:
    source = ZOO[name].build(0)
    tower = ts.wrap(source, tokenizer=ZOO[name].tokenizer).text
    assert {id(p) for p in tower.parameters()} <= {id(p) for p in source.parameters()}
    # sinusoids and running statistics are buffers of the source: not the same object, the same memory
    assert {b.data_ptr() for b in tower.buffers()} <= {b.data_ptr() for b in source.buffers()}
    assert not {id(m) for m in source.modules()} & {id(m) for m in tower.modules()}


@pytest.mark.parametrize("name", KNOWS_POSITIONS.values(), ids=KNOWS_POSITIONS)
@pytest.mark.parametrize("site", ["resid", "q", "k", "v", "z"])
def test_a_resumed_pass_sees_the_distances_of_a_whole_one(name: str, site: str) -> None:
    entry = ZOO[name]
    tower = ts.wrap(entry.build(0), tokenizer=entry.tokenizer).text
    base, donor = tower.rows(TEXTS)
    sweep = Sweep(site_named(site))
    resumed, whole = (
        PatchingEngine(tower).patch([base], [donor], sweep=sweep, path=path).patched for path in ("resume", "generic")
    )
    assert (resumed - resumed[:, :, :1]).abs().max() > 1e-3  # cells differ, so that agreeing means something
    torch.testing.assert_close(resumed, whole, atol=2e-6, rtol=0)  # float32, another order of summation


@pytest.mark.parametrize("name", [*KNOWS_POSITIONS.values(), "transformers:Aimv2Model"])
def test_the_attention_pattern_and_transformer_lens_see_the_same_tower(name: str) -> None:
    entry = ZOO[name]
    tower = ts.wrap(entry.build(0), tokenizer=entry.tokenizer).text
    ids = tower.collate(tower.rows(TEXTS[:1]))
    lens = tower.to_transformer_lens()
    embedding, cache = lens.run_with_cache(ids)
    torch.testing.assert_close(embedding, tower(ids), atol=5e-6, rtol=1e-5)
    for number, block in enumerate(tower.blocks):
        assert isinstance(block, Block)
        pattern = cache["pattern", number]
        torch.testing.assert_close(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]))
        window = getattr(block.attn.relative, "window", None)
        positions = torch.arange(pattern.shape[-1])
        far = (positions[:, None] - positions).abs() > (len(positions) if window is None else window)
        assert (pattern[..., far] == 0).all()
    assert name != MODERNBERT or {block.attn.relative.window for block in tower.blocks} == {None, 2}


def test_an_encoder_that_no_reader_knows_is_named_with_the_way_to_add_it() -> None:
    from transformers import (
        DebertaV2Config,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
    )

    text = DebertaV2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    vision = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text)
    with pytest.raises(UnsupportedTowerError, match=r"DebertaV2Model \(embeddings.*docs/add_a_tower\.md"):
        ts.wrap(VisionTextDualEncoderModel(config), tokenizer=ZOO[MPNET].tokenizer)


@pytest.mark.parametrize("name", [MPNET, MODERNBERT])
def test_a_tokenizer_that_pads_with_another_id_than_the_model_hides_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedTowerError, match=r"hides padding by id [01], but the tokenizer pads with 7"):
        ts.wrap(ZOO[name].build(0), tokenizer=WordTokenizer(pad_id=7))


def test_rotary_positions_that_grow_with_the_texts_seen_are_refused() -> None:
    source: Any = ZOO[MODERNBERT].build(0)
    source.text.transformer.rotary_emb.rope_type["full_attention"] = "dynamic"
    with pytest.raises(UnsupportedTowerError, match="'dynamic'"):
        ts.wrap(source, tokenizer=ZOO[MODERNBERT].tokenizer)

"""Small random models of the real classes with options, for tests that need one; the zoo has one of every kind."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zoo.building import BERT, EMBED, HEADS, IMAGE, LAYERS, ROBERTA, TEXT, WIDTH, shaken
from zoo.entry import Reading
from zoo.hooks import patched_by_hooks as patched_reading
from zoo.open_clip_models import BERT_SITES, NATIVE_SITES, VISION
from zoo.tokens import WordTokenizer
from zoo.transformers_models import CLIP_SITES, CLIP_TEXT, EFFICIENTNET, alone, dual, vision_text

import tracescribe as ts

__all__ = [
    "VISION",
    "WordTokenizer",
    "align_model",
    "chinese_clip_model",
    "clip_text_only_model",
    "clipseg_model",
    "in_double",
    "open_clip_hf_model",
    "open_clip_model",
    "patched_by_hooks",
    "siglip_model",
    "source_blocks",
    "source_encoder",
    "transformers_model",
    "vision_text_model",
    "word_tokenizer",
]


def word_tokenizer(source: nn.Module) -> WordTokenizer:
    """A word tokenizer that pads as ``source`` expects: where padding is masked, by the configured id."""
    encoder = getattr(source, "text_model", None) or getattr(getattr(source, "text", None), "transformer", None)
    config = getattr(encoder, "config", None)
    return WordTokenizer(pad_id=config.pad_token_id if hasattr(config, "type_vocab_size") else 0)


def in_double(model: ts.DualEncoder) -> ts.DualEncoder:
    """The same model in float64, where what is trained can be compared: see :data:`bounds.TRAINED`."""
    return ts.wrap(copy.deepcopy(model.source).double(), tokenizer=model.tokenizer)


def open_clip_model(
    seed: int = 0,
    *,
    custom: bool = False,
    quick_gelu: bool = False,
    width: int = WIDTH,
    heads: int = HEADS,
    layers: int = LAYERS,
    **text: Any,
) -> nn.Module:
    """A random open_clip ``CLIP`` (or ``CustomTextCLIP``) whose blocks all matter: weights of order one."""
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = {"context_length": 12, "vocab_size": 64, "width": width, "heads": heads, "layers": layers} | text
    torch.manual_seed(seed)
    model = (CustomTextCLIP if custom else CLIP)(EMBED, vision_cfg=VISION, text_cfg=cfg, quick_gelu=quick_gelu)
    return shaken(model, seed)


def open_clip_hf_model(
    seed: int = 0,
    *,
    text: str = "Bert",
    pooler: str = "cls_last_hidden_state_pooler",
    proj: str = "mlp",
    layers: int = LAYERS,
) -> nn.Module:
    """A random open_clip ``CustomTextCLIP`` over a transformers encoder, as BiomedCLIP is built."""
    import tempfile

    import transformers
    from open_clip.model import CustomTextCLIP

    small = ROBERTA if text == "Roberta" else BERT
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, f"{text}Config")(**small | {"num_hidden_layers": layers}).save_pretrained(folder)
        cfg = {"hf_model_name": folder, "hf_model_pretrained": False, "hf_pooler_type": pooler, "hf_proj_type": proj}
        model = CustomTextCLIP(EMBED, vision_cfg=VISION, text_cfg=cfg)
    return shaken(model, seed)


def transformers_model(
    seed: int = 0, *, eos_token_id: int = 63, layers: int = LAYERS, act: str = "quick_gelu"
) -> nn.Module:
    """A random transformers ``CLIPModel``; ``eos_token_id=2`` is the legacy configuration."""
    text = CLIP_TEXT | {"eos_token_id": eos_token_id, "num_hidden_layers": layers, "hidden_act": act}
    return dual("CLIP", text, IMAGE, projection_dim=EMBED)(seed)


def siglip_model(seed: int = 0, *, layers: int = LAYERS, version: int = 1) -> nn.Module:
    """A random transformers ``SiglipModel`` or ``Siglip2Model``."""
    text = TEXT | {"num_hidden_layers": layers, "projection_size": 32}
    if version == 1:
        return dual("Siglip", text, IMAGE)(seed)
    vision = {name: size for name, size in IMAGE.items() if name != "image_size"} | {"num_patches": 4}
    return dual("Siglip2", text, vision)(seed)


def chinese_clip_model(seed: int = 0, *, layers: int = LAYERS) -> nn.Module:
    """A random transformers ``ChineseCLIPModel``: a BERT text tower read at its first token."""
    return dual("ChineseCLIP", BERT | {"num_hidden_layers": layers}, IMAGE, projection_dim=EMBED)(seed)


def align_model(seed: int = 0) -> nn.Module:
    """A random transformers ``AlignModel``: BERT beside an EfficientNet."""
    return dual("Align", BERT, EFFICIENTNET, projection_dim=32)(seed)


def vision_text_model(seed: int = 0, *, text: str = "Bert", layers: int = LAYERS) -> nn.Module:
    """A random ``VisionTextDualEncoderModel`` over BERT or RoBERTa, read through its pooler."""
    small = ROBERTA if text == "Roberta" else BERT
    return vision_text(text, small | {"num_hidden_layers": layers})(seed)


def clip_text_only_model(seed: int = 0) -> nn.Module:
    """A random transformers ``CLIPTextModelWithProjection``: no image tower at all."""
    return alone("CLIPTextModelWithProjection", "CLIPTextConfig", CLIP_TEXT | {"projection_dim": EMBED})(seed)


def clipseg_model(seed: int = 0) -> nn.Module:
    """A random transformers ``CLIPSegModel``."""
    return dual("CLIPSeg", CLIP_TEXT, IMAGE, projection_dim=EMBED)(seed)


def source_encoder(model: Any, ids: Tensor) -> Tensor:
    """The source model's own text encoder on padded ids."""
    if hasattr(model, "encode_text"):
        return model.encode_text(ids)
    if not hasattr(model, "get_text_features"):
        return model(input_ids=ids).text_embeds
    config = model.text_model.config
    masked = {"attention_mask": (ids != config.pad_token_id).long()} if hasattr(config, "type_vocab_size") else {}
    return model.get_text_features(input_ids=ids, **masked).pooler_output


_BLOCKS = {
    "text.transformer.encoder.layer": BERT_SITES,
    "text.transformer.resblocks": NATIVE_SITES,
    "transformer.resblocks": NATIVE_SITES,
    "text_model.encoder.layers": CLIP_SITES,
    "text_model.encoder.layer": BERT_SITES,
}


def _blocks_at(model: nn.Module) -> str:
    for path in _BLOCKS:
        try:
            model.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise AssertionError(f"no text blocks in {type(model).__name__}")


def source_blocks(model: nn.Module) -> Any:
    """The source model's own text blocks, found without the package."""
    return model.get_submodule(_blocks_at(model))


def patched_by_hooks(
    model: nn.Module,
    base: Tensor,
    donor: Tensor,
    layer: int,
    positions: Sequence[int] | None,
    *,
    site: str = "resid",
) -> Tensor:
    """The zoo's plain hooks on a model of this module: the L2-normalised embedding [embed]."""
    reading = Reading("", source_encoder, source_blocks, _BLOCKS[_blocks_at(model)], WordTokenizer)
    return patched_reading(reading, model, base, donor, layer, positions, site=site)


def open_clip_image_model(seed: int = 0, **vision: Any) -> nn.Module:
    """A random open_clip ``CLIP`` whose image encoder is the one of interest; a tuple of ``layers`` gives a ResNet."""
    from open_clip.model import CLIP

    cfg = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 32, "head_width": 16} | vision
    torch.manual_seed(seed)
    text = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    return shaken(CLIP(embed_dim=16, vision_cfg=cfg, text_cfg=text), seed)


def open_clip_timm_model(seed: int = 0, **kwargs: Any) -> nn.Module:
    """A random open_clip ``CLIP`` over timm's vision transformer, as open_clip builds BiomedCLIP's and SigLIP's."""
    import timm

    model = open_clip_image_model(seed, timm_model_name="test_vit", timm_pool="", timm_proj="linear", image_size=160)
    torch.manual_seed(seed)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2} | kwargs
    model.visual.trunk = timm.models.vision_transformer.VisionTransformer(num_classes=0, **settings)
    model.visual.head = nn.Linear(32, 16, bias=False)
    model.visual.image_size = (32, 32)
    return shaken(model, seed)


def counterfactual_pixels(
    seed: int, size: tuple[int, int], cell: tuple[int, int], cells: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Random pixels, and the same with other ones in some cells of a grid."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(3, *size, generator=generator)
    other = image.clone()
    for row, column in cells:
        box = (slice(row * cell[0], (row + 1) * cell[0]), slice(column * cell[1], (column + 1) * cell[1]))
        other[:, *box] = torch.randn(3, *cell, generator=generator)
    return image, other

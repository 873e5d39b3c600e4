"""Every CLIP-family text-image dual encoder of transformers, small and random, of the real class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.building import BERT, EMBED, IMAGE, ROBERTA, TEXT, shaken
from zoo.entry import Entry, Place, Reading, Sites
from zoo.open_clip_models import BERT_SITES
from zoo.tokens import WordTokenizer

CLIP_SITES = Sites(Place("self_attn"), Place("layer_norm2", "in"), Place("mlp"))
AIM_SITES = Sites(Place("attention"), Place("rms_norm2", "in"), Place("ffn"))
FLAVA_SITES = Sites(Place("attention.output.dense"), Place("layernorm_after", "in"), Place("output.dense"))
MPNET_SITES = Sites(
    Place("attention.attn.o"),
    Place("attention.LayerNorm"),
    Place("output.dense"),
    norms=("attention.LayerNorm", "output.LayerNorm"),
)
EFFICIENTNET = {
    "image_size": 32,
    "width_coefficient": 0.1,
    "depth_coefficient": 0.1,
    "hidden_dim": 64,
    "depth_divisor": 8,
    "kernel_sizes": [3],
    "in_channels": [8],
    "out_channels": [64],
    "strides": [1],
    "num_block_repeats": [1],
    "expand_ratios": [1],
    "depthwise_padding": [],
    "pooling_type": "mean",
}
CLIP_TEXT = TEXT | {"pad_token_id": 0, "bos_token_id": 62, "eos_token_id": 63}


def features(model: Any, ids: Tensor) -> Tensor:
    """``get_text_features`` on ids alone: a causal model read at the end token, or one that attends to padding."""
    return model.get_text_features(input_ids=ids).pooler_output


def masked_features(model: Any, ids: Tensor) -> Tensor:
    """``get_text_features`` with the padding masked, by the text configuration's padding id."""
    return model.get_text_features(input_ids=ids, attention_mask=_mask(model.text_model, ids)).pooler_output


def _mask(encoder: Any, ids: Tensor) -> Tensor:
    return (ids != encoder.config.pad_token_id).long()


def _layers(path: str) -> Callable[[Any], Any]:
    return lambda model: model.get_submodule(path)


CAUSAL = Reading("causal, argmax", features, _layers("text_model.encoder.layers"), CLIP_SITES, WordTokenizer)
CAUSAL_EOS = replace(CAUSAL, kind="causal, eos")
# eos_token_id 2 is not the largest id: its first appearance ends the text
EOS_2 = replace(CAUSAL_EOS, tokenizer=partial(WordTokenizer, pad_id=1, sot_id=0, eot_id=2))
SIGLIP = replace(CAUSAL, kind="bidirectional, last", tokenizer=partial(WordTokenizer, pad_id=1, sot_id=None, eot_id=1))
_BERT_TOKENS = partial(WordTokenizer, sot_id=61, eot_id=62)
FIRST = Reading("bert, first", masked_features, _layers("text_model.encoder.layer"), BERT_SITES, _BERT_TOKENS)
POOLED = replace(FIRST, kind="bert, pooler")
_ROBERTA_TOKENS = partial(WordTokenizer, pad_id=1, sot_id=0, eot_id=2)


def _text_embeds(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids).text_embeds


def _pooler_output(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids).pooler_output


def _flava(model: Any, ids: Tensor) -> Tensor:
    return masked_features(model, ids)[:, 0]  # FLAVA projects every token; its contrastive loss takes the first


def _blip_retrieval(model: Any, ids: Tensor) -> Tensor:
    """The text half of ``BlipForImageTextRetrieval.forward(use_itm_head=False)``."""
    states = model.text_encoder(input_ids=ids, attention_mask=_mask(model.text_encoder, ids)).last_hidden_state
    return model.text_proj(states[:, 0])


def dual(name: str, text: dict[str, Any], vision: dict[str, Any], /, **options: Any) -> Callable[[int], nn.Module]:
    """Build ``{name}Model`` of ``{name}Config`` from two small configurations."""

    def build(seed: int) -> nn.Module:
        import transformers

        torch.manual_seed(seed)
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **options)
        return shaken(getattr(transformers, f"{name}Model")(config), seed)

    return build


def alone(model: str, config: str, arguments: dict[str, Any]) -> Callable[[int], nn.Module]:
    """Build a model that is a text tower and nothing else."""

    def build(seed: int) -> nn.Module:
        import transformers

        torch.manual_seed(seed)
        return shaken(getattr(transformers, model)(getattr(transformers, config)(**arguments)), seed)

    return build


def vision_text(text: str, arguments: dict[str, Any]) -> Callable[[int], nn.Module]:
    """Build a ``VisionTextDualEncoderModel`` over a text encoder and a ViT."""

    def build(seed: int) -> nn.Module:
        import transformers

        torch.manual_seed(seed)
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
            transformers.ViTConfig(**IMAGE),
            getattr(transformers, f"{text}Config")(**arguments),
            projection_dim=EMBED,
        )
        return shaken(transformers.VisionTextDualEncoderModel(config), seed)

    return build


def _flava_model(seed: int) -> nn.Module:
    import transformers

    torch.manual_seed(seed)
    small = IMAGE | {"num_attention_heads": 2}
    config = transformers.FlavaConfig(
        text_config=BERT, image_config=small, multimodal_config=small, hidden_size=32, projection_dim=EMBED
    )
    return shaken(transformers.FlavaModel(config), seed)


def _blip_retrieval_model(seed: int) -> nn.Module:
    import transformers

    torch.manual_seed(seed)
    config = transformers.BlipConfig(text_config=_BLIP_TEXT, vision_config=IMAGE, image_text_hidden_size=EMBED)
    return shaken(transformers.BlipForImageTextRetrieval(config), seed)


_PROJECTED = {"projection_dim": EMBED}
SIGLIP_TEXT = TEXT | {"projection_size": 32, "pad_token_id": 1, "bos_token_id": None, "eos_token_id": 1}
_GROUP_VISION = {"hidden_size": 32, "intermediate_size": 64, "depths": [1, 1, 1], "num_attention_heads": 2}
_GROUP_VISION |= {"image_size": 32, "patch_size": 16, "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 2]}
_BLIP_TEXT = BERT | {"encoder_hidden_size": 32, "bos_token_id": 61, "eos_token_id": 62, "sep_token_id": 62}
_MPNET = ROBERTA | {"relative_attention_num_buckets": 32}


def transformers_entries() -> list[Entry]:
    """One entry a class, and further ones where a configuration changes how the text is read."""
    one = {"num_hidden_layers": 1, "num_attention_heads": 2}
    table: list[tuple[str, Reading, Callable[[int], nn.Module], str]] = [
        ("CLIPModel", CAUSAL_EOS, dual("CLIP", CLIP_TEXT, IMAGE, **_PROJECTED), "openai/clip-vit-base-patch32"),
        (
            "CLIPModel, eos_token_id 2",
            CAUSAL,
            dual("CLIP", CLIP_TEXT | {"eos_token_id": 2}, IMAGE, **_PROJECTED),
            "CLIP configurations written before transformers 4.31",
        ),
        (
            "CLIPModel, GELU",
            CAUSAL_EOS,
            dual("CLIP", CLIP_TEXT | {"hidden_act": "gelu"}, IMAGE, **_PROJECTED),
            "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        ),
        (
            "CLIPTextModelWithProjection",
            replace(CAUSAL_EOS, encode=_text_embeds),
            alone("CLIPTextModelWithProjection", "CLIPTextConfig", CLIP_TEXT | _PROJECTED),
            "openai/clip-vit-base-patch32",
        ),
        (
            "MetaClip2Model",
            EOS_2,
            dual(
                "MetaClip2", CLIP_TEXT | {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}, IMAGE, **_PROJECTED
            ),
            "facebook/metaclip-2-worldwide-huge-quickgelu",
        ),
        (
            "MetaClip2TextModelWithProjection",
            replace(EOS_2, encode=_text_embeds),
            alone(
                "MetaClip2TextModelWithProjection",
                "MetaClip2TextConfig",
                CLIP_TEXT | {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1} | _PROJECTED,
            ),
            "facebook/metaclip-2-worldwide-huge-quickgelu",
        ),
        ("CLIPSegModel", CAUSAL_EOS, dual("CLIPSeg", CLIP_TEXT, IMAGE, **_PROJECTED), "CIDAS/clipseg-rd64-refined"),
        (
            "GroupViTModel",
            CAUSAL_EOS,
            dual("GroupViT", CLIP_TEXT, _GROUP_VISION, projection_dim=EMBED, projection_intermediate_dim=32),
            "nvidia/groupvit-gcc-yfcc",
        ),
        ("OwlViTModel", CAUSAL, dual("OwlViT", CLIP_TEXT, IMAGE, **_PROJECTED), "google/owlvit-base-patch32"),
        ("Owlv2Model", CAUSAL, dual("Owlv2", CLIP_TEXT, IMAGE, **_PROJECTED), "google/owlv2-base-patch16-ensemble"),
        (
            "XCLIPModel",
            CAUSAL,
            dual("XCLIP", CLIP_TEXT, IMAGE | {"mit_hidden_size": 32, "mit_num_attention_heads": 2}, **_PROJECTED),
            "microsoft/xclip-base-patch32",
        ),
        (
            "Aimv2Model",
            replace(CAUSAL_EOS, encode=masked_features, sites=AIM_SITES),
            dual("Aimv2", CLIP_TEXT, IMAGE, **_PROJECTED),
            "apple/aimv2-large-patch14-224-lit",
        ),
        ("SiglipModel", SIGLIP, dual("Siglip", SIGLIP_TEXT, IMAGE), "google/siglip-base-patch16-224"),
        (
            "Siglip2Model",
            replace(SIGLIP, tokenizer=partial(WordTokenizer, sot_id=None, eot_id=1)),
            dual(
                "Siglip2",
                SIGLIP_TEXT | {"pad_token_id": 0, "hidden_act": "gelu_pytorch_tanh"},
                one | {"hidden_size": 32, "intermediate_size": 64, "patch_size": 16, "num_patches": 4},
            ),
            "google/siglip2-base-patch16-naflex",
        ),
        (
            "SiglipTextModel",
            replace(SIGLIP, encode=_pooler_output, blocks=_layers("encoder.layers")),
            alone("SiglipTextModel", "SiglipTextConfig", SIGLIP_TEXT),
            "google/siglip-base-patch16-224",
        ),
        (
            "Siglip2TextModel",
            replace(
                SIGLIP,
                encode=_pooler_output,
                blocks=_layers("encoder.layers"),
                tokenizer=partial(WordTokenizer, sot_id=None, eot_id=1),
            ),
            alone("Siglip2TextModel", "Siglip2TextConfig", SIGLIP_TEXT | {"pad_token_id": 0}),
            "google/siglip2-base-patch16-naflex",
        ),
        (
            "Tipsv2Model",
            replace(SIGLIP, kind="bidirectional, mean", encode=masked_features, tokenizer=_BERT_TOKENS),
            dual("Tipsv2", TEXT | {"pad_token_id": 0}, IMAGE | {"num_register_tokens": 1}),
            "google/tipsv2-b14",
        ),
        (
            "ChineseCLIPModel",
            FIRST,
            dual("ChineseCLIP", BERT, IMAGE, **_PROJECTED),
            "OFA-Sys/chinese-clip-vit-base-patch16",
        ),
        ("AlignModel", FIRST, dual("Align", BERT, EFFICIENTNET, projection_dim=32), "kakaobrain/align-base"),
        (
            "AltCLIPModel",
            replace(FIRST, blocks=_layers("text_model.roberta.encoder.layers"), tokenizer=_ROBERTA_TOKENS),
            dual("AltCLIP", ROBERTA | {"project_dim": 24}, IMAGE, **_PROJECTED),
            "BAAI/AltCLIP",
        ),
        (
            "BlipModel",
            POOLED,
            dual("Blip", _BLIP_TEXT, IMAGE, **_PROJECTED),
            "Salesforce/blip-image-captioning-base",
        ),
        (
            "BlipForImageTextRetrieval",
            replace(FIRST, encode=_blip_retrieval, blocks=_layers("text_encoder.encoder.layer")),
            _blip_retrieval_model,
            "Salesforce/blip-itm-base-coco",
        ),
        (
            "FlavaModel",
            replace(FIRST, kind="bidirectional, first", encode=_flava, sites=FLAVA_SITES),
            _flava_model,
            "facebook/flava-full",
        ),
        ("VisionTextDualEncoderModel, BERT", POOLED, vision_text("Bert", BERT), "any BERT"),
        (
            "VisionTextDualEncoderModel, RoBERTa",
            replace(POOLED, tokenizer=_ROBERTA_TOKENS),
            vision_text("Roberta", ROBERTA),
            "any RoBERTa",
        ),
        (
            "VisionTextDualEncoderModel, XLM-RoBERTa",
            replace(POOLED, tokenizer=_ROBERTA_TOKENS),
            vision_text("XLMRoberta", ROBERTA),
            "any XLM-RoBERTa",
        ),
        (
            "VisionTextDualEncoderModel, CamemBERT",
            replace(POOLED, tokenizer=_ROBERTA_TOKENS),
            vision_text("Camembert", ROBERTA),
            "any CamemBERT",
        ),
        (
            "VisionTextDualEncoderModel, ERNIE",
            POOLED,
            vision_text("Ernie", BERT | {"use_task_id": False}),
            "any ERNIE",
        ),
        (
            "VisionTextDualEncoderModel, MPNet",
            replace(POOLED, kind="mpnet, pooler", sites=MPNET_SITES, tokenizer=_ROBERTA_TOKENS),
            vision_text("MPNet", _MPNET),
            "any MPNet",
        ),
        (
            "VisionTextDualEncoderModel, CLIP text",
            replace(CAUSAL_EOS, encode=features, blocks=_layers("text_model.encoder.layers")),
            vision_text("CLIPText", CLIP_TEXT),
            "any CLIPTextModel",
        ),
    ]
    return [
        Entry(f"transformers:{name}", "transformers", reading, build, origin) for name, reading, build, origin in table
    ]

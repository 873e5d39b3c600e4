"""Every configuration of ``open_clip.list_models()``, shrunk: the real class, every architecture flag, no hub."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.building import BERT, CONTEXT, EMBED, HEADS, LAYERS, ROBERTA, VOCABULARY, WIDTH, shaken
from zoo.entry import Entry, Place, Reading, Sites
from zoo.tokens import WordTokenizer

VISION = {"image_size": 32, "patch_size": 16, "layers": 1, "width": WIDTH, "head_width": 16}
_VISION_FLAGS = ("output_tokens", "attentional_pool")  # what CoCa's own forward needs of its image tower

NATIVE_SITES = Sites(Place("ls_1"), Place("ln_2", "in"), Place("ls_2"))
BERT_SITES = Sites(
    Place("attention.output.dense"),
    Place("attention.output"),
    Place("output.dense"),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
)
MT5_SITES = Sites(Place("layer.0.SelfAttention"), Place("layer.1", "in"), Place("layer.1.DenseReluDense"))
M2M_SITES = Sites(Place("self_attn"), Place("final_layer_norm", "in"), Place("fc2"))

# hub id -> (transformers' configuration class, its small arguments, blocks below the encoder, sites)
_SMALL_MT5 = {"d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": 64, "num_layers": LAYERS, "num_heads": HEADS}
_SMALL_M2M = {"d_model": WIDTH, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": LAYERS}
_SMALL_M2M |= {"decoder_layers": 1, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
_SMALL_M2M |= {"max_position_embeddings": CONTEXT + 2}
_HUB: dict[str, tuple[str, dict[str, Any], str, Sites, Callable[[], WordTokenizer]]] = {
    "roberta": (
        "RobertaConfig",
        ROBERTA,
        "encoder.layer",
        BERT_SITES,
        partial(WordTokenizer, 64, 1, sot_id=0, eot_id=2),
    ),
    "xlm-roberta": (
        "XLMRobertaConfig",
        ROBERTA,
        "encoder.layer",
        BERT_SITES,
        partial(WordTokenizer, 64, 1, sot_id=0, eot_id=2),
    ),
    "mt5": (
        "MT5Config",
        _SMALL_MT5 | {"vocab_size": VOCABULARY},
        "block",
        MT5_SITES,
        partial(WordTokenizer, 64, 0, sot_id=None, eot_id=1),
    ),
    # NLLB's start token is the language code, one of its largest ids
    "nllb": (
        "M2M100Config",
        _SMALL_M2M | {"vocab_size": VOCABULARY, "scale_embedding": True},
        "layers",
        M2M_SITES,
        partial(WordTokenizer, 64, 1, sot_id=60, eot_id=2),
    ),
    "bert": ("BertConfig", BERT, "encoder.layer", BERT_SITES, partial(WordTokenizer, 64, 0, sot_id=61, eot_id=62)),
}


def _hub_kind(model_id: str) -> str:
    """Which of the small configurations stands for a hub id."""
    name = model_id.rpartition("/")[2].lower()
    return next(kind for kind in ("xlm-roberta", "roberta", "mt5", "nllb", "bert") if kind in name)


@cache
def _local_config(kind: str) -> str:
    """A folder that holds the small configuration, as a hub download would; kept for the whole test run."""
    import transformers

    name, arguments, *_ = _HUB[kind]
    folder = tempfile.TemporaryDirectory(prefix=f"zoo-{kind}-")
    _FOLDERS.append(folder)
    getattr(transformers, name)(**arguments).save_pretrained(folder.name)
    return folder.name


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when the interpreter ends


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A model configuration with small sizes; every flag that shapes the text tower stays."""
    config = copy.deepcopy(config)
    text, vision = config["text_cfg"], config["vision_cfg"]
    config["embed_dim"] = EMBED
    config["vision_cfg"] = VISION | {flag: vision[flag] for flag in _VISION_FLAGS if flag in vision}
    if vision.get("attentional_pool"):
        config["vision_cfg"]["attn_pooler_heads"] = HEADS
    if "hf_model_name" in text:
        folder = _local_config(_hub_kind(text["hf_model_name"]))
        text |= {"hf_model_name": folder, "hf_tokenizer_name": folder, "context_length": CONTEXT}
    else:
        text |= {"width": WIDTH, "heads": HEADS, "layers": LAYERS}
        text |= {"vocab_size": VOCABULARY, "context_length": CONTEXT}
    if "multimodal_cfg" in config:
        small = {"width": WIDTH, "heads": HEADS, "layers": 1, "context_length": CONTEXT, "vocab_size": VOCABULARY}
        config["multimodal_cfg"] |= small
    return config


def build(config: dict[str, Any], seed: int) -> nn.Module:
    """open_clip's own factory on a shrunk configuration: it picks ``CLIP``, ``CustomTextCLIP`` or ``CoCa``."""
    import open_clip

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        described = json.dumps({"model_cfg": shrunk(config), "preprocess_cfg": {}})
        (Path(folder) / "open_clip_config.json").write_text(described, encoding="utf-8")
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    decoder = getattr(model, "text_decoder", None)
    if decoder is not None:  # open_clip leaves it as the memory was, which may be NaN
        nn.init.normal_(decoder.text_projection, std=0.02)
    return shaken(model, seed)


def encode_text(model: Any, ids: Tensor) -> Tensor:
    return model.encode_text(ids)


def _native_blocks(model: Any) -> nn.ModuleList:
    return getattr(model, "text", model).transformer.resblocks


def _native_tokenizer(text: dict[str, Any]) -> Callable[[], WordTokenizer]:
    """The special ids of the real tokenizer that a configuration names."""
    name, pool = text.get("hf_tokenizer_name", ""), text.get("pool_type", "argmax")
    if pool == "eos":  # xlm-v: <s> 0, <pad> 1, </s> 2; mT5: <pad> 0, </s> 1 and no start token
        return partial(WordTokenizer, 64, 1, sot_id=0, eot_id=2) if text["eos_id"] == 2 else _HUB["mt5"][4]
    if "SigLIP" in name:  # SigLIP pads with its end token, SigLIP 2 with <pad>
        return partial(WordTokenizer, 64, 0 if "SigLIP2" in name else 1, sot_id=None, eot_id=1)
    if text.get("tokenizer_kwargs", {}).get("strip_sep_token"):  # CLIPA: [CLS] and the words
        return partial(WordTokenizer, 64, 0, sot_id=61, eot_id=None)
    return WordTokenizer


def reading_of(config: dict[str, Any]) -> Reading:
    """How the model of a (full-size) configuration reads a text."""
    text = config["text_cfg"]
    if "hf_model_name" in text:
        kind = _hub_kind(text["hf_model_name"])
        _, _, below, sites, tokenizer = _HUB[kind]
        pooler = text.get("hf_pooler_type", "mean_pooler")
        return Reading(
            kind=f"{kind}, {pooler}",
            encode=encode_text,
            blocks=lambda model: model.text.transformer.get_submodule(below),
            sites=sites,
            tokenizer=tokenizer,
        )
    direction = "bidirectional" if text.get("no_causal_mask") else "causal"
    pool = "CLS appended" if text.get("embed_cls") else text.get("pool_type", "argmax")
    return Reading(
        kind=f"{direction}, {pool}",
        encode=encode_text,
        blocks=_native_blocks,
        sites=NATIVE_SITES,
        tokenizer=_native_tokenizer(text),
    )


def open_clip_entries() -> list[Entry]:
    """One entry for each name of ``open_clip.list_models()``."""
    import open_clip

    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    return [
        Entry(f"open_clip:{name}", "open_clip", reading_of(config), partial(build, config), origin=name)
        for name, config in configs.items()
    ]

"""What open_clip can build and no configuration of its list does: other encoders and poolers, other blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo.building import CONTEXT, EMBED, HEADS, LAYERS, VOCABULARY, WIDTH, shaken
from zoo.entry import Entry, Place, Reading, Sites
from zoo.open_clip_models import VISION, build, encode_text, reading_of
from zoo.tokens import WordTokenizer

MODERNBERT_SITES = Sites(Place("attn"), Place("mlp_norm", "in"), Place("mlp"))
_NATIVE: dict[str, dict[str, Any]] = {
    "LayerScale": {"ls_init_value": 0.3},
    "bidirectional, first": {"no_causal_mask": True, "pool_type": "first"},
    "causal, last": {"pool_type": "last"},
    "projection with bias": {"proj_bias": True},
    "blocks with norms of queries and keys": {"qk_norm": True},
    "blocks of NormFormer": {"scale_attn": True, "scale_fc": True, "scale_attn_inner": True},
}
_HUB: dict[str, dict[str, Any]] = {
    "BERT, cls_pooler, linear": {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"},
    "BERT, mean_pooler, mlp": {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"},
    "RoBERTa, cls_last_hidden_state_pooler, mlp": {"hf_pooler_type": "cls_last_hidden_state_pooler"},
    "XLM-RoBERTa, cls_pooler, linear": {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"},
}


@contextmanager
def _known_to_open_clip(model_type: str) -> Iterator[None]:
    """open_clip looks an encoder's width up in a table that does not list every model type."""
    from open_clip.hf_configs import arch_dict

    arch_dict[model_type] = {"config_names": {"width": "hidden_size"}, "pooler": "cls_last_hidden_state_pooler"}
    try:
        yield
    finally:
        del arch_dict[model_type]


def _modernbert(seed: int) -> nn.Module:
    """ModernBERT in open_clip's ``HFTextEncoder``: rotary positions, local layers, gated MLP, no norm in block 1."""
    from open_clip.hf_model import HFTextEncoder
    from open_clip.model import CustomTextCLIP
    from transformers import ModernBertConfig

    config = ModernBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS + 1,  # global, local, local, global
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        local_attention=4,
        global_attn_every_n_layers=3,
        pad_token_id=0,
        bos_token_id=61,
        eos_token_id=62,
        cls_token_id=61,
        sep_token_id=62,
    )
    torch.manual_seed(seed)
    model = CustomTextCLIP(EMBED, VISION, {"width": WIDTH, "heads": HEADS, "layers": 1, "vocab_size": VOCABULARY})
    with _known_to_open_clip("modernbert"):
        model.text = HFTextEncoder(
            "", EMBED, config=config, pooler_type="cls_last_hidden_state_pooler", proj_type="mlp"
        )
    return shaken(model, seed)


_MODERNBERT = Reading(
    "modernbert, cls_last_hidden_state_pooler",
    encode_text,
    lambda model: model.text.transformer.layers,
    MODERNBERT_SITES,
    partial(WordTokenizer, sot_id=61, eot_id=62),
)


# as open_clip 4's moderntext-ViT-B-32-256, and what else its options give
_MODERN: dict[str, dict[str, Any]] = {
    "modern text (moderntext-*)": {"attn_gated": True},
    "modern text, bidirectional, map, sandwich norms": {
        "attention_mode": "bidirectional",
        "pool_type": "map",
        "qk_norm": True,
        "norm_placement": "sandwich",
        "pre_norm": True,
        "bias": True,
        "attn_gated": True,
    },
    "modern text, bidirectional, mean, no positions": {
        "attention_mode": "bidirectional",
        "pool_type": "mean",
        "pos_embed": "none",
        "mlp_type": "mlp",
        "norm_type": "layernorm",
    },
    "modern text, causal, mean, LayerScale": {
        "pool_type": "mean",
        "qk_norm": True,
        "norm_type": "layernorm",
        "mlp_type": "relu2",
        "ls_init_value": 0.3,
    },
}


def modern_text(seed: int, **options: Any) -> nn.Module:
    """open_clip's ``CustomTextCLIP`` over a replica of the text tower of its next version."""
    from open_clip.model import CustomTextCLIP

    from zoo.replicas.open_clip_modern import ModernTextTransformer

    torch.manual_seed(seed)
    sizes = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "vocab_size": VOCABULARY, "context_length": CONTEXT}
    model = CustomTextCLIP(EMBED, VISION, sizes)
    model.text = ModernTextTransformer(sizes | {"pad_id": 58, "eos_id": 57} | options, EMBED)
    return shaken(model, seed)


def _modern_reading(name: str) -> Reading:
    return Reading(
        name,
        encode_text,
        lambda model: model.text.blocks,
        Sites(Place("ls1"), Place("norm2", "in"), Place("ls2")),
        partial(WordTokenizer, pad_id=58, sot_id=59, eot_id=57),
    )


def open_clip_variants() -> list[Entry]:
    """Entries named ``open_clip variant: ...``."""
    made = []
    for name, text in _NATIVE.items():
        config = {"custom_text": True, "vision_cfg": {}, "text_cfg": text}
        reading = reading_of(config)
        made.append((name, replace(reading, kind=f"{reading.kind} ({name})"), partial(build, config)))
    for name, text in _HUB.items():
        config = {"vision_cfg": {}, "text_cfg": text | {"hf_model_name": name.partition(",")[0]}}
        made.append((name, reading_of(config), partial(build, config)))
    made.append(("ModernBERT, cls_last_hidden_state_pooler, mlp", _MODERNBERT, _modernbert))
    for name, options in _MODERN.items():
        made.append((name, _modern_reading(name), partial(modern_text, **options)))
    return [Entry(f"open_clip variant: {name}", "open_clip", reading, make) for name, reading, make in made]

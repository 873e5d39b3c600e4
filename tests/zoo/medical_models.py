"""The medical dual encoders: the real class where a library has it, else a replica; random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.building import BERT, CONTEXT, EMBED, HEADS, IMAGE, LAYERS, VOCABULARY, WIDTH, shaken
from zoo.entry import Entry, Place, Reading, Sites
from zoo.open_clip_models import BERT_SITES, NATIVE_SITES, build, reading_of
from zoo.tokens import WordTokenizer
from zoo.transformers_models import CAUSAL, CLIP_TEXT, SIGLIP, SIGLIP_TEXT, dual

OPENAI_SITES = Sites(Place("attn"), Place("ln_2", "in"), Place("mlp"))

# as microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 publishes it in open_clip_config.json
BIOMEDCLIP: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear"},
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}


def _bert(layers: int) -> Any:
    from transformers import BertConfig

    return BertConfig(**BERT | {"num_hidden_layers": layers})


def _built(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return shaken(make(), seed)


def _medclip() -> nn.Module:
    from zoo.replicas.medclip import MedCLIPModel

    return MedCLIPModel(_bert(4), proj_dim=EMBED)  # four layers: 1, 2 and the last are not all there are


def _gloria() -> nn.Module:
    from zoo.replicas.gloria import GLoRIA

    words = {i: f"##{i}" if i % 3 == 0 else str(i) for i in range(VOCABULARY)}  # a third continue a word
    return GLoRIA(_bert(6), words | {0: "[PAD]", 61: "[CLS]", 62: "[SEP]"})


def _biovil() -> nn.Module:
    from zoo.replicas.cxr_bert import CXRBertConfig, CXRBertModel

    return CXRBertModel(CXRBertConfig(projection_size=EMBED, **BERT))


def _conch() -> nn.Module:
    from zoo.replicas.conch import CoCa

    return CoCa(EMBED, CONTEXT, VOCABULARY, WIDTH, HEADS, LAYERS)


def _chexzero() -> nn.Module:
    from zoo.replicas.openai_clip import CLIP

    # heads are width / 64 in OpenAI's models, and whoever loads their weights counts on it
    return CLIP(EMBED, 32, 1, 64, 16, CONTEXT, VOCABULARY, 64 * HEADS, HEADS, LAYERS)


def _mask(ids: Tensor) -> Tensor:
    return (ids != 0).long()


_TOKENS = partial(WordTokenizer, sot_id=61, eot_id=62)
_MEDCLIP = Reading(
    "bert, mean of layers 1, 2, last",
    lambda model, ids: model.encode_text(ids, _mask(ids)),
    lambda model: model.text_model.model.encoder.layer,
    BERT_SITES,
    _TOKENS,
    readout=(1, 2, -1),
    own_length=True,
)
_GLORIA = Reading(
    "bert, sum of the last 4 layers",
    lambda model, ids: model.text_encoder_forward(ids, _mask(ids), torch.zeros_like(ids))[1],
    lambda model: model.text_encoder.model.encoder.layer,
    BERT_SITES,
    _TOKENS,
    readout=(-4, -3, -2, -1),
)
_BIOVIL = Reading(
    "bert, first, head with a norm",
    lambda model, ids: model.get_projected_text_embeddings(ids, _mask(ids)),
    lambda model: model.bert.encoder.layer,
    BERT_SITES,
    _TOKENS,
)
_CONCH = Reading(
    "causal, CLS appended",
    lambda model, ids: model.encode_text(ids),
    lambda model: model.text.transformer.resblocks,
    NATIVE_SITES,
    WordTokenizer,
    time_axis=0,
)
_OPENAI = Reading(
    "causal, argmax",
    lambda model, ids: model.encode_text(ids),
    lambda model: model.transformer.resblocks,
    OPENAI_SITES,
    WordTokenizer,
    time_axis=0,
)


def medical_entries() -> list[Entry]:
    """The models that the field's papers trace and compare."""
    import open_clip

    clip = dual("CLIP", CLIP_TEXT | {"eos_token_id": 2}, IMAGE, projection_dim=EMBED)
    vit_l = open_clip.get_model_config("ViT-L-14")
    siglip = dual("Siglip", SIGLIP_TEXT, IMAGE)
    table: list[tuple[str, Reading, Callable[[int], nn.Module], str]] = [
        (
            "biomedclip",
            reading_of(BIOMEDCLIP),
            partial(build, BIOMEDCLIP),
            "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        ),
        ("pubmedclip", CAUSAL, clip, "flaviagiammarino/pubmed-clip-vit-base-patch32"),
        ("plip", CAUSAL, clip, "vinid/plip"),
        ("chexzero", _OPENAI, partial(_built, _chexzero), "rajpurkarlab/CheXzero, a state dict of OpenAI's ViT-B/32"),
        ("bmc-clip", reading_of(vit_l), partial(build, vit_l), "BIOMEDICA/BMC_CLIP_CF, an open_clip ViT-L-14 file"),
        ("medsiglip", SIGLIP, siglip, "google/medsiglip-448"),
        ("conch", _CONCH, partial(_built, _conch), "MahmoodLab/conch"),
        ("biovil-t", _BIOVIL, partial(_built, _biovil), "microsoft/BiomedVLP-BioViL-T"),
        ("medclip", _MEDCLIP, partial(_built, _medclip), "RyanWangZf/MedCLIP"),
        ("gloria", _GLORIA, partial(_built, _gloria), "marshuang80/gloria"),
    ]
    return [Entry(f"medical:{name}", "medical", reading, make, origin) for name, reading, make, origin in table]

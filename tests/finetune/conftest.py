"""Tiny random models of every supported class, and LoRA on them."""

from __future__ import annotations

import pytest
import torch

CONTEXT, VOCAB = 16, 40


def tiny_open_clip(layers: int = 3, custom: bool = False, seed: int = 0, width: int = 32):
    import open_clip

    torch.manual_seed(seed)
    text = {"context_length": CONTEXT, "vocab_size": VOCAB, "width": width, "heads": 4, "layers": layers}
    vision = {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 8, "layers": 2}
    kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    return kind(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()


def tiny_hf_clip(layers: int = 3, seed: int = 0):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    text = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": VOCAB - 2,
        "eos_token_id": VOCAB - 1,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()


MODELS = {
    "open_clip.CLIP": tiny_open_clip,
    "open_clip.CustomTextCLIP": lambda **options: tiny_open_clip(custom=True, **options),
    "transformers.CLIPModel": tiny_hf_clip,
}


@pytest.fixture(params=MODELS)
def make_model(request):
    """A function that builds a small random model of one supported class."""
    return MODELS[request.param]


@pytest.fixture
def make_clip():
    """A function that builds a small random open_clip CLIP."""
    return tiny_open_clip


def encode_text(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The source model's own text encoder, under peft too."""
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module
    if hasattr(inner, "encode_text"):
        return inner.encode_text(ids)
    output = inner.get_text_features(input_ids=ids)
    return getattr(output, "pooler_output", output)


def token_ids(count: int = 4, seed: int = 0) -> torch.Tensor:
    """Random texts of 6 tokens between a start token and the end token, which is the largest id."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(count, CONTEXT, dtype=torch.long)
    ids[:, 0], ids[:, 7] = VOCAB - 2, VOCAB - 1
    ids[:, 1:7] = torch.randint(1, VOCAB - 2, (count, 6), generator=generator)
    return ids


@pytest.fixture
def encode():
    """(module, ids) -> embeddings by the source model's own text encoder."""
    return encode_text


@pytest.fixture
def make_ids():
    """A function that makes token ids for the tiny models."""
    return token_ids


@pytest.fixture
def randomise_adapters():
    """A function that gives LoRA's B, which starts at zero, random values: adapters that do something."""

    def randomise(module: torch.nn.Module, seed: int = 0, size: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                with torch.no_grad():
                    parameter.copy_(size * torch.randn(parameter.shape, generator=generator))

    return randomise

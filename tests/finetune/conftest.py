"""Tiny random models of every supported class, and LoRA on them."""

from __future__ import annotations

import pytest
import torch
from models import open_clip_model, source_encoder, transformers_model

MODELS = {
    "open_clip.CLIP": open_clip_model,
    "open_clip.CustomTextCLIP": lambda **options: open_clip_model(custom=True, **options),
    "transformers.CLIPModel": transformers_model,
}


@pytest.fixture(params=MODELS)
def make_model(request):
    """A function that builds a small random model of one supported class."""
    return MODELS[request.param]


@pytest.fixture
def make_clip():
    """A function that builds a small random open_clip CLIP."""
    return open_clip_model


@pytest.fixture
def encode():
    """(module, ids) -> embeddings by the source model's own text encoder, under peft too."""

    def source_embeddings(module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
        return source_encoder(module.get_base_model() if hasattr(module, "get_base_model") else module, ids)

    return source_embeddings


@pytest.fixture
def make_ids():
    """A function that makes token ids for the tiny models."""

    def token_ids(count: int = 4, seed: int = 0) -> torch.Tensor:
        """Random texts of 6 tokens between a start token and the end token, which is the largest id."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.zeros(count, 12, dtype=torch.long)
        ids[:, 0], ids[:, 7] = 62, 63
        ids[:, 1:7] = torch.randint(1, 62, (count, 6), generator=generator)
        return ids

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

"""Sizes of the zoo's models, and weights that hide nothing."""

from __future__ import annotations

import torch
from torch import nn

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT, EMBED = 32, 3, 2, 64, 12, 16

BLOCKS = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
TEXT = BLOCKS | {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
IMAGE = BLOCKS | {"image_size": 32, "patch_size": 16, "num_hidden_layers": 1}
BERT = TEXT | {"pad_token_id": 0}
# RoBERTa counts positions from its padding id + 1, so that its table holds two rows more than its context
ROBERTA = TEXT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": CONTEXT + 2}
ROBERTA |= {"type_vocab_size": 1, "layer_norm_eps": 1e-5}


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """Biases and norms are 0 and 1 at initialisation, which would hide an adapter that forgets them."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()

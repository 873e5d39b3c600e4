"""MedCLIP (Wang et al. 2022, arXiv 2210.10163; package ``medclip`` 0.0.3): the mean of three hidden states.

The embedding is a linear map of the mean over hidden states 1, 2 and the last, and over all tokens. That includes
padding, whose states are computed (as queries) though no token attends to them, so that a longer neighbour in a batch
changes a text's embedding. The original's ``encode_text`` moves its input to a GPU; this one does not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.replicas.images import Patches

MODULE = "medclip.modeling_medclip"


class MedCLIPTextModel(nn.Module):
    """A BERT and a linear head without bias (``proj_bias`` is False in every released model)."""

    def __init__(self, config: Any, proj_dim: int = 512, proj_bias: bool = False) -> None:
        from transformers import BertModel

        super().__init__()
        self.last_n_layer = 4  # kept by the original, and used by nothing
        self.model = BertModel(config)
        self.projection_head = nn.Linear(config.hidden_size, proj_dim, bias=proj_bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.model(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        tokens = torch.stack([states[layer].mean(dim=1) for layer in (1, 2, -1)])  # (3, B, hidden)
        return self.projection_head(tokens.mean(dim=0))


class MedCLIPModel(nn.Module):
    """Both towers and a temperature; embeddings leave it L2-normalised."""

    def __init__(self, config: Any, proj_dim: int = 512) -> None:
        super().__init__()
        self.vision_model = Patches(proj_dim)
        self.text_model = MedCLIPTextModel(config, proj_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return nn.functional.normalize(self.text_model(input_ids, attention_mask), dim=-1)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        return nn.functional.normalize(self.vision_model(pixel_values), dim=-1)


for _class in (MedCLIPTextModel, MedCLIPModel):
    _class.__module__ = MODULE

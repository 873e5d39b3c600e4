"""CXR-BERT of BioViL and BioViL-T (Boecking et al. 2022; Bannur et al. 2023; package ``hi-ml-multimodal`` 0.2.2).

A BERT for masked language modelling and a second head: [CLS] of the last layer -> linear -> GELU -> LayerNorm ->
linear, 128 numbers. The hub's own remote code of both models has the same names.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

MODULE = "health_multimodal.text.model.modelling_cxrbert"


class CXRBertConfig(BertConfig):
    """BERT's configuration and the width of the joint space."""

    model_type = "cxr-bert"

    def __init__(self, projection_size: int = 128, **options: Any) -> None:
        super().__init__(**options)
        self.projection_size = projection_size


class BertProjectionHead(nn.Module):
    """The head that maps [CLS] into the joint space."""

    def __init__(self, config: CXRBertConfig) -> None:
        super().__init__()
        size = config.projection_size
        self.dense_to_hidden = nn.Linear(config.hidden_size, size)
        self.transform_act_fn = nn.functional.gelu  # a function, not a module
        self.LayerNorm = nn.LayerNorm(size, eps=1e-12)
        self.dense_to_output = nn.Linear(size, size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden = self.transform_act_fn(self.dense_to_hidden(hidden_states))
        return self.dense_to_output(self.LayerNorm(hidden))


class CXRBertModel(BertForMaskedLM):
    """``bert``, ``cls`` and ``cls_projection_head``."""

    config_class = CXRBertConfig

    def __init__(self, config: CXRBertConfig) -> None:
        super().__init__(config)
        self.cls_projection_head = BertProjectionHead(config)
        self.post_init()

    def get_projected_text_embeddings(
        self, input_ids: Tensor, attention_mask: Tensor, normalize_embeddings: bool = True
    ) -> Tensor:
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        projected = self.cls_projection_head(states[:, 0])
        return nn.functional.normalize(projected, dim=1) if normalize_embeddings else projected


for _class in (BertProjectionHead, CXRBertModel):
    _class.__module__ = MODULE

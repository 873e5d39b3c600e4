"""GLoRIA (Huang et al. 2021, ICCV; repository marshuang80/gloria): the last layers summed, words summed from pieces.

The sentence embedding is the mean over words of the sum over the last ``last_n_layers`` hidden states, where a word is
the sum of its word pieces, words end with the first [SEP], and the mean divides by the padded length. Up to that
positive factor, which cosine similarity does not see, it is the sum of the states of all tokens from [CLS] to [SEP].
There is no projection: its 768 numbers are compared with the image embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.replicas.images import Patches

MODULE = "gloria.models"


class BertEncoder(nn.Module):
    """The text encoder, configured as the released checkpoint is: four layers, summed, word pieces joined."""

    def __init__(self, config: Any, idxtoword: dict[int, str], last_n_layers: int = 4) -> None:
        from transformers import BertModel

        super().__init__()
        self.model = BertModel(config)
        self.idxtoword = idxtoword
        self.last_n_layers, self.aggregate_method, self.agg_tokens = last_n_layers, "sum", True
        self.norm, self.embedding_dim = False, config.hidden_size
        self.emb_global, self.emb_local = None, None

    def aggregate_tokens(self, embeddings: Tensor, caption_ids: Tensor) -> tuple[Tensor, list[list[str]]]:
        """Word pieces summed to words up to [SEP], then zeros: [text, layer, piece, dim] both before and after."""
        joined = torch.zeros_like(embeddings)
        sentences = []
        for row, ids in enumerate(caption_ids.tolist()):
            words: list[str] = []
            for at, piece in enumerate(self.idxtoword[i] for i in ids):
                if words and piece.startswith("##"):
                    words[-1] += piece[2:]
                else:
                    words.append(piece)
                joined[row, :, len(words) - 1] += embeddings[row, :, at]
                if piece == "[SEP]":
                    break
            sentences.append(words + ["[PAD]"] * (len(ids) - len(words)))
        return joined, sentences

    def forward(self, ids: Tensor, attn_mask: Tensor, token_type: Tensor) -> tuple[Tensor, Tensor, list[list[str]]]:
        out = self.model(ids, attention_mask=attn_mask, token_type_ids=token_type, output_hidden_states=True)
        layers = torch.stack(out.hidden_states[-self.last_n_layers :], dim=1)  # (B, layers, T, dim)
        layers, sentences = self.aggregate_tokens(layers, ids)
        return layers.sum(dim=1).permute(0, 2, 1), layers.mean(dim=2).sum(dim=1), sentences


class GLoRIA(nn.Module):
    """Both encoders."""

    def __init__(self, config: Any, idxtoword: dict[int, str]) -> None:
        super().__init__()
        self.text_encoder = BertEncoder(config, idxtoword)
        self.img_encoder = Patches(config.hidden_size)
        self.temp3 = 10.0  # of the global loss

    def text_encoder_forward(
        self, caption_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor, list[list[str]]]:
        return self.text_encoder(caption_ids, attention_mask, token_type_ids)


BertEncoder.__module__ = f"{MODULE}.text_model"
GLoRIA.__module__ = f"{MODULE}.gloria_model"

"""CONCH (Lu et al. 2024, Nature Medicine; package ``conch``): a CoCa whose CLS token ends every text.

``encode_text`` drops the last of the ids it is given, which the tokenizer keeps free with a padding token, and appends
the learned CLS embedding at the last position. The text is read there, before the final norm. Only CLS is kept from
padding, and by a mask that lies one place too far right: CLS attends to the first padding token and, unless the text
fills its context, not to itself. (open_clip's CoCa has the same shift, for every row.)
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from zoo.replicas.images import Patches

MODULE = "conch.open_clip_custom"


class ResidualAttentionBlock(nn.Module):
    """Pre-norm, sequence first, with places for LayerScale that the released model leaves empty."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_head)
        self.ls_1 = nn.Identity()
        self.ln_2 = nn.LayerNorm(d_model)
        layers = [("c_fc", nn.Linear(d_model, 4 * d_model)), ("gelu", nn.GELU())]
        self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(4 * d_model, d_model))]))
        self.ls_2 = nn.Identity()

    def forward(self, q_x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(q_x)
        x = q_x + self.ls_1(self.attn(normed, normed, normed, need_weights=False, attn_mask=attn_mask)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.width, self.layers, self.heads = width, layers, heads
        self.resblocks = nn.ModuleList([ResidualAttentionBlock(width, heads) for _ in range(layers)])

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x


class TextTransformer(nn.Module):
    """The positional table has ``context_length`` rows, CLS among them (open_clip's has one more)."""

    def __init__(
        self,
        context_length: int,
        vocab_size: int,
        width: int,
        heads: int,
        layers: int,
        output_dim: int,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.num_pos = self.context_length = context_length
        self.heads, self.pad_id, self.output_tokens = heads, pad_id, True
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, output_dim))
        self.cls_emb = nn.Parameter(0.01 * torch.randn(width))
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.transformer = Transformer(width, layers, heads)
        self.ln_final = nn.LayerNorm(width)
        mask = torch.full((context_length, context_length), -torch.inf).triu(1)
        self.register_buffer("attn_mask", mask, persistent=False)

    def build_cls_mask(self, text: Tensor) -> Tensor:
        """0 or -inf [text * head, length + 1, length + 1]: only the last row, CLS, is masked, one place shifted."""
        length = text.shape[1]
        visible = torch.ones(len(text), length + 1, length + 1, dtype=torch.bool)
        visible[:, -1, 1:] = text != self.pad_id
        return torch.zeros(visible.shape).masked_fill(~visible, -torch.inf).repeat_interleave(self.heads, 0)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([self.token_embedding(text), self.cls_emb.expand(len(text), 1, -1)], dim=1)
        length = x.shape[1]
        mask = self.attn_mask[None, :length, :length] + self.build_cls_mask(text)
        x = (x + self.positional_embedding[:length]).permute(1, 0, 2)
        x = self.transformer(x, attn_mask=mask).permute(1, 0, 2)
        return self.ln_final(x[:, -1]) @ self.text_projection, x[:, :-1]


class CoCa(nn.Module):
    """Both towers; the captioning decoder is not part of the released weights' text reading and is left out."""

    def __init__(
        self, embed_dim: int, context_length: int, vocab_size: int, width: int, heads: int, layers: int
    ) -> None:
        super().__init__()
        self.text = TextTransformer(context_length, vocab_size, width, heads, layers, embed_dim)
        self.visual = Patches(embed_dim)
        self.text_decoder = None
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.pad_id, self.context_length, self.embed_dim = 0, context_length, embed_dim

    def encode_text(self, text: Tensor, normalize: bool = True, embed_cls: bool = True) -> Tensor:
        latent = self.text(text[:, :-1] if embed_cls else text)[0]
        return nn.functional.normalize(latent, dim=-1) if normalize else latent

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        latent = self.visual(images)
        return nn.functional.normalize(latent, dim=-1) if normalize else latent


for _class in (ResidualAttentionBlock, Transformer, TextTransformer):
    _class.__module__ = f"{MODULE}.transformer"
CoCa.__module__ = f"{MODULE}.coca_model"

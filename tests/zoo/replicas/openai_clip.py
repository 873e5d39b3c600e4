"""OpenAI's ``clip`` (Radford et al. 2021, arXiv 2103.00020), which CheXzero (Tiu et al. 2022) copies.

The same weight names. States run sequence first; QuickGELU throughout. CheXzero's checkpoints are plain state dicts
of this class.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

MODULE = "clip.model"


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class LayerNorm(nn.LayerNorm):
    """In single precision, returned in that of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class ResidualAttentionBlock(nn.Module):
    """A pre-norm block that owns its attention mask."""

    def __init__(self, d_model: int, n_head: int, attn_mask: Tensor | None = None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(d_model, n_head)
        self.ln_1 = LayerNorm(d_model)
        layers = [("c_fc", nn.Linear(d_model, 4 * d_model)), ("gelu", QuickGELU())]
        self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(4 * d_model, d_model))]))
        self.ln_2 = LayerNorm(d_model)
        self.attn_mask = attn_mask

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        mask = None if self.attn_mask is None else self.attn_mask.to(x.dtype)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, attn_mask: Tensor | None = None) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(width, heads, attn_mask) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, input_resolution: int, patch_size: int, width: int, layers: int, output_dim: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((input_resolution // patch_size) ** 2 + 1, width))
        self.ln_pre, self.ln_post = LayerNorm(width), LayerNorm(width)
        self.transformer = Transformer(width, layers, width // 64)
        self.proj = nn.Parameter(torch.randn(width, output_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).permute(0, 2, 1)  # (B, patches, width)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding.to(patches.dtype))
        return self.ln_post(self.transformer(x.permute(1, 0, 2))[0]) @ self.proj


class CLIP(nn.Module):
    """The text tower sits at the root."""

    def __init__(
        self,
        embed_dim: int,
        image_resolution: int,
        vision_layers: int,
        vision_width: int,
        vision_patch_size: int,
        context_length: int,
        vocab_size: int,
        transformer_width: int,
        transformer_heads: int,
        transformer_layers: int,
    ) -> None:
        super().__init__()
        self.context_length, self.vocab_size = context_length, vocab_size
        self.visual = VisionTransformer(image_resolution, vision_patch_size, vision_width, vision_layers, embed_dim)
        mask = torch.full((context_length, context_length), -torch.inf).triu(1)
        self.transformer = Transformer(transformer_width, transformer_layers, transformer_heads, mask)
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, transformer_width))
        self.ln_final = LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(transformer_width**-0.5 * torch.randn(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image.to(self.dtype))

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_text(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text).to(self.dtype) + self.positional_embedding.to(self.dtype)
        x = self.ln_final(self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2))
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection


def convert_weights(model: nn.Module) -> None:
    """Linear, convolution, attention and projection weights in half precision: what ``clip.load`` does on a GPU."""
    for layer in model.modules():
        names = ["weight", "bias"] if isinstance(layer, (nn.Linear, nn.Conv2d)) else []
        names += ["in_proj_weight", "in_proj_bias"] if isinstance(layer, nn.MultiheadAttention) else []
        for name in [*names, "text_projection", "proj"]:
            parameter = getattr(layer, name, None)
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.half()


for _class in (QuickGELU, LayerNorm, ResidualAttentionBlock, Transformer, VisionTransformer, CLIP):
    _class.__module__ = MODULE

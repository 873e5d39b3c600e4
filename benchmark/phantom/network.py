"""The miniature's network: the part of open_clip's ``CLIP`` that it needs, with the same names of weights.

Loading it does not import open_clip, which takes longer than all the rest. A test compares the two.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class MiniatureCLIP(nn.Module):
    """A causal text transformer, read at the largest id, and a ResNet. Random weights until a state is loaded.

    image_size: pixels per side. width: channels of the ResNet's first stage; each stage has one block.
    """

    attn_mask: Float[Tensor, "context context"]

    def __init__(
        self,
        embed: int,
        *,
        image_size: int,
        width: int,
        context: int,
        vocab: int,
        d_model: int,
        heads: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.context_length, self.vocab_size, self.text_pool_type = context, vocab, "argmax"
        self.visual = MiniatureResNet(image_size, width, embed)
        self.token_embedding = nn.Embedding(vocab, d_model)
        self.positional_embedding = nn.Parameter(torch.zeros(context, d_model))
        self.transformer = Transformer(d_model, heads, layers)
        self.ln_final = nn.LayerNorm(d_model)
        self.text_projection = nn.Parameter(torch.zeros(d_model, embed))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("attn_mask", torch.full((context, context), -torch.inf).triu(1), persistent=False)

    def encode_text(self, text: Int[Tensor, "n context"]) -> Float[Tensor, "n embed"]:
        """Embeddings (not normalised) of ids that are padded to the context."""
        x = self.token_embedding(text) + self.positional_embedding
        x = self.ln_final(self.transformer(x, self.attn_mask))
        return x[torch.arange(len(x), device=x.device), text.argmax(dim=-1)] @ self.text_projection

    def encode_image(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n embed"]:
        """Embeddings (not normalised) of pixels as :class:`.miniature.Preprocess` makes them."""
        return self.visual(image)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised embeddings of images and texts, and the logit scale."""
        embeddings = self.encode_image(image), self.encode_text(text)
        return F.normalize(embeddings[0], dim=-1), F.normalize(embeddings[1], dim=-1), self.logit_scale.exp()


class Transformer(nn.Module):
    """The blocks, one after another."""

    def __init__(self, d_model: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(d_model, heads) for _ in range(layers))

    def forward(self, x: Float[Tensor, "n pos d"], attn_mask: Float[Tensor, "pos pos"]) -> Float[Tensor, "n pos d"]:
        for block in self.resblocks:
            x = block(x, attn_mask)
        return x


class ResidualAttentionBlock(nn.Module):
    """x + attention(ln_1 x), then + mlp(ln_2 ·), with GELU."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, heads, batch_first=True)
        up, down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        self.mlp = nn.Sequential(OrderedDict([("c_fc", up), ("gelu", nn.GELU()), ("c_proj", down)]))

    def forward(self, x: Float[Tensor, "n pos d"], attn_mask: Float[Tensor, "pos pos"]) -> Float[Tensor, "n pos d"]:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=attn_mask.to(x.dtype))[0]
        return x + self.mlp(self.ln_2(x))


class MiniatureResNet(nn.Module):
    """A stem of three convolutions, four stages of one bottleneck each, and attention pooling; 1/32 of the size."""

    def __init__(self, image_size: int, width: int, embed: int) -> None:
        super().__init__()
        self.image_size = image_size
        sizes = (3, width // 2, width // 2, width)
        for number, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
            stride = 2 if number == 1 else 1
            self.add_module(f"conv{number}", nn.Conv2d(before, after, 3, stride, padding=1, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(after))
            self.add_module(f"act{number}", nn.ReLU())
        self.avgpool = nn.AvgPool2d(2)
        before = width
        for number in range(1, 5):
            stage = width * 2 ** (number - 1)
            self.add_module(f"layer{number}", nn.Sequential(Bottleneck(before, stage, 1 if number == 1 else 2)))
            before = 4 * stage
        self.attnpool = AttentionPool(image_size // 32, before, heads=width, embed=embed)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n embed"]:
        for layer in self.children():
            x = layer(x)
        return x


class Bottleneck(nn.Module):
    """Convolutions 1 x 1, 3 x 3 and 1 x 1 beside a shortcut; both shrink the map by averaging, by ``stride``."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride)
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.avgpool = pool
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        shortcut = [("-1", pool), ("0", nn.Conv2d(before, 4 * width, 1, bias=False)), ("1", nn.BatchNorm2d(4 * width))]
        self.downsample = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(self.avgpool(y))) + self.downsample(x))


class AttentionPool(nn.Module):
    """The mean of all places attends to itself and to them."""

    def __init__(self, side: int, d: int, heads: int, embed: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(side**2 + 1, d))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, d) for _ in range(3))
        self.c_proj, self.num_heads = nn.Linear(d, embed), heads

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n embed"]:
        places = x.flatten(2).mT  # (n, place, d)
        x = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding
        q, k, v = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x))
        )
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))

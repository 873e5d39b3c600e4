"""A tiny image tower, which stands where a replica's original has a large one."""

from __future__ import annotations

from torch import Tensor, nn


class Patches(nn.Module):
    """The mean of linear patch embeddings: [image, 3, height, width] -> [image, embed]."""

    def __init__(self, embed_dim: int, patch_size: int = 16) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.patch_embed(pixels).flatten(2).mean(-1)

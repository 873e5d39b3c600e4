"""open_clip's VisionTransformer as an image tower (its ResNet and timm's transformers: the files beside this one)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.image_tower import ImageTower, PatchEmbedding, PatchMean
from ..towers.layers import Project
from .base import ImageReading
from .vision_resnet import build_resnet
from .vision_timm import build_timm
from .weights import fixed_grid, layer_norm, opaque, plain
from .wrappers import kinds, unwrapped


def build_image_tower(source: Any, grid: int | None) -> ImageReading:
    """The tower of ``source.visual``.

    Raises:
        UnsupportedTowerError: an image encoder of another kind, or a variant that is not read; says which.
        SiteError: the encoder has no such grid.
    """
    found = kinds(source.visual)
    if found & {"open_clip.ModifiedResNet", "tracescribe.MiniatureResNet"}:
        return build_resnet(source.visual, grid)
    if "open_clip.TimmModel" in found:
        return build_timm(source.visual, grid)
    if "open_clip.VisionTransformer" in found:
        return _build_transformer(source.visual, grid)
    raise UnsupportedTowerError(
        f"the image encoder is a {type(source.visual).__name__}; read here are open_clip's VisionTransformer and "
        f"ModifiedResNet, and timm's plain VisionTransformer"
    )


def _build_transformer(visual: Any, grid: int | None) -> ImageReading:
    from .open_clip import open_clip_block  # here: that module hands this one's function to its adapter

    block = type(unwrapped(visual.transformer.resblocks[0])).__name__
    if block != "ResidualAttentionBlock":
        raise UnsupportedTowerError(f"open_clip image blocks of type {block} are not supported yet")
    ln_final, head = _readout(visual)
    tower = ImageTower(
        embedding=PatchEmbedding(
            plain(visual.conv1),  # type: ignore[arg-type]
            visual.positional_embedding,
            first=[visual.class_embedding],
            norm=None if isinstance(visual.ln_pre, nn.Identity) else layer_norm(visual.ln_pre),
        ),
        image_size=tuple(visual.image_size),
        cell=tuple(visual.patch_size),
        first=("class",),
        blocks=[open_clip_block(layer) for layer in visual.transformer.resblocks],
        ln_final=ln_final,
        head=head,
        projection=None if visual.proj is None else Project(visual.proj),
    )
    fixed_grid(tower, grid)
    return ImageReading(
        tower,
        lambda one: [
            (one.visual.transformer, True),
            *((layer, False) for layer in one.visual.transformer.resblocks),
        ],
    )


def _readout(visual: Any) -> tuple[nn.Module | None, nn.Module | None]:
    """The norm before pooling, and the module that pools, or None where the class token alone is read."""
    if visual.attn_pool is not None:
        if visual.attn_pool_contrastive is not None or visual.pool_type != "tok":
            raise UnsupportedTowerError(
                f"this image encoder's attentional pooling (type {visual.attn_pool_type or 'plain'!r}, then "
                f"{visual.pool_type!r}) gives a sequence and not one embedding"
            )
        return None, AttentionalReadout(opaque(visual.attn_pool), layer_norm(visual.ln_post))
    if visual.pool_type == "tok":  # a norm acts on each position by itself: before or after the choice is the same
        return layer_norm(visual.ln_post), None
    if visual.pool_type == "avg":
        norm = layer_norm(visual.ln_post)
        return (None, PatchMean(1, norm)) if visual.final_ln_after_pool else (norm, PatchMean(1))
    raise UnsupportedTowerError(f"image pooling {visual.pool_type!r} gives a sequence and not one embedding")


class AttentionalReadout(nn.Module):
    """CoCa's: learned queries attend to all positions, and the first of them is read."""

    def __init__(self, pool: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.pool, self.norm = pool, norm

    def forward(self, x: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch embed"]:
        first: torch.Tensor = self.pool(x)[:, 0]
        return self.norm(first)

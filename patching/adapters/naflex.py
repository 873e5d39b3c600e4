"""SigLIP 2's input of images: a row per patch, its pixels as [row, column, channel]; made of pixels, and back."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UnsupportedTowerError

__all__ = ["is_patches", "to_patches", "to_pixels"]


def to_patches(pixels: Float[Tensor, "n 3 h w"], size: int) -> dict[str, Tensor]:
    """The arguments of ``Siglip2Model.get_image_features`` for images of one shape.

    Raises:
        UnsupportedTowerError: they are no grid of patches of ``size`` pixels.
    """
    rows, columns = pixels.shape[-2] // size, pixels.shape[-1] // size
    if pixels.shape[-2:] != (rows * size, columns * size):
        raise UnsupportedTowerError(
            f"images of {pixels.shape[-2]} x {pixels.shape[-1]} pixels are no grid of patches of {size}: resize them"
        )
    grid = pixels.unflatten(3, (columns, size)).unflatten(2, (rows, size))  # (n, channel, row, y, column, x)
    shapes = pixels.new_tensor([[rows, columns]]).long().expand(len(pixels), 2)
    return {
        "pixel_values": grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2),
        "pixel_attention_mask": shapes.new_ones(len(pixels), rows * columns),
        "spatial_shapes": shapes,
    }


def is_patches(processed: Mapping[str, Any]) -> bool:
    """Whether an image processor's result is of patches and not of pixels."""
    return "spatial_shapes" in processed and "pixel_values" in processed


def to_pixels(processed: Mapping[str, Any]) -> Float[Tensor, "3 h w"]:
    """The first image of what ``Siglip2ImageProcessor`` returns, without the rows that pad it.

    >>> image = torch.arange(3 * 4 * 6.0).reshape(1, 3, 4, 6)
    >>> torch.equal(to_pixels(to_patches(image, 2)), image[0])
    True
    """
    values = torch.as_tensor(processed["pixel_values"])[0]
    rows, columns = map(int, torch.as_tensor(processed["spatial_shapes"])[0])
    size = isqrt(values.shape[-1] // 3)
    grid = values[: rows * columns].reshape(rows, columns, size, size, 3)
    return grid.permute(4, 0, 2, 1, 3).reshape(3, rows * size, columns * size)

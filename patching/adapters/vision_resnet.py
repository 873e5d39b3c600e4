"""open_clip's ModifiedResNet: each stage runs as one module, and is patched on one grid of positions.

A stage's state is a feature map [channel, height, width], smaller from stage to stage. A position is one cell of a grid
of G x G: at each stage, all channels at the (height / G) x (width / G) places that lie in the cell. So replacing a
position is the same part of the image at each stage, and replacing all of them is the whole state. Layer 0 is the stem,
layers 1 to 4 are the residual stages; attention pooling is the readout. A place's receptive field is larger than its
cell: an image's states also differ a little around the pixels that differ.

The last stage sets the tower's own grid (7 x 7 at 224 pixels). A finer one, ``image_tower(grid=)``, has only the stages
that are at least as fine; the later ones belong to its readout.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import SiteError, UnsupportedTowerError
from ..towers.block import OpaqueBlock
from ..towers.image_tower import ImageTower, fold, unfold
from .base import ImageReading
from .weights import opaque

_STEM = ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3", "act3", "avgpool")
_STRIDES = (4, 4, 8, 16, 32)  # pixels a place, of the stem and of the four stages


class Stem(nn.Module):
    """Layer 0: the stem's feature map, in cells."""

    def __init__(self, layers: nn.Module, grid: tuple[int, int], d_model: int) -> None:
        super().__init__()
        self.layers, self.grid, self.d_model = layers, grid, d_model
        self.convolution: Any = layers.get_submodule("0")

    @property
    def dtype(self) -> torch.dtype:
        return self.convolution.weight.dtype

    def forward(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch cell d"]:
        return fold(self.layers(pixels), self.grid)


class Readout(nn.Module):
    """The stages that are coarser than the grid, and attention pooling."""

    def __init__(self, layers: nn.Module, grid: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.layers, self.grid, self.size = layers, grid, size

    def forward(self, x: Float[Tensor, "batch cell d"]) -> Float[Tensor, "batch embed"]:
        return self.layers(unfold(x, self.grid, self.size))


def build_resnet(visual: Any, grid: int | None) -> ImageReading:
    """The tower of a ModifiedResNet.

    Raises:
        SiteError: no stage has such a grid.
        UnsupportedTowerError: an image size that the stages do not divide, or peft adapters inside.
    """
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    if side % 32:
        raise UnsupportedTowerError(f"a ResNet over images of {side} pixels: its stages divide multiples of 32 only")
    known = [side // stride for stride in _STRIDES[1:]]
    if grid is not None and grid not in known:
        raise SiteError(f"this ResNet has no stage on a grid of {grid}: choose grid= one of {known}")
    cells = grid or known[-1]
    n_stages = max(number for number, n in enumerate(known, start=1) if n >= cells)
    places = [(side // stride // cells,) * 2 for stride in _STRIDES]  # of a cell, by layer; 0 in coarser stages
    shape = (cells, cells)

    def stage(number: int) -> OpaqueBlock:
        size = places[number - 1]
        return OpaqueBlock(
            opaque(getattr(visual, f"layer{number}")),
            lambda layers, x, mask: fold(layers(unfold(x, shape, size)), shape),
        )

    later = [opaque(getattr(visual, f"layer{number}")) for number in range(n_stages + 1, 5)]
    tower = ImageTower(
        embedding=Stem(
            nn.Sequential(*(opaque(getattr(visual, name)) for name in _STEM)),
            shape,
            d_model=visual.conv3.out_channels * places[0][0] * places[0][1],
        ),
        image_size=(side, side),
        cell=(side // cells,) * 2,
        blocks=[stage(number) for number in range(1, n_stages + 1)],
        ln_final=None,
        head=Readout(nn.Sequential(*later, opaque(visual.attnpool)), shape, places[n_stages]),
        projection=None,
    )
    return ImageReading(
        tower,
        lambda one: [
            (one.visual.avgpool, False),
            *((getattr(one.visual, f"layer{number}"), False) for number in range(1, n_stages + 1)),
        ],
    )

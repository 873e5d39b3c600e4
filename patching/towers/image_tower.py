"""The image tower: pixels in, embeddings out; positions are a class token, if there is one, and patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import DataFormatError
from ..torch_state import neutral_state
from .block import Block, OpaqueBlock
from .layers import hold
from .spec import TowerSpec
from .tower import Tower, normalise


class PatchEmbedding(nn.Module):
    """Layer 0 of a vision transformer: patches by one convolution, tokens before them, positions, a norm.

    first: the tokens that stand before the patches (class, registers), of any shape [..., d_model]. positions: of all
        of these and the patches, or of the patches only.
    """

    weight: Tensor
    bias: Tensor | None
    positions: Tensor | None

    def __init__(
        self,
        convolution: nn.Conv2d,
        positions: Float[Tensor, "*one pos d_model"] | None,
        *,
        first: Sequence[Tensor] = (),
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        hold(self, "weight", convolution.weight)
        hold(self, "bias", convolution.bias)
        hold(self, "positions", positions)
        for number, token in enumerate(first):
            hold(self, f"first_{number}", token)
        self.n_first = len(first)
        self.norm, self.patch = norm, (convolution.kernel_size[0], convolution.kernel_size[1])

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def d_model(self) -> int:
        return self.weight.shape[0]

    def forward(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch pos d_model"]:
        x = F.conv2d(pixels, self.weight, self.bias, stride=self.patch).flatten(2).transpose(1, 2)
        everywhere = self.positions is not None and self.positions.shape[-2] > x.shape[1]
        if self.positions is not None and not everywhere:
            x = x + self.positions.to(x.dtype)
        first = [getattr(self, f"first_{number}").to(x.dtype) for number in range(self.n_first)]
        if first:
            rows = [token.reshape(1, -1, token.shape[-1]).expand(len(x), -1, -1) for token in first]
            x = torch.cat([*rows, x], dim=1)
        if self.positions is not None and everywhere:
            x = x + self.positions.to(x.dtype)
        return x if self.norm is None else self.norm(x)


class PatchMean(nn.Module):
    """The mean over the patches, without the first tokens, and a norm after it where there is one."""

    def __init__(self, n_first: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.n_first, self.norm = n_first, norm

    def forward(self, x: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch d"]:
        mean = x[:, self.n_first :].mean(dim=1)
        return mean if self.norm is None else self.norm(mean)


class ImageTower(Tower):
    """A CLIP-family image encoder with named hook points, over the source model's own parameters.

    Shapes: pixels ``[batch, 3, height, width]`` as the model's own preprocessing makes them, hidden states
    ``[batch, pos, d_model]``, embeddings ``[batch, embed]``. Positions are the tokens in ``first`` and then the cells
    of ``grid``, row by row. A ResNet's stages are its layers, all seen on one grid (:mod:`.adapters.vision_resnet`).

    >>> import tracescribe as ts
    >>> vision = ts.load("phantom").vision
    >>> vision.grid, vision.n_layers, vision.position_names
    ((2, 2), 4, ('patch 0,0', 'patch 0,1', 'patch 1,0', 'patch 1,1'))
    """

    def __init__(
        self,
        *,
        embedding: nn.Module,
        image_size: tuple[int, int],
        cell: tuple[int, int],
        blocks: Sequence[Block | OpaqueBlock],
        ln_final: nn.Module | None,
        projection: nn.Module | None,
        first: Sequence[str] = (),
        head: nn.Module | None = None,
    ) -> None:
        grid = (image_size[0] // cell[0], image_size[1] // cell[1])
        spec = TowerSpec(
            causal=False,
            pooling="first" if head is None else "head",
            padding="attend",
            context_length=len(first) + grid[0] * grid[1],
        )
        super().__init__(spec=spec, blocks=blocks, ln_final=ln_final, projection=projection, head=head)
        self.image_size, self.cell, self.grid, self.first = image_size, cell, grid, tuple(first)
        self.embedding = embedding
        self.eval()

    @property
    def d_model(self) -> int:
        """Width of layer 0; a ResNet's later stages are wider."""
        return int(self.embedding.d_model)  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype  # type: ignore[return-value]

    @property
    def context_length(self) -> int:
        """Number of positions, which every image has."""
        return self.spec.context_length

    @property
    def position_names(self) -> tuple[str, ...]:
        """What each position is: ``class``, then ``patch row,column``."""
        rows, columns = self.grid
        return (*self.first, *(f"patch {r},{c}" for r in range(rows) for c in range(columns)))

    def encode(
        self, images: Sequence[Float[Tensor, "3 h w"]] | Float[Tensor, "batch 3 h w"], batch_size: int = 64
    ) -> Float[Tensor, "batch embed"]:
        """L2-normalised embeddings of pixels as the model's preprocessing makes them.

        Raises:
            DataFormatError: pixels of another shape than the tower's.
            StaleTowerError: the source model has changed since; ``model.vision`` follows it.
        """
        self.check_source()
        rows = list(images)
        for image in rows:
            self.shape_of(image)
        with neutral_state(self):
            out = [normalise(self(self.collate(rows[at : at + batch_size]))) for at in range(0, len(rows), batch_size)]
            return torch.cat(out) if out else torch.empty(0, 0)

    def as_positions(self, state: Tensor) -> Float[Tensor, "batch pos d"]:
        """A state of the source model in this tower's positions: a feature map [batch, channel, h, w] is folded."""
        return state if state.ndim == 3 else fold(state, self.grid)

    # what a tower has to know of its inputs ---------------------------------------------------------------------------

    def collate(self, items: Sequence[Float[Tensor, "3 h w"]]) -> Float[Tensor, "batch 3 h w"]:
        return torch.stack(list(items)).to(self.device, self.dtype)

    def shape_of(self, item: Float[Tensor, "3 h w"]) -> tuple[int, int | None]:
        if tuple(item.shape) != (3, *self.image_size):
            raise DataFormatError(
                f"pixels of shape {list(item.shape)} cannot be read: this image tower takes "
                f"[3, {self.image_size[0]}, {self.image_size[1]}]; use the model's own preprocessing"
            )
        return self.context_length, 0 if self.spec.reads_one else None

    def embed(
        self, inputs: Float[Tensor, "batch 3 h w"], places: Tensor | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        assert places is None  # image towers are not movable
        return self.embedding(inputs)

    def pooled_positions(self, inputs: Float[Tensor, "batch 3 h w"]) -> Int[Tensor, " batch"] | None:
        return torch.zeros(len(inputs), dtype=torch.long, device=inputs.device) if self.spec.reads_one else None


def fold(state: Float[Tensor, "batch channel h w"], grid: tuple[int, int]) -> Float[Tensor, "batch cell d"]:
    """A feature map as one vector a cell of ``grid``: all channels at all places of the cell.

    >>> state = torch.arange(16.0).view(1, 1, 4, 4)
    >>> fold(state, (2, 2))[0, 1].tolist()  # the upper right quarter
    [2.0, 3.0, 6.0, 7.0]
    >>> torch.equal(unfold(fold(state, (2, 2)), (2, 2), (2, 2)), state)
    True
    """
    cells = state.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1))  # (n, channel, row, y, column, x)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unfold(
    x: Float[Tensor, "batch cell d"], grid: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "batch channel h w"]:
    """The feature map that :func:`fold` made into cells of ``size`` places."""
    cells = x.unflatten(1, grid).unflatten(3, (-1, *size))  # (n, row, column, channel, y, x)
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

"""timm's plain VisionTransformer inside open_clip: the image encoder of BiomedCLIP and of open_clip's SigLIP models."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.block import MLP, Attention, Block
from ..towers.image_tower import ImageTower, PatchEmbedding, PatchMean
from ..towers.layers import FusedQKV, Linear, Scale
from .base import ImageReading
from .weights import fixed_grid, layer_norm, linear, opaque, plain, stateless
from .wrappers import kinds


def build_timm(visual: Any, grid: int | None) -> ImageReading:
    """The tower of a TimmModel whose trunk is timm's VisionTransformer with its standard blocks.

    Raises:
        UnsupportedTowerError: another trunk, or parts of it that are not read; says which.
        SiteError: the encoder has no such grid.
    """
    trunk = visual.trunk
    if type(trunk).__name__ != "VisionTransformer" or "timm.VisionTransformer" not in kinds(trunk):
        raise UnsupportedTowerError(
            f"the image encoder is timm's {type(trunk).__name__}; of timm's models only the plain VisionTransformer is "
            f"read (the text tower works all the same)"
        )
    if trunk.dynamic_img_size or type(trunk.patch_embed).__name__ != "PatchEmbed" or _norm(trunk.patch_embed.norm):
        raise UnsupportedTowerError(
            "this timm vision transformer takes images of any size, or embeds its patches by more than one convolution"
        )
    n_first = trunk.num_prefix_tokens
    if trunk.attn_pool is not None:
        head: nn.Module | None = LatentReadout(0 if trunk.pool_include_prefix else n_first, opaque(trunk.attn_pool))
    elif trunk.global_pool == "token":
        head = None
    elif trunk.global_pool == "avg" and not trunk.pool_include_prefix:
        head = PatchMean(n_first)
    else:
        raise UnsupportedTowerError(f"timm's pooling {trunk.global_pool!r} is not read, only 'token', 'avg' and 'map'")
    registers = tuple(f"register {number}" for number in range(1, trunk.num_reg_tokens + 1))
    tower = ImageTower(
        embedding=PatchEmbedding(
            plain(trunk.patch_embed.proj),  # type: ignore[arg-type]
            trunk.pos_embed,
            first=[token for token in (trunk.cls_token, trunk.reg_token) if token is not None],
            norm=_norm(trunk.norm_pre),
        ),
        image_size=tuple(trunk.patch_embed.img_size),
        cell=tuple(trunk.patch_embed.patch_size),
        first=("class",) * trunk.has_class_token + registers,
        blocks=[_block(block) for block in trunk.blocks],
        ln_final=_norm(trunk.norm),
        head=head,
        projection=nn.Sequential(*(opaque(part) for part in (trunk.fc_norm, trunk.head, visual.head))),
    )
    fixed_grid(tower, grid)
    return ImageReading(
        tower,
        lambda one: [
            (one.visual.trunk.norm_pre, False),
            *((block, False) for block in one.visual.trunk.blocks),
        ],
    )


def _norm(layer: nn.Module) -> nn.Module | None:
    return None if isinstance(layer, nn.Identity) else layer_norm(layer)


def _block(block: Any) -> Block:
    attention, mlp = block.attn, block.mlp
    found = (type(block).__name__, type(attention).__name__, type(mlp).__name__)
    norms = (
        [attention.q_norm, attention.k_norm, attention.norm, mlp.norm] if found == ("Block", "Attention", "Mlp") else []
    )
    if not norms or any(not isinstance(norm, nn.Identity) for norm in norms) or attention.gate is not None:
        raise UnsupportedTowerError(
            f"timm's image blocks are {', '.join(found)}, with norms or gates inside; only the plain Block, Attention "
            f"and Mlp are read"
        )
    qkv: Linear = linear(attention.qkv)
    return Block(
        ln_1=layer_norm(block.norm1),
        attn=Attention(FusedQKV(qkv.weight, qkv.bias), linear(attention.proj), attention.num_heads),
        ln_2=layer_norm(block.norm2),
        mlp=MLP(linear(mlp.fc1), stateless(mlp.act), linear(mlp.fc2)),
        scale_attn=_scale(block.ls1),
        scale_mlp=_scale(block.ls2),
    )


def _scale(layer: Any) -> Scale | None:
    return Scale(layer.gamma) if hasattr(layer, "gamma") else None


class LatentReadout(nn.Module):
    """timm's attention pooling (SigLIP), of all positions or of the patches only."""

    def __init__(self, n_first: int, pool: nn.Module) -> None:
        super().__init__()
        self.n_first, self.pool = n_first, pool

    def forward(self, x: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch d"]:
        return self.pool(x[:, self.n_first :])

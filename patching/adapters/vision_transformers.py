"""The image encoders of transformers' dual encoders: CLIP's vision transformer and SigLIP's."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedTowerError
from ..towers.image_tower import ImageTower, PatchEmbedding
from .base import ImageReading
from .clip_text import clip_block
from .weights import fixed_grid, layer_norm, linear, opaque, plain, table
from .wrappers import kinds


def clip_image_tower(source: Any, grid: int | None) -> ImageReading:
    """The vision half of CLIP, CLIPSeg and ChineseCLIP, and of a VisionTextDualEncoder that holds CLIP's."""
    vision: Any = getattr(source, "vision_model", None)
    if not hasattr(vision, "pre_layrnorm"):
        found = "no image encoder" if vision is None else f"a {type(vision).__name__}"
        raise UnsupportedTowerError(
            f"this {type(source).__name__} holds {found}; only CLIP's own vision transformer is read here"
        )
    embeddings = vision.embeddings
    tower = ImageTower(
        embedding=PatchEmbedding(
            plain(embeddings.patch_embedding),  # type: ignore[arg-type]
            table(embeddings.position_embedding),
            first=[embeddings.class_embedding],
            norm=layer_norm(vision.pre_layrnorm),
        ),
        image_size=(embeddings.image_size, embeddings.image_size),
        cell=(embeddings.patch_size, embeddings.patch_size),
        first=("class",),
        blocks=[clip_block(layer) for layer in vision.encoder.layers],
        ln_final=layer_norm(vision.post_layernorm),
        projection=linear(source.visual_projection),
    )
    fixed_grid(tower, grid)
    return ImageReading(
        tower,
        lambda one: [
            (one.vision_model.pre_layrnorm, False),
            *((layer, False) for layer in one.vision_model.encoder.layers),
        ],
    )


def siglip_image_tower(source: Any, grid: int | None) -> ImageReading:
    vision = source.vision_model
    embeddings = vision.embeddings
    if "transformers.Siglip2Model" in kinds(source):
        raise UnsupportedTowerError(
            "SigLIP 2's image encoder in transformers takes patches with their mask and shape, not pixels, so that "
            "positions differ from image to image: load the fixed-resolution checkpoint as a SiglipModel"
        )
    if not vision.use_head:
        raise UnsupportedTowerError("this SigLIP image encoder has no pooling head (vision_use_head), so no embedding")
    tower = ImageTower(
        embedding=PatchEmbedding(plain(embeddings.patch_embedding), table(embeddings.position_embedding)),  # type: ignore[arg-type]
        image_size=(embeddings.image_size, embeddings.image_size),
        cell=(embeddings.patch_size, embeddings.patch_size),
        blocks=[clip_block(layer) for layer in vision.encoder.layers],
        ln_final=layer_norm(vision.post_layernorm),
        head=opaque(vision.head),
        projection=None,
    )
    fixed_grid(tower, grid)
    return ImageReading(
        tower,
        lambda one: [
            (one.vision_model.embeddings, False),
            *((layer, False) for layer in one.vision_model.encoder.layers),
        ],
    )

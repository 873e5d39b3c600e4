"""transformers' SigLIP and SigLIP 2 (MedSigLIP is one): bidirectional, padding attended to, read at the last place."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedTowerError
from ..image_tower import ImageReading, ImageTower, PatchEmbedding
from ..layers import TokenEmbedding
from ..text_tower import TextTower
from ..tokens import adapt_tokenizer
from ..tower import TowerSpec
from .registry import Adapter
from .transformers_clip import CLIP_LINEARS, clip_block, features
from .weights import fixed_grid, kinds, layer_norm, linear, plain, whole


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text_model
    context = text.config.max_position_embeddings
    return TextTower(
        spec=TowerSpec(causal=False, pooling="last", padding="attend", context_length=context),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=TokenEmbedding(text.embeddings.token_embedding.weight, text.embeddings.position_embedding.weight),
        blocks=[clip_block(layer) for layer in text.encoder.layers],
        ln_final=layer_norm(text.final_layer_norm),
        projection=linear(text.head),
    )


def _build_image_tower(source: Any, grid: int | None) -> ImageReading:
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
        embedding=PatchEmbedding(plain(embeddings.patch_embedding), embeddings.position_embedding.weight),  # type: ignore[arg-type]
        image_size=(embeddings.image_size, embeddings.image_size),
        cell=(embeddings.patch_size, embeddings.patch_size),
        blocks=[clip_block(layer) for layer in vision.encoder.layers],
        ln_final=layer_norm(vision.post_layernorm),
        head=whole(vision.head),
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


ADAPTER = Adapter(
    name="transformers_siglip",
    matches=lambda source: bool(kinds(source) & {"transformers.SiglipModel", "transformers.Siglip2Model"}),
    build_tower=_build_tower,
    blocks=lambda source: list(source.text_model.encoder.layers),
    block_linears=lambda source: CLIP_LINEARS,
    block_prefix=lambda source: "text_model.encoder.layers",
    embedding_stage=lambda source: (source.text_model.embeddings, False),
    encode_text=lambda source, ids: features(source.get_text_features(input_ids=ids)),
    encode_image=lambda source, pixels: features(source.get_image_features(pixel_values=pixels)),
    logit_scale=lambda source: float(source.logit_scale.detach().exp().mean()),
    build_image_tower=_build_image_tower,
)

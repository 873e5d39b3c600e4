"""transformers' ``CLIPModel`` (OpenAI CLIP, PubMedCLIP, PLIP, ...), its text half alone, and CLIPSeg's copy of it."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedTowerError
from ..block import MLP, Attention, Block
from ..image_tower import ImageReading, ImageTower, PatchEmbedding
from ..layers import SplitQKV, TokenEmbedding
from ..text_tower import TextTower
from ..tokens import adapt_tokenizer
from ..tower import TowerSpec
from .registry import Adapter
from .weights import fixed_grid, kinds, layer_norm, linear, plain, stateless


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text_model
    config = text.config
    return TextTower(
        spec=TowerSpec(
            causal=True,
            # configs written before transformers' #24773 carry eos_token_id 2 and mean "the largest id"
            pooling="argmax" if text.eos_token_id == 2 else "eos",
            padding="trim",
            context_length=config.max_position_embeddings,
            eos_id=text.eos_token_id,
        ),
        tokenizer=adapt_tokenizer(tokenizer, config.max_position_embeddings),
        embedding=TokenEmbedding(text.embeddings.token_embedding.weight, text.embeddings.position_embedding.weight),
        blocks=[clip_block(layer) for layer in text.encoder.layers],
        ln_final=layer_norm(text.final_layer_norm),
        projection=linear(source.text_projection),
    )


def clip_block(layer: Any) -> Block:
    """A block as CLIP and SigLIP build it in transformers."""
    attention = layer.self_attn
    return Block(
        ln_1=layer_norm(layer.layer_norm1),
        attn=Attention(
            SplitQKV(linear(attention.q_proj), linear(attention.k_proj), linear(attention.v_proj)),
            linear(attention.out_proj),
            attention.num_heads,
        ),
        ln_2=layer_norm(layer.layer_norm2),
        mlp=MLP(linear(layer.mlp.fc1), stateless(layer.mlp.activation_fn), linear(layer.mlp.fc2)),
    )


def features(output: Any) -> Any:
    """transformers 5 returns an output object from ``get_*_features``, version 4 the tensor itself."""
    return getattr(output, "pooler_output", output)


def _encode_text(source: Any, ids: Any) -> Any:
    if hasattr(source, "get_text_features"):
        return features(source.get_text_features(input_ids=ids))
    return source(input_ids=ids).text_embeds


def _encode_image(source: Any, pixels: Any) -> Any:
    if hasattr(source, "get_image_features"):
        return features(source.get_image_features(pixel_values=pixels))
    raise UnsupportedTowerError(
        f"a {type(source).__name__} encodes no images: give image embeddings of its dual encoder, or ts.Text targets"
    )


def _logit_scale(source: Any) -> float:
    return float(source.logit_scale.detach().exp()) if hasattr(source, "logit_scale") else 1.0


def build_clip_image_tower(source: Any, grid: int | None) -> ImageReading:
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
            embeddings.position_embedding.weight,
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


CLIP_LINEARS = r"self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc1|mlp\.fc2"
_CLASSES = {"transformers.CLIPModel", "transformers.CLIPTextModelWithProjection", "transformers.CLIPSegModel"}


ADAPTER = Adapter(
    name="transformers_clip",
    matches=lambda source: bool(kinds(source) & _CLASSES),
    build_tower=_build_tower,
    blocks=lambda source: list(source.text_model.encoder.layers),
    block_linears=lambda source: CLIP_LINEARS,
    block_prefix=lambda source: "text_model.encoder.layers",
    embedding_stage=lambda source: (source.text_model.embeddings, False),
    encode_text=_encode_text,
    encode_image=_encode_image,
    logit_scale=_logit_scale,
    build_image_tower=build_clip_image_tower,
)

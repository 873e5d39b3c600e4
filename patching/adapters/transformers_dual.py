"""transformers' dual encoders, one row per class: what surrounds the text encoder, which a reader takes apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import Adapter, EncoderReader, ImageReading
from .encoders import reader_for
from .naflex import to_patches
from .vision_transformers import clip_image_tower, siglip_image_tower
from .weights import head
from .wrappers import kinds

Ids = Int[Tensor, "n context"]
Pixels = Float[Tensor, "n 3 h w"]


def _features(output: Any) -> Tensor:
    """transformers 5 returns an object from ``get_*_features``, a tuple by ``return_dict=False``; 4.x the tensor."""
    return output[1] if isinstance(output, tuple) else getattr(output, "pooler_output", output)


def _text_features(source: Any, inputs: dict[str, Tensor]) -> Tensor:
    return _features(source.get_text_features(**inputs))


def _image_features(source: Any, pixels: Pixels) -> Tensor:
    return _features(source.get_image_features(pixel_values=pixels))


def _projection(source: Any) -> list[nn.Module]:
    return head(source.text_projection)


@dataclass(frozen=True)
class Dual:
    """One class of dual encoders, or of text halves.

    encoder: dotted name of the text encoder inside the source; "" for the source itself. pooling: the row of the last
    hidden states that is read; None where the encoder's own ``pooler_output`` is. head: what follows it. text and
    image: the source's own encoders; text is called with ``input_ids`` and perhaps ``attention_mask``. image_tower:
    takes the image encoder apart; None where nobody does yet.
    """

    encoder: str = "text_model"
    pooling: Pooling | None = None
    head: Callable[[Any], list[nn.Module]] = _projection
    text: Callable[[Any, dict[str, Tensor]], Tensor] = _text_features
    image: Callable[[Any, Pixels], Tensor] = _image_features
    image_tower: Callable[[Any, int | None], ImageReading] | None = None


def _no_images(source: Any, pixels: Pixels) -> Tensor:
    raise UnsupportedTowerError(
        f"a {type(source).__name__} encodes no images: give image embeddings of its dual encoder, or ts.Text targets"
    )


def _no_videos(source: Any, pixels: Pixels) -> Tensor:
    raise UnsupportedTowerError(
        f"a {type(source).__name__} encodes videos, not images: give the embeddings of its get_video_features "
        f"([n, frames, 3, h, w]), or ts.Text targets"
    )


def _patches(source: Any, pixels: Pixels) -> Tensor:
    return _features(source.get_image_features(**to_patches(pixels, source.config.vision_config.patch_size)))


def _blip_text(source: Any, inputs: dict[str, Tensor]) -> Tensor:
    return source.text_proj(source.text_encoder(**inputs).last_hidden_state[:, 0])


def _blip_image(source: Any, pixels: Pixels) -> Tensor:
    return source.vision_proj(source.vision_model(pixel_values=pixels).last_hidden_state[:, 0])


_PLAIN = Dual()
_CLIP = Dual(image_tower=clip_image_tower)
_SIGLIP = Dual(head=lambda source: [], image_tower=siglip_image_tower)
_SIGLIP_HALF = Dual(
    encoder="", head=lambda source: [], text=lambda source, inputs: source(**inputs).pooler_output, image=_no_images
)
_TEXT_HALF = Dual(text=lambda source, inputs: source(**inputs).text_embeds, image=_no_images)
DUALS = {
    "CLIPModel": _CLIP,
    "CLIPTextModelWithProjection": _TEXT_HALF,
    "MetaClip2Model": _CLIP,
    "MetaClip2TextModelWithProjection": _TEXT_HALF,
    "CLIPSegModel": _CLIP,
    "GroupViTModel": _PLAIN,
    "OwlViTModel": _PLAIN,
    "Owlv2Model": _PLAIN,
    # the text features before the prompts that X-CLIP makes of each video's frames
    "XCLIPModel": Dual(image=_no_videos),
    "Aimv2Model": _PLAIN,
    "SiglipModel": _SIGLIP,
    "Siglip2Model": Dual(head=lambda source: [], image=_patches, image_tower=siglip_image_tower),
    "SiglipTextModel": _SIGLIP_HALF,
    "Siglip2TextModel": _SIGLIP_HALF,
    "Tipsv2Model": Dual(head=lambda source: []),
    "ChineseCLIPModel": Dual(pooling="first", image_tower=clip_image_tower),
    "AlignModel": Dual(pooling="first"),
    "AltCLIPModel": Dual(
        encoder="text_model.roberta",
        pooling="first",
        head=lambda source: [
            *head(source.text_model.pre_LN),
            *head(source.text_model.transformation),
            *_projection(source),
        ],
    ),
    "BlipModel": _PLAIN,
    "BlipForImageTextRetrieval": Dual(
        encoder="text_encoder",
        pooling="first",
        head=lambda source: head(source.text_proj),
        text=_blip_text,
        image=_blip_image,
    ),
    # FLAVA projects every token and every patch; its contrastive loss takes the first of each
    "FlavaModel": Dual(
        pooling="first",
        text=lambda source, inputs: _text_features(source, inputs)[:, 0],
        image=lambda source, pixels: _image_features(source, pixels)[:, 0],
    ),
    "VisionTextDualEncoderModel": _CLIP,
}


def _dual(source: Any) -> Dual | None:
    return next((dual for name, dual in DUALS.items() if f"transformers.{name}" in kinds(source)), None)


def _known(source: Any) -> Dual:
    dual = _dual(source)
    assert dual is not None  # the registry asks `matches` first
    return dual


def _encoder(source: Any) -> Any:
    return source.get_submodule(_known(source).encoder)


def _reader(source: Any) -> EncoderReader:
    return reader_for(_encoder(source))


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    dual, encoder, reader = _known(source), _encoder(source), _reader(source)
    pooling, pooler = reader.pooled(encoder) if dual.pooling is None else (dual.pooling, [])
    return reader.tower(encoder, tokenizer, pooling, [*pooler, *dual.head(source)])


def _build_image_tower(source: Any, grid: int | None) -> ImageReading:
    build = _known(source).image_tower
    if build is None:
        found = "" if hasattr(source, "vision_model") else " (it holds no image encoder)"
        raise UnsupportedTowerError(
            f"the image encoder of a {type(source).__name__} is not taken apart here{found}, so that images cannot be "
            f"traced; its text tower is"
        )
    return build(source, grid)


def _encode_text(source: Any, ids: Ids) -> Tensor:
    mask = _reader(source).mask(_encoder(source), ids)
    return _known(source).text(source, {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask}))


def _embedding_stage(source: Any) -> tuple[nn.Module, bool]:
    name, read_input = _reader(source).embedding_stage
    return _encoder(source).get_submodule(name), read_input


def _logit_scale(source: Any) -> float | None:
    if hasattr(source, "temperature"):  # ALIGN, TIPSv2
        return 1 / float(source.temperature.detach())
    if not hasattr(source, "logit_scale"):
        return None
    scale = source.logit_scale.detach()
    if hasattr(source, "max_log_logit_scale"):  # AIMv2
        scale = scale.clamp(0.0, source.max_log_logit_scale)
    return float(scale.exp().mean())


ADAPTER = Adapter(
    name="transformers",
    matches=lambda source: _dual(source) is not None,
    build_tower=_build_tower,
    build_image_tower=_build_image_tower,
    blocks=lambda source: _reader(source).blocks_of(_encoder(source)),
    block_linears=lambda source: _reader(source).block_linears,
    embedding_stage=_embedding_stage,
    encode_text=_encode_text,
    encode_image=lambda source, pixels: _known(source).image(source, pixels),
    logit_scale=_logit_scale,
)

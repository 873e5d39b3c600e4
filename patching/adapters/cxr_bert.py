"""CXR-BERT of BioViL and BioViL-T (``health_multimodal``, or the hub's own code): CLS through a head of four layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.text_tower import TextTower
from .bert import attended, bert_adapter, bert_tower
from .weights import layer_norm, linear, stateless


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    head = source.cls_projection_head
    layers = [
        linear(head.dense_to_hidden),
        _activation(head.transform_act_fn),
        layer_norm(head.LayerNorm),
        linear(head.dense_to_output),
    ]
    return bert_tower(source.bert, tokenizer, "first", layers)


def _activation(function: Any) -> nn.Module:
    """The head's activation, which the original holds as a function."""
    if isinstance(function, nn.Module):
        return stateless(function)
    if function is not nn.functional.gelu:
        raise UnsupportedTowerError(f"CXR-BERT's projection head has the activation {function!r} instead of gelu")
    return nn.GELU()


def _no_images(source: Any, pixels: Tensor) -> Tensor:
    raise UnsupportedTowerError(
        f"a {type(source).__name__} encodes no images: encode them with BioViL-T's image model "
        f"(health_multimodal.image.get_image_inference) and give the embeddings, or use ts.Text targets"
    )


ADAPTER = bert_adapter(
    "cxr_bert",
    {"health_multimodal.CXRBertModel", "transformers_modules.CXRBertModel"},
    "bert",
    _build_tower,
    encode_text=lambda source, ids: source.get_projected_text_embeddings(ids, attended(source.bert, ids)),
    encode_image=_no_images,
    logit_scale=lambda source: None,  # the text model holds no temperature
)

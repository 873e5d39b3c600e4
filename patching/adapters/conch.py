"""CONCH (Lu et al. 2024): the text tower of open_clip's CoCa, whose positional table counts the appended CLS."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .base import Adapter
from .open_clip import NATIVE_LINEARS, clip_logit_scale, native_tower
from .wrappers import kinds


def _encode_text(source: Any, ids: Tensor) -> Tensor:
    """``encode_text`` drops the last id, the place of CLS: it is given one more than a text may have."""
    return source.encode_text(F.pad(ids, (0, 1), value=source.text.pad_id))


ADAPTER = Adapter(
    name="conch",
    matches=lambda source: "conch.CoCa" in kinds(source),
    build_tower=lambda source, tokenizer: native_tower(source.text, tokenizer, source.text.context_length - 1),
    blocks=lambda source: list(source.text.transformer.resblocks),
    block_linears=lambda source: NATIVE_LINEARS,
    embedding_stage=lambda source: (source.text.transformer, True),
    encode_text=_encode_text,
    encode_image=lambda source, pixels: source.encode_image(pixels),
    logit_scale=clip_logit_scale,
    sequence_first=True,
)

"""A text tower and an image encoder over one source model: what everything else in the package works on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..adapters.registry import adapter_for
from ..torch_state import neutral_state
from ..towers.image_tower import ImageTower
from ..towers.text_tower import TextTower
from .image_encoder import ImageEncoder, Preprocess
from .verification import verify, verify_images


class DualEncoder:
    """A CLIP-style model: ``text`` (a :class:`TextTower`), ``encode_images``, ``logit_scale``, and its ``source``.

    The tower shares the source model's parameters and leaves its modules untouched.

    Attributes:
        text: the text tower, verified against the source model's own text encoder.
        source: the wrapped model, unchanged.
        name: what it was loaded or wrapped as.
        logit_scale: the factor before the softmax over cosine similarities (CTE does not depend on it).
        verified: largest differences between tower and source by stage, as :meth:`verify` found them.
    """

    @neutral_state()
    def __init__(
        self, source: nn.Module, *, tokenizer: Any, preprocess: Preprocess | None = None, name: str | None = None
    ) -> None:
        self._adapter, self._inner = adapter_for(source)
        self.source = source
        self.name = name or type(self._inner).__name__
        self.text: TextTower = self._adapter.build_tower(self._inner, tokenizer)
        self.image = ImageEncoder(self._inner, self._adapter.encode_image, preprocess)
        self.preprocess = preprocess
        self.logit_scale: float = self._adapter.logit_scale(self._inner)
        self.verified = self.verify()

    def verify(self) -> dict[str, float]:
        """Compare the text tower with the source model again; see :func:`tracescribe.patching.verify`."""
        return verify(self.text, self._adapter, self._inner)

    @cached_property
    def vision(self) -> ImageTower:
        """The image tower, built on first use and verified against the model's own image encoder."""
        return self.image_tower()

    @neutral_state()
    def image_tower(self, grid: int | None = None) -> ImageTower:
        """A verified image tower; ``grid``: for a ResNet, on a finer grid of positions with fewer stages.

        Raises:
            UnsupportedTowerError: no adapter reads this image encoder.
            SiteError: the encoder has no such grid.
            TowerMismatchError, NonFiniteError: see :func:`tracescribe.patching.verify`.

        >>> import tracescribe as ts
        >>> model = ts.load("phantom")
        >>> model.image_tower(grid=8).grid, model.image_tower(grid=8).n_layers  # the stem and two of four stages
        ((8, 8), 2)
        """
        build = self._adapter.build_image_tower
        if build is None:
            raise UnsupportedTowerError(
                f"the adapter {self._adapter.name!r} reads text towers only: the image encoder cannot be traced"
            )
        reading = build(self._inner, grid)
        verify_images(reading, self._adapter, self._inner)
        return reading.tower

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space: that of the readout of one state, without a pass through the blocks."""
        state = torch.zeros(1, 1, self.text.d_model, dtype=self.text.dtype, device=self.device)
        pooled = self.text.pooled_positions(torch.zeros(1, 1, dtype=torch.long, device=self.device))
        with neutral_state(self.text):
            return self.text.read(state, pooled).shape[-1]

    @property
    def device(self) -> torch.device:
        return self.text.device

    def encode_images(self, images: Sequence[Any] | Tensor, batch_size: int = 64) -> Float[Tensor, "n embed"]:
        """L2-normalised image embeddings; see :class:`ImageEncoder` for what is accepted and raised."""
        return self.image(images, batch_size)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "n embed"]:
        """L2-normalised text embeddings; see :meth:`TextTower.encode`."""
        return self.text.encode(texts, batch_size)

    def __repr__(self) -> str:
        kind = "causal" if self.text.causal else "bidirectional"
        return (
            f"DualEncoder({self.name!r}: {kind} text tower, {self.text.n_layers} blocks × {self.text.n_heads} heads × "
            f"{self.text.d_model} wide, read at {self.text.pooling}; on {self.device})"
        )


def wrap(
    module: nn.Module, *, tokenizer: Any, preprocess: Preprocess | None = None, name: str | None = None
) -> DualEncoder:
    """A :class:`DualEncoder` over a model you already have: open_clip, transformers, or either wrapped by peft.

    The tower shares the model's parameters (for a peft model: holds its effective weights at this moment) and is
    verified against the model's own text encoder before it is returned. The model itself is not changed.

    Args:
        module: an open_clip ``CLIP`` or ``CustomTextCLIP``, or a transformers ``CLIPModel``.
        tokenizer: ``open_clip.get_tokenizer(...)``, a transformers tokenizer or processor, any function from a list
            of texts to padded token ids, or an object with ``encode``/``strings``/``pad_id``/``special_ids``.
        preprocess: from a PIL image to a pixel tensor; needed only to encode images that are not tensors yet.

    Raises:
        UnsupportedTowerError: no adapter reads this model, or the tokenizer does not fit it.
        TowerMismatchError: the tower does not compute what the model computes.
        NonFiniteError: a weight is NaN or infinite.

    >>> import open_clip
    >>> import tracescribe as ts
    >>> clip = open_clip.model.CLIP(
    ...     embed_dim=16,
    ...     vision_cfg=dict(image_size=32, patch_size=16, layers=1, width=32, head_width=16),
    ...     text_cfg=dict(width=32, heads=2, layers=3),
    ... )
    >>> ts.wrap(clip, tokenizer=open_clip.get_tokenizer("ViT-B-32"), name="tiny")
    DualEncoder('tiny': causal text tower, 3 blocks × 2 heads × 32 wide, read at argmax; on cpu)
    """
    return DualEncoder(module, tokenizer=tokenizer, preprocess=preprocess, name=name)

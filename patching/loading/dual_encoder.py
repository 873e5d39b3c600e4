"""`DualEncoder`: a text tower and an image encoder over one source model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...arguments import explains_arguments
from ...errors import ArgumentError, UnsupportedTowerError
from ...io.quoting import shown
from ...validation import Whole, check_option
from ..adapters.registry import adapter_for
from ..adapters.wrappers import check_unquantised, check_unsharded
from ..torch_state import neutral_state
from ..towers.image_tower import ImageTower
from ..towers.text_tower import TextTower
from ..towers.tower import Tower
from .image_encoder import ImageEncoder, Preprocess
from .source_state import SourceState
from .verification import taken_apart, verify, verify_images

logger = logging.getLogger(__name__)


class DualEncoder:
    """A CLIP-style model: ``text`` (a :class:`TextTower`), ``encode_images``, ``logit_scale``, and its ``source``.

    The towers share the source model's parameters and leave its modules untouched, so training the source in place
    changes the towers with it. Where the source changes in another way (adapters added, trained, switched, merged or
    disabled; modules or parameters replaced; ``load_state_dict(assign=True)``), the next use of ``text`` or ``vision``
    builds and verifies a new tower.

    A DualEncoder can be copied (``copy.deepcopy``) and pickled if its source, tokenizer and preprocessing can; the copy
    is wrapped and verified anew.

    Attributes:
        source: the wrapped model, unchanged.
        tokenizer: the tokenizer as it was given.
        preprocess: from a PIL image to pixels, or None.
        name: what it was loaded or wrapped as.
        verified: largest differences between tower and source by stage, as :meth:`verify` found them.
    """

    def __init__(
        self, source: nn.Module, *, tokenizer: Any, preprocess: Preprocess | None = None, name: str | None = None
    ) -> None:
        self.source, self.tokenizer, self.preprocess = source, tokenizer, preprocess
        self._read_source()
        self.name = name or type(self._inner).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return _rewrapped, (type(self), self.source, self.tokenizer, self.preprocess, self.name)

    @neutral_state()
    def _read_source(self) -> None:
        """Build and verify the text tower over the source as it is now."""
        adapter, inner = adapter_for(self.source)
        check_unsharded(inner)
        check_unquantised(inner, adapter.blocks(inner))
        with taken_apart(adapter, inner):
            text = adapter.build_tower(inner, self.tokenizer)
        text.source_state = SourceState(self.source, text)
        self.verified = verify(text, adapter, inner)
        self._adapter, self._inner, self._text = adapter, inner, text
        self._image = ImageEncoder(inner, adapter.encode_image, self.preprocess)
        self._vision: ImageTower | None = None

    def _follow_source(self) -> None:
        """Read the source anew if it is no longer the model that the text tower was built from."""
        if not _is_current(self._text):
            logger.info("the source of %s has changed: its text tower is built and verified anew", self.name)
            self._read_source()

    @property
    def text(self) -> TextTower:
        """The text tower over the source as it is now, verified against the source's own text encoder.

        Raises:
            UnsupportedTowerError, TowerMismatchError, NonFiniteError: the source has changed, and the new one cannot
                be read; see :func:`wrap`.
        """
        self._follow_source()
        return self._text

    @property
    def image(self) -> ImageEncoder:
        """The source model's own image encoder."""
        self._follow_source()
        return self._image

    @property
    def logit_scale(self) -> float:
        """The factor before the softmax over cosines (CTE does not depend on it); 1 where none is stated."""
        found = self.stated_logit_scale
        return 1.0 if found is None else found

    @property
    def stated_logit_scale(self) -> float | None:
        """The logit scale that the model states; None for encoders of texts alone."""
        self._follow_source()
        return self._adapter.logit_scale(self._inner)

    def verify(self) -> dict[str, float]:
        """Compare the text tower with the source model again; see :func:`tracescribe.patching.verify`."""
        return verify(self.text, self._adapter, self._inner)

    @property
    def vision(self) -> ImageTower:
        """The image tower, built on first use and verified against the model's own image encoder.

        Raises:
            UnsupportedTowerError: no adapter reads this image encoder.
            TowerMismatchError, NonFiniteError: see :func:`tracescribe.patching.verify`.
        """
        self._follow_source()
        if self._vision is None or not _is_current(self._vision):
            self._vision = self.image_tower()
        return self._vision

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
        self._follow_source()
        build = self._adapter.build_image_tower
        if build is None:
            raise UnsupportedTowerError(
                f"the adapter {self._adapter.name!r} reads text towers only: the image encoder cannot be traced"
            )
        check_unquantised(self._inner, [self._inner])
        with taken_apart(self._adapter, self._inner):
            reading = build(self._inner, grid)
        reading.tower.source_state = SourceState(self.source, reading.tower)
        verify_images(reading, self._adapter, self._inner)
        return reading.tower

    @property
    def embed_dim(self) -> int:
        """Width of the joint embedding space: that of the readout of one state, without a pass through the blocks."""
        text = self.text
        state = torch.zeros(1, 1, text.d_model, dtype=text.dtype, device=text.device)
        pooled = text.pooled_positions(torch.zeros(1, 1, dtype=torch.long, device=text.device))
        with neutral_state(text):
            return text.read(state, pooled).shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the text tower is."""
        return self.text.device

    @explains_arguments
    def encode_images(self, images: Sequence[Any] | Tensor, batch_size: int = 64) -> Float[Tensor, "n embed"]:
        """L2-normalised image embeddings; see :class:`ImageEncoder` for what is accepted and raised."""
        return self.image(images, check_option("batch_size", batch_size, (Whole(1),)))

    @explains_arguments
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "n embed"]:
        """L2-normalised text embeddings; see :meth:`TextTower.encode`."""
        return self.text.encode(texts, check_option("batch_size", batch_size, (Whole(1),)))

    def __repr__(self) -> str:
        text = self._text  # as it was read last: a repr runs and refuses nothing
        kind = "causal" if text.causal else "bidirectional"
        return (
            f"DualEncoder({self.name!r}: {kind} text tower, {text.n_layers} blocks × {text.n_heads} heads × "
            f"{text.d_model} wide, read at {text.pooling}; on {text.device})"
        )

    def _repr_html_(self) -> str:
        from ...cards import card

        text = self._text
        worst = max(self.verified.items(), key=lambda stage: stage[1], default=None)
        facts = [
            ("text tower", f"{text.n_layers} blocks × {text.n_heads} heads × {text.d_model} wide"),
            ("attention", "causal" if text.causal else "bidirectional"),
            ("read at", text.pooling),
            ("source", f"{type(self.source).__module__}.{type(self.source).__name__}"),
            ("images", "PIL images, paths and tensors" if self.preprocess is not None else "tensors only"),
            ("verified", None if worst is None else f"against the source; {_told(worst)}"),
            ("on", f"{text.device}, {str(text.dtype).removeprefix('torch.')}"),
        ]
        return card("DualEncoder", self.name, facts)


def _told(worst: tuple[str, float]) -> str:
    """The stage with the largest difference, and that difference."""
    return f"largest difference {f'{worst[1]:.1e}' if worst[1] else 0} ({worst[0]})"


def _is_current(tower: Tower) -> bool:
    return isinstance(tower.source_state, SourceState) and tower.source_state.current


def _rewrapped(
    kind: type[DualEncoder], source: nn.Module, tokenizer: Any, preprocess: Preprocess | None, name: str
) -> DualEncoder:
    """What a pickled or copied DualEncoder is made of again."""
    return kind(source, tokenizer=tokenizer, preprocess=preprocess, name=name)


@explains_arguments
def wrap(
    module: nn.Module, *, tokenizer: Any, preprocess: Preprocess | None = None, name: str | None = None
) -> DualEncoder:
    """A :class:`DualEncoder` over a model you already have: open_clip, transformers and others.

    The text tower shares the model's parameters (for a peft model: holds its effective weights) and is verified
    against the model's own text encoder before it is returned. The model itself is not changed, and where it changes
    later, the DualEncoder follows it.

    Args:
        module: an open_clip ``CLIP`` or ``CustomTextCLIP``, a transformers ``CLIPModel``, a ``SentenceTransformer``,
            or another model that an adapter reads; also inside peft, ``torch.compile``, ``DataParallel``,
            ``DistributedDataParallel`` or ``AveragedModel``.
        tokenizer: ``open_clip.get_tokenizer(...)``, a transformers tokenizer or processor, any function from a list
            of texts to padded token ids, or an object with ``encode``/``strings``/``pad_id``/``special_ids``.
        preprocess: from a PIL image to a pixel tensor; needed only to encode images that are not tensors yet.

    Raises:
        UnsupportedTowerError: no adapter reads this model, or the tokenizer does not fit it.
        TowerMismatchError: the tower does not compute what the model computes.
        NonFiniteError: a weight is NaN or infinite.
        ArgumentError: ``name`` is no text.

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
    if name is not None and not isinstance(name, str):
        raise ArgumentError(f"wrap: the argument name must be a text, not {shown(name)}")
    return DualEncoder(module, tokenizer=tokenizer, preprocess=preprocess, name=name)

"""A source model's own image encoder, from images to unit embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import ArgumentError, DataFormatError, NonFiniteError, UnsupportedTowerError
from ...io.quoting import first_line
from ..adapters.naflex import is_patches, to_pixels
from ..torch_state import neutral_state
from ..towers.tower import normalise
from .images import describe, read_image
from .verification import eagerly

Preprocess = Callable[[Any], Any]


class ImageEncoder:
    """The source model's own image encoder, run in evaluation mode without gradients."""

    def __init__(
        self, source: nn.Module, encode: Callable[[nn.Module, Tensor], Tensor], preprocess: Preprocess | None
    ) -> None:
        self._source, self._encode, self._preprocess = source, encode, preprocess

    def __call__(self, images: Sequence[Any] | Tensor, batch_size: int = 64) -> Float[Tensor, "n embed"]:
        """L2-normalised embeddings of a list of images, or of one tensor or array of them [n, 3, h, w].

        Each is anything that :func:`~tracescribe.patching.loading.images.read_image` takes: a path, the bytes of a
        file, a PIL image, an array or tensor of values 0 to 255, or preprocessed pixels [3, h, w] (floats).

        Raises:
            DataFormatError: an image cannot be read, is no image, or its pixels do not fit the encoder.
            UnsupportedTowerError: pixels must be made from images, and the model was wrapped without ``preprocess``.
            NonFiniteError: pixels or an embedding are NaN or infinite.
        """
        if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(images, "getexif"):
            raise ArgumentError(
                f"encode_images takes a list of images, got the single {describe(images)}: put it in a list"
            )
        if isinstance(images, (Tensor, np.ndarray)) and images.ndim != 4:
            raise DataFormatError(
                f"a tensor of images must have shape [n, 3, height, width], got {list(images.shape)}: give a single "
                f"image in a list"
            )
        out = []
        with neutral_state(self._source), eagerly(self._source):
            for at in range(0, len(images), batch_size):
                out.append(self._embed(images[at : at + batch_size]))
        if not out:
            return torch.empty(0, 0)
        embeddings = torch.cat(out)
        finite = torch.isfinite(embeddings).all(dim=-1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise NonFiniteError(
                f"the embedding of image {bad} ({describe(images[bad])}) is NaN or infinite: check the pixels and the "
                f"image encoder's weights"
            )
        return embeddings

    def pixels(self, image: Any) -> Float[Tensor, "3 h w"]:
        """What the encoder is given: preprocessed pixels as they are, anything else through the preprocessing.

        Raises:
            DataFormatError, NonFiniteError: see :func:`~tracescribe.patching.loading.images.read_image`.
            UnsupportedTowerError: the model was wrapped without ``preprocess``.
        """
        with neutral_state():  # torchvision's transforms compute in the default dtype
            return self._pixels(image)[0]

    def _pixels(self, image: Any) -> tuple[Float[Tensor, "3 h w"], bool]:
        """The pixels, and whether the preprocessing says by itself how large an image is (SigLIP 2's NaFlex)."""
        image = read_image(image)
        if isinstance(image, Tensor):
            return image, False
        if self._preprocess is None:
            raise UnsupportedTowerError(
                "this model was wrapped without preprocess, so it takes only preprocessed pixels, float tensors "
                "[3, h, w]: pass wrap(..., preprocess=...), or encode the images yourself and give their embeddings"
            )
        pixels = self._preprocess(image)
        if not hasattr(pixels, "keys"):
            return pixels, False
        return (to_pixels(pixels), True) if is_patches(pixels) else (torch.as_tensor(pixels["pixel_values"][0]), False)

    def _embed(self, images: Sequence[Any] | Tensor) -> Float[Tensor, "batch embed"]:
        pixels, of_any_size = zip(*map(self._pixels, images), strict=True)
        for image, each in zip(images, pixels, strict=True):
            if each.shape != pixels[0].shape and not all(of_any_size):
                raise DataFormatError(
                    f"the pixels of an image ({describe(image)}) have shape {list(each.shape)}, those of another "
                    f"({describe(images[0])}) {list(pixels[0].shape)}: give preprocessed pixels of one shape"
                )
        alike: dict[tuple[int, ...], list[int]] = {}
        for number, each in enumerate(pixels):
            alike.setdefault(tuple(each.shape), []).append(number)
        found: dict[int, Tensor] = {}
        for numbers in alike.values():
            embedded = self._encoded([images[number] for number in numbers], [pixels[number] for number in numbers])
            found |= dict(zip(numbers, embedded, strict=True))
        return torch.stack([found[number] for number in range(len(pixels))])

    def _encoded(self, images: Sequence[Any], pixels: Sequence[Tensor]) -> Float[Tensor, "batch embed"]:
        """Embeddings of pixels of one shape."""
        parameter = _first_weight(self._source)
        batch = torch.stack([each.to(parameter.device, parameter.dtype) for each in pixels])
        try:
            return normalise(self._encode(self._source, batch))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            if not all(isinstance(image, Tensor) and image.is_floating_point() for image in images):
                raise  # made by the model's own preprocessing: no fault of the images
            reason = first_line(error)
            raise DataFormatError(
                f"the image encoder does not take pixels of shape {list(pixels[0].shape)}: {reason[:200]}"
            ) from error


def _first_weight(source: nn.Module) -> Tensor:
    """A weight of the device and precision that pixels must have: the image encoder's convolution.

    In mixed precision (open_clip's "fp16" and "bf16") other parameters stay in float32.
    """
    convolution = next((module for module in source.modules() if isinstance(module, nn.Conv2d)), None)
    return next(source.parameters()) if convolution is None else convolution.weight

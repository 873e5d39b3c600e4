"""Converts anything image-like to an RGB image of 0 to 255, or to pixels that are preprocessed already."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...arguments import explains_arguments
from ...errors import DataFormatError, NonFiniteError, TraceWarning
from ...io.quoting import first_line, shown, shown_path
from ...io.reading import read_bytes
from ...warn import warn_user
from .dicom import is_dicom, read_dicom

# Bitmaps that Pillow decodes itself: no format that is a program (EPS) or calls another one.
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "PPM", "TGA")
MAX_FILE = 2**29  # bytes
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ImageCrop:
    """A box of an image instead of the complete image, wherever an image is taken.

    image: a path, or anything else that :func:`read_image` makes a picture of. left, top, width, height: the box in
    pixels of the upright image. What of it lies beyond the image is black, as in Pillow.

    >>> from PIL import Image
    >>> read_image(ImageCrop(Image.new("RGB", (9, 9), "white"), left=6, top=0, width=4, height=2)).size
    (4, 2)
    """

    image: Any
    left: int
    top: int
    width: int
    height: int


def read_image(given: Any) -> Any:
    """What ``given`` means: an RGB PIL image that the model's preprocessing takes, or preprocessed pixels [3, h, w].

    Preprocessed pixels are a floating-point tensor or array [3, h, w]; they are used as they are. Everything else is an
    image:

    - the path of a file, the bytes of a file, or an open file: a single picture in one of :data:`FORMATS` or DICOM (see
      :func:`~tracescribe.patching.loading.dicom.read_dicom`), of at most :data:`MAX_FILE` bytes and of as many pixels
      as ``PIL.Image.MAX_IMAGE_PIXELS`` allows;
    - a PIL image (of several frames, the one it is at); a box of an image, :class:`ImageCrop`;
    - integers 0 to 255 as an array or tensor [h, w], [h, w, 1 | 3 | 4] or [1 | 3 | 4, h, w]; booleans are black and
      white; uint16 [h, w] is 16-bit grey;
    - floats 0 to 1 as [h, w], [h, w, 1] or [h, w, 3], as in matplotlib and scikit-image.

    An image is turned as its EXIF orientation says. Where it is partly transparent it is put on black, with a warning.
    16-bit grey is scaled to 8 bits (65535 is white). If a PNG file states fewer significant bits (its sBIT chunk) and
    its values are not scaled up to 16 bits as the standard asks, the largest value of so many bits is white; if a TIFF
    file states its largest value, that is white. Values that use at most 8 or 12 of 16 bits, in a file that states
    nothing, are taken as 8-bit or 12-bit values, with a warning: scanners write them so, and the picture would be
    almost black otherwise.

    Raises:
        DataFormatError: anything else, or an image that cannot be read; says what was given.
        NonFiniteError: a float is NaN or infinite.

    >>> import numpy as np
    >>> read_image(np.full((2, 2), 255, dtype=np.uint8)).getpixel((0, 0))
    (255, 255, 255)
    >>> read_image(torch.zeros(3, 8, 8)).shape
    torch.Size([3, 8, 8])
    """
    if isinstance(given, (str, os.PathLike)):
        return open_image(given)
    if isinstance(given, ImageCrop):
        return _cropped(given)
    if isinstance(given, (bytes, bytearray, memoryview)):
        return _decoded(bytes(given), f"an image given as {len(given):,} bytes")
    if hasattr(given, "read") and not hasattr(given, "getexif"):
        raw = given.read(MAX_FILE + 1)
        if not isinstance(raw, bytes) or len(raw) > MAX_FILE:
            raise DataFormatError(f"an image's open file must give bytes, at most {MAX_FILE:,} of them")
        return _decoded(raw, "an image given as an open file")
    if hasattr(given, "getexif"):
        return _rgb_or_sentence(given, "the given PIL image", None)
    if isinstance(given, (Tensor, np.ndarray)):
        return _from_values(given)
    raise DataFormatError(
        f"an image is a path, the bytes of a file, a PIL image, an array or a tensor, but {shown(given)} is of type "
        f"{type(given).__name__}"
    )


@explains_arguments
def open_image(path: str | os.PathLike[str]) -> Any:
    """An image file as an RGB PIL image, fully read; see :func:`read_image`.

    Raises:
        DataFormatError: the file is missing, no regular file, too large, or no image that can be read.
    """
    name = f"the image {shown_path(path)}"
    try:
        raw = read_bytes(path, MAX_FILE)
    except DataFormatError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DataFormatError(f"{name} does not exist") from None
        raise
    return _decoded(raw, name)


def _cropped(given: ImageCrop) -> Any:
    whole = read_image(given.image)
    if isinstance(whole, Tensor):
        raise DataFormatError("a box is cut out of a picture, not out of preprocessed pixels: crop it before")
    box = (given.left, given.top, given.left + given.width, given.top + given.height)
    if given.width < 1 or given.height < 1 or min(box[2:]) <= 0 or box[0] >= whole.width or box[1] >= whole.height:
        raise DataFormatError(
            f"the box of the image {describe(given.image)} (left {given.left}, top {given.top}, width {given.width}, "
            f"height {given.height}) holds none of its {whole.width} x {whole.height} pixels"
        )
    return whole.crop(box)


def _decoded(raw: bytes, name: str) -> Any:
    """A picture from the bytes of a file. Whatever Pillow raises becomes a sentence that begins with ``name``."""
    from PIL import Image, UnidentifiedImageError

    try:
        if is_dicom(raw):
            return read_dicom(raw, name)
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # an MPO's first is the picture
            if frames > 1:
                raise DataFormatError(f"{name} holds {frames} frames: save the one that is meant as a file by itself")
            return _rgb_or_sentence(image, name, raw)
    except (DataFormatError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = "it is empty" if not raw else f"it is none of {', '.join(FORMATS)} and DICOM, or it is broken"
        raise DataFormatError(f"{name} cannot be read: {reason}") from None
    except Exception as error:  # decoders raise what they like: struct.error, IndexError, DecompressionBombError, ...
        raise _unreadable(name, error) from error


def _rgb_or_sentence(image: Any, name: str, raw: bytes | None) -> Any:
    try:
        return _rgb(image, name, raw)
    except (DataFormatError, MemoryError, UserWarning):
        raise
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> DataFormatError:
    reason = first_line(error)
    return DataFormatError(f"{name} cannot be read: {reason[:200]}")


def _rgb(image: Any, name: str, raw: bytes | None) -> Any:
    """A PIL image in RGB, turned as its EXIF orientation says."""
    from PIL import Image, ImageOps

    if not all(image.size):
        raise DataFormatError(f"{name} has no pixels: its size is {image.size[0]} x {image.size[1]}")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # "I" in older Pillow
        values = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(_eight_bits(values, name, _white(image, values, raw)))
        grey.info["exif"] = image.info.get("exif", b"")
        return ImageOps.exif_transpose(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataFormatError(
            f"{name} has mode {image.mode!r} (32 bits a pixel), which does not say what is black and what is white: "
            f"convert it to 8-bit grey or RGB"
        )
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layered = upright.convert("RGBA")
    if layered.getchannel("A").getextrema() == (255, 255):
        return layered.convert("RGB")
    warn_user(
        f"{name} is partly transparent and is put on black; save it without transparency to say what is meant",
        TraceWarning,
    )
    return Image.alpha_composite(Image.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("RGB")


def _white(image: Any, values: np.ndarray, raw: bytes | None) -> int | None:
    """The value that is white, if the file says so."""
    if image.format == "TIFF":
        stated = image.tag_v2.get(281)  # MaxSampleValue, an integer or a tuple of one
        stated = stated[0] if isinstance(stated, tuple) and stated else stated
        return int(stated) if stated and values.max() <= stated <= 65535 else None
    bits = _significant_bits(raw) if raw is not None and image.format == "PNG" else None
    if bits is None or not 1 <= bits <= 16:
        return None
    # The standard asks for values scaled up to 16 bits: their lowest bits repeat the highest, or are 0.
    shift = 16 - bits
    low = values & ((1 << shift) - 1)
    repeated = (values >> bits) & ((1 << shift) - 1) if bits >= shift else low
    scaled = bool(((low == 0) | (low == repeated)).all())
    return 65535 if scaled or values.max() >= 1 << bits else (1 << bits) - 1


def _significant_bits(raw: bytes) -> int | None:
    """What a grey PNG's sBIT chunk says; it stands before the image data."""
    at = 8
    while at + 8 <= len(raw):
        size, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        if kind == b"sBIT":
            return raw[at + 8] if size and at + 8 < len(raw) else None
        if kind == b"IDAT":
            return None
        at += 12 + size
    return None


def _eight_bits(values: np.ndarray, name: str, white: int | None) -> np.ndarray:
    """Grey of up to 16 bits as 0 to 255, rounded."""
    largest = int(values.max())
    if white is None:
        bits = 16 if largest > 4095 else 12 if largest > 255 else 8
        white = (1 << bits) - 1
        if bits < 16 and largest > 0:
            warn_user(
                f"{name} has 16 bits a pixel but no value above {largest}: read as {bits}-bit values, {white} being "
                f"white; save it as 8-bit grey, or with a PNG sBIT chunk, to say what is meant",
                TraceWarning,
            )
    return ((values.astype(np.uint64) * 255 + white // 2) // white).clip(max=255).astype(np.uint8)


def _from_values(given: Tensor | np.ndarray) -> Any:
    """An array or tensor: preprocessed pixels, or the image whose values it holds."""
    from PIL import Image

    shape, name = list(given.shape), f"the {'tensor' if isinstance(given, Tensor) else 'array'}"
    kind = str(given.dtype).removeprefix("torch.")
    if 0 in shape or len(shape) not in (2, 3):
        hint = "an embedding is no image" if len(shape) == 1 else "several images are given as a list"
        raise DataFormatError(
            f"{name} of shape {shape} is no image, which is [h, w], [h, w, 3] or [3, h, w]"
            + (f": {hint}" if len(shape) in (1, 4) else "")
        )
    if isinstance(given, Tensor):
        floating = given.is_floating_point()
        known = floating or not given.is_complex()
    else:
        floating, known = given.dtype.kind == "f", given.dtype.kind in "fuib"
    if not known:
        raise DataFormatError(f"{name} of type {kind} is no image: give integers 0 to 255 or floats")
    if floating and len(shape) == 3 and shape[0] == 3:
        pixels = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given, dtype=np.float32))
        if not torch.isfinite(pixels).all():
            raise NonFiniteError(f"{name} of preprocessed pixels, shape {shape}, holds NaN or infinity")
        return pixels
    if isinstance(given, Tensor):
        inside = given.detach().cpu()
        values = np.asarray(inside.float() if floating else inside)
    else:
        values = np.asarray(given)
    if values.ndim == 3:
        values = _channels_last(values, name, prefer_first=isinstance(given, Tensor))
    if floating:
        if not np.isfinite(values).all():
            raise NonFiniteError(f"{name} of shape {shape} holds NaN or infinity")
        if values.min() < 0 or values.max() > 1:
            raise DataFormatError(
                f"{name} of floats of shape {shape} has values from {values.min():g} to {values.max():g}: an image of "
                f"floats has 0 to 1, an image of 0 to 255 is given as integers (uint8), and preprocessed pixels have "
                f"shape [3, h, w]"
            )
        values = (values * 255).round().astype(np.uint8)
    elif kind == "bool":
        values = values.astype(np.uint8) * 255
    elif kind == "uint16" and values.ndim == 2:
        values = _eight_bits(values, name, None)
    elif values.min() < 0 or values.max() > 255:
        raise DataFormatError(
            f"{name} of {kind} has values from {values.min()} to {values.max()}: an image of integers has 0 to 255"
        )
    return _rgb(Image.fromarray(values.astype(np.uint8)), name, None)


def _channels_last(values: np.ndarray, name: str, *, prefer_first: bool) -> np.ndarray:
    first, last = values.shape[0] in _CHANNELS, values.shape[2] in _CHANNELS
    if not (first or last):
        raise DataFormatError(
            f"{name} of shape {list(values.shape)} is no image: one side must be the 1, 3 or 4 channels, as in "
            f"[h, w, 3] or [3, h, w]"
        )
    if first and (prefer_first or not last):
        values = values.transpose(1, 2, 0)
    return np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values)


def describe(image: Any) -> str:
    """An image as an error names it."""
    if isinstance(image, ImageCrop):
        return f"a box of {describe(image.image)}"
    return shown_path(image) if isinstance(image, (str, Path)) else type(image).__name__

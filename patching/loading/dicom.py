"""DICOM radiographs as 8-bit pictures, grey values mapped as the file asks for (pydicom, an optional dependency)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ...errors import DataFormatError

__all__ = ["is_dicom", "read_dicom"]

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a transfer syntax whose expanded size no limit bounds
_META = 4096  # bytes in which a file's meta information names its transfer syntax


def is_dicom(raw: bytes) -> bool:
    """Whether the bytes are a DICOM file (part 10 of the standard: "DICM" after a preamble of 128 bytes)."""
    return raw[128:132] == b"DICM"


def read_dicom(raw: bytes, name: str) -> Any:
    """The picture of a DICOM file as an RGB PIL image.

    Grey values go through the modality LUT or rescale, then through the file's first VOI LUT or window, as pydicom
    applies them; the ends of the LUT's or window's output are black and white. Without either, the smallest and the
    largest value are (padding aside). MONOCHROME1, where small values are bright, is inverted. Nothing but the pixels
    and how they are shown is used of the file.

    Args:
        name: what an error calls the file.

    Raises:
        DataFormatError: pydicom is not installed, or the file holds no single picture that can be read.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise DataFormatError(
            f"{name} is a DICOM file, which needs pydicom: pip install 'tracescribe[medical]', or pip install pydicom"
        ) from None
    if _DEFLATED in raw[:_META]:
        raise DataFormatError(f"{name} is a deflated DICOM file, which is not read: save it uncompressed")
    try:
        data = pydicom.dcmread(io.BytesIO(raw))
    except InvalidDicomError as error:
        raise DataFormatError(f"{name} cannot be read: {error}") from None
    _check_size(data, name)
    if "PixelData" not in data:
        raise DataFormatError(f"{name} is a DICOM file without pixel data; give the one that holds the image")
    try:
        pixels = pydicom.pixels.pixel_array(data)
    except (RuntimeError, NotImplementedError) as error:  # pydicom knows no decoder for this compression
        syntax = data.file_meta.TransferSyntaxUID.name
        raise DataFormatError(
            f"{name} cannot be decoded ({syntax}): install a decoder that pydicom uses, such as python-gdcm or "
            f"pylibjpeg, or save the image uncompressed"
        ) from error
    kind = str(data.get("PhotometricInterpretation", ""))
    return _grey(pixels, data) if kind.startswith("MONOCHROME") else _colour(pixels, data, kind, name)


def _check_size(data: Any, name: str) -> None:
    from PIL import Image

    frames = int(data.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataFormatError(f"{name} holds {frames} frames: save the one that is meant as a file by itself")
    rows, columns, most = int(data.get("Rows") or 0), int(data.get("Columns") or 0), Image.MAX_IMAGE_PIXELS
    if most is not None and rows * columns > most:
        raise DataFormatError(f"{name} has {rows:,} x {columns:,} pixels, and at most {most:,} are read")


def _grey(pixels: np.ndarray, data: Any) -> Any:
    from PIL import Image
    from pydicom.pixels import apply_modality_lut

    values = np.asarray(apply_modality_lut(pixels, data))
    shown, black, white = _by_voi(values, data) or _by_extremes(values, pixels, data)
    # white may be below black: a negative rescale slope turns the ends of pydicom's window round
    bright = np.clip((np.asarray(shown, dtype=np.float64) - black) / ((white - black) or 1.0), 0, 1)
    if data.PhotometricInterpretation == "MONOCHROME1":
        bright = 1 - bright
    return Image.fromarray((bright * 255).round().astype(np.uint8)).convert("RGB")


def _by_voi(values: np.ndarray, data: Any) -> tuple[np.ndarray, float, float] | None:
    """Values after the VOI LUT or window, with the ends of its output; None where the file has none."""
    from pydicom.pixels import apply_windowing

    if data.get("VOILUTSequence"):
        entries, first = _lut(data.VOILUTSequence[0], little=data.file_meta.TransferSyntaxUID.is_little_endian)
        # pydicom's apply_voi computes the index in the entries' type, so that it wraps around for entries of 8 bits
        index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
        return entries[index], float(entries.min()), float(entries.max())
    if data.get("WindowCenter") is None or data.get("WindowWidth") is None:
        return None
    # What the window makes of values far below and above it are the ends of its output, for every VOI LUT function.
    with np.errstate(over="ignore"):
        out = apply_windowing(np.concatenate([values.ravel().astype(np.float64), [-1e12, 1e12]]), data)
    return out[:-2].reshape(values.shape), float(out[-2]), float(out[-1])


def _lut(item: Any, *, little: bool) -> tuple[np.ndarray, int]:
    """A look-up table's entries, and the value that the first is for."""
    n, first, _ = (int(number) for number in item.LUTDescriptor)
    n = n or 2**16
    found = item.LUTData
    if isinstance(found, bytes):
        wide = ("<" if little else ">") + "u2"
        return np.frombuffer(found, wide if len(found) >= 2 * n else np.uint8)[:n].astype(np.int64), first
    return np.atleast_1d(np.asarray(found, dtype=np.int64))[:n], first


def _by_extremes(values: np.ndarray, pixels: np.ndarray, data: Any) -> tuple[np.ndarray, float, float]:
    padding = data.get("PixelPaddingValue")
    inside = values[pixels != int(padding)] if padding is not None else values
    inside = inside if inside.size else values
    return values, float(inside.min()), float(inside.max())


def _colour(pixels: np.ndarray, data: Any, kind: str, name: str) -> Any:
    from PIL import Image
    from pydicom.pixels import apply_color_lut

    bits = int(data.BitsStored)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, data)
        bits = 8 * pixels.dtype.itemsize
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise DataFormatError(
            f"{name} has the photometric interpretation {kind!r} and shape {list(pixels.shape)}, "
            f"which is neither grey nor RGB"
        )
    white = (1 << bits) - 1
    scaled = (pixels.astype(np.uint64) * 255 + white // 2) // white
    return Image.fromarray(scaled.clip(max=255).astype(np.uint8), "RGB")

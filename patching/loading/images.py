"""From anything image-like to the RGB image that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import DataFormatError


def open_image(path: str | Path) -> Any:
    """An image file as an RGB PIL image, fully read.

    Raises:
        DataFormatError: the file is missing, or is no readable image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except FileNotFoundError:
        raise DataFormatError(f"the image {str(path)!r} does not exist") from None
    except DataFormatError as error:
        raise DataFormatError(f"the image {str(path)!r} cannot be read: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataFormatError(f"the image {str(path)!r} cannot be read: {error}") from None


def as_rgb(image: Any) -> Any:
    """A PIL image in RGB. 16-bit grey is scaled to 8 bits; PIL itself would clip it to white.

    Raises:
        DataFormatError: 32-bit integers or floats, whose range no file states.
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataFormatError(
            f"an image of mode {image.mode!r} (32 bits a pixel) does not say what is black and what is white: convert "
            f"it to 8-bit grey or RGB"
        )
    return image.convert("RGB")

"""The preprocessing of four chest radiograph models; that of the others comes with their files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Pixels = Float[Tensor, "3 side side"]


def chexzero_pixels(image: Any) -> Pixels:
    """CheXzero (Tiu et al. 2022): 320 on black, values 0-255 normalised by 101.48761 / 83.43944, bicubic to 224.

    >>> from PIL import Image
    >>> chexzero_pixels(Image.new("L", (640, 640), 255)).shape
    torch.Size([3, 224, 224])
    """
    from PIL import Image

    grey = image.convert("L")
    ratio = 320 / max(grey.size)
    small = grey.resize(tuple(max(1, int(side * ratio)) for side in grey.size), Image.Resampling.LANCZOS)
    values = (_tensor(_on_black(small, 320)) - 101.48761) / 83.43944
    return F.interpolate(values[None], (224, 224), mode="bicubic", align_corners=False)[0]


def medclip_pixels(image: Any) -> Pixels:
    """MedCLIP (Wang et al. 2022): padded to a square, bicubic to 224, normalised by .5863 / .2795."""
    from PIL import Image

    grey = image.convert("L")
    square = _on_black(grey, max(224, *grey.size)).resize((224, 224), Image.Resampling.BICUBIC)
    return (_tensor(square) / 255 - 0.5862785803043838) / 0.27950088968644304


def gloria_pixels(image: Any) -> Pixels:
    """GLoRIA (Huang et al. 2021): 256 by area, padded to a square, centre 224, normalised by .5 / .5."""
    from PIL import Image

    grey = image.convert("L")
    ratio = 256 / max(grey.size)
    small = grey.resize(tuple(max(1, int(side * ratio)) for side in grey.size), Image.Resampling.BOX)
    return (_tensor(_centre(_on_black(small, 256), 224)) / 255 - 0.5) / 0.5


def biovil_pixels(image: Any) -> Pixels:
    """BioViL-T (Bannur et al. 2023): shorter side to 512, centre 448, values 0-1, not normalised."""
    from PIL import Image

    grey = image.convert("L")
    ratio = 512 / min(grey.size)
    large = grey.resize(tuple(int(side * ratio) for side in grey.size), Image.Resampling.BILINEAR)
    return _tensor(_centre(large, 448)) / 255


def _on_black(grey: Any, side: int) -> Any:
    """The image in the middle of a black square."""
    from PIL import Image

    square = Image.new("L", (side, side))
    square.paste(grey, tuple((side - length) // 2 for length in grey.size))
    return square


def _centre(grey: Any, side: int) -> Any:
    left, top = ((length - side) // 2 for length in grey.size)
    return grey.crop((left, top, left + side, top + side))


def _tensor(grey: Any) -> Pixels:
    """Grey values 0-255 in three equal channels."""
    return torch.from_numpy(np.asarray(grey, dtype=np.float32)).expand(3, -1, -1)

"""The miniature: a small CLIP, trained on phantom films and blind to negation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from ...errors import DataFormatError
from .drawing import SIZE
from .network import MiniatureCLIP
from .tokenizer import CONTEXT_LENGTH, PhantomTokenizer

if TYPE_CHECKING:
    from PIL import Image

    from ...patching import DualEncoder

WEIGHTS = Path(__file__).with_name("weights") / "miniature.safetensors"
FORMAT = "tracescribe.phantom-miniature/1"
ALIGNED = "aligned.json"
"""The file that tells that a folder holds an aligned image tower; see :mod:`.alignment`."""

EMBED_DIM = 64
# as open_clip's configurations name them
VISION: Final[dict[str, Any]] = {"image_size": SIZE, "layers": (1, 1, 1, 1), "width": 12, "head_width": 32}
TEXT: Final[dict[str, Any]] = {"context_length": CONTEXT_LENGTH, "width": 64, "heads": 4, "layers": 8}


class Source(NamedTuple):
    """The parts that `wrap` takes: the CLIP module, its tokenizer and its preprocessing."""

    module: Any
    tokenizer: PhantomTokenizer
    preprocess: Preprocess


class Preprocess:
    """PIL image → Float[3, 64, 64]: grey, resized to the miniature's film size, centred to about [-1, 1].

    >>> from PIL import Image
    >>> Preprocess()(Image.new("L", (256, 256), 255)).shape
    torch.Size([3, 64, 64])
    """

    def __call__(self, image: Image.Image) -> Float[torch.Tensor, "3 size size"]:
        from PIL import Image

        grey = image.convert("L")
        if grey.size != (SIZE, SIZE):
            # BOX averages: the mean over each pixel's area, as the phantom would be seen at this size.
            grey = grey.resize((SIZE, SIZE), Image.Resampling.BOX)
        return normalise(np.asarray(grey, dtype=np.float32) / 255.0)


def normalise(film: Float[np.ndarray, "*batch size size"]) -> Float[torch.Tensor, "*batch 3 size size"]:
    """Films of brightness 0..1 as the miniature's input: three equal channels, centred."""
    x = torch.from_numpy(np.ascontiguousarray(film, dtype=np.float32)).sub(0.5).mul(4.0)
    return x.unsqueeze(-3).expand(*x.shape[:-2], 3, *x.shape[-2:])


def load_source(
    device: str | torch.device = "cpu", *, weights: str | Path | None = None, dtype: torch.dtype | None = None
) -> Source:
    """The trained CLIP module in eval mode, its tokenizer and preprocessing.

    Args:
        weights: a `miniature.safetensors` with its `vocabulary.json` beside it, as `pretraining` writes them;
            default is the shipped one.
        dtype: default float32 (the file holds float16).

    Raises:
        DataFormatError: the file is missing, broken, or holds another model's weights.
    """
    from safetensors import SafetensorError, safe_open

    path = WEIGHTS if weights is None else Path(weights)
    tokenizer = PhantomTokenizer.from_json(path.with_name("vocabulary.json"))
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataFormatError(f"{path}: the miniature's weights cannot be read ({error})") from error
    if meta.get("format") != FORMAT:
        raise DataFormatError(f"{path}: format {meta.get('format')!r}, expected {FORMAT!r}")
    layers = json.loads(meta.get("recipe", "{}")).get("layers", TEXT["layers"])
    with torch.random.fork_rng(devices=[]):
        # Fresh weights draw from the global random state, which is the caller's.
        module = MiniatureCLIP(
            EMBED_DIM,
            image_size=VISION["image_size"],
            width=VISION["width"],
            context=TEXT["context_length"],
            vocab=tokenizer.vocab_size,
            d_model=TEXT["width"],
            heads=TEXT["heads"],
            layers=layers,
        )
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise DataFormatError(f"{path}: these are not the miniature's weights ({error})") from error
    module.eval().to(device=device, dtype=dtype or torch.float32)
    return Source(module, tokenizer, Preprocess())


def load(
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None, folder: str | Path | None = None
) -> DualEncoder:
    """The shipped miniature as a `DualEncoder`; what `tracescribe.load("phantom")` returns. No network.

    folder: of another miniature (written by :mod:`.pretraining`) or of an image tower that was aligned to a text
        encoder (:mod:`.alignment`); ``tracescribe.load("phantom:FOLDER")``.

    Raises DataFormatError when the folder holds neither, or its files are broken.

    >>> import tracescribe as ts
    >>> ts.load("phantom").text.n_layers
    8
    """
    from ...patching import wrap

    if folder is not None and (Path(folder) / ALIGNED).is_file():
        from .alignment import load_aligned

        return load_aligned(folder, device=device, dtype=dtype)
    weights = None if folder is None else Path(folder) / WEIGHTS.name
    source = load_source(device, weights=weights, dtype=dtype)
    name = "phantom" if folder is None else f"phantom:{Path(folder).name}"
    return wrap(source.module, tokenizer=source.tokenizer, preprocess=source.preprocess, name=name)

"""From a model's name to a verified :class:`DualEncoder`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch

from ..errors import TracescribeError, UnknownModelError
from .dual_encoder import DualEncoder, wrap

logger = logging.getLogger(__name__)

GROUP = "tracescribe.models"


def load(
    name: str,
    *,
    pretrained: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> DualEncoder:
    """Load a model by name, build its text tower and verify it.

    Args:
        name: ``"phantom"`` (the shipped miniature; needs no network) or another registered alias;
            ``"open_clip:<architecture>"`` with ``pretrained``, or ``"open_clip:hf-hub:<id>"`` and
            ``"open_clip:local-dir:<folder>"`` that carry their weights; ``"hf:<id or folder>"`` for transformers.
        pretrained: for open_clip architectures a tag such as ``"openai"``, or a checkpoint file.
        device: where the model runs.
        dtype: cast the whole model, e.g. ``torch.bfloat16``; its own precision by default.

    Raises:
        UnknownModelError: the name is not understood, or nothing can be loaded under it.
        UnsupportedTowerError, TowerMismatchError, NonFiniteError: see :func:`wrap`.

    >>> import tracescribe as ts
    >>> ts.load("phantom")
    DualEncoder('phantom': causal text tower, 8 blocks × 4 heads × 64 wide, read at argmax; on cpu)
    """
    scheme, colon, rest = name.partition(":")
    if colon and scheme in _SCHEMES:
        return _SCHEMES[scheme](rest, name, pretrained, torch.device(device), dtype)
    if pretrained is not None:
        raise UnknownModelError(
            f"pretrained={str(pretrained)!r} goes with 'open_clip:<architecture>', not with {name!r}"
        )
    aliases = _aliases()
    if name in aliases:
        return aliases[name].load()(device=device, dtype=dtype)
    close = difflib.get_close_matches(name, aliases, n=1)
    raise UnknownModelError(
        f"unknown model {name!r}{f', did you mean {close[0]!r}?' if close else ''}: use one of "
        f"{', '.join(map(repr, sorted(aliases)))}, 'open_clip:<architecture>' with pretrained=..., "
        f"or 'hf:<id or folder>'"
    )


def _aliases() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load_open_clip(
    rest: str, name: str, pretrained: str | Path | None, device: torch.device, dtype: torch.dtype | None
) -> DualEncoder:
    import open_clip

    if not rest.startswith(("hf-hub:", "local-dir:")):
        known = open_clip.list_models()
        if rest.replace("/", "-") not in known:
            close = " or ".join(map(repr, difflib.get_close_matches(rest, known, n=3, cutoff=0.5)))
            raise UnknownModelError(
                f"open_clip has no architecture {rest!r}: "
                + (f"did you mean {close}?" if close else "see open_clip.list_models()")
            )
        if pretrained is None:
            logger.warning("%s is loaded without pretrained weights: every parameter is random", name)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            rest, pretrained=None if pretrained is None else str(pretrained), device=device
        )
        tokenizer = open_clip.get_tokenizer(rest)
    except (TracescribeError, MemoryError):
        raise
    except Exception as error:
        raise UnknownModelError(
            f"open_clip cannot load {rest!r} (pretrained={pretrained!r}): {_first_line(error)}"
        ) from error
    return wrap(model.to(dtype).eval(), tokenizer=tokenizer, preprocess=preprocess, name=name)


def _load_transformers(
    rest: str, name: str, pretrained: str | Path | None, device: torch.device, dtype: torch.dtype | None
) -> DualEncoder:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    if pretrained is not None:
        raise UnknownModelError(f"{name!r} names its own weights: drop pretrained={str(pretrained)!r}")
    try:
        model = AutoModel.from_pretrained(rest, dtype=dtype or "auto").to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(rest)
    except (TracescribeError, MemoryError):
        raise
    except Exception as error:
        raise UnknownModelError(f"transformers cannot load {rest!r}: {_first_line(error)}") from error
    try:
        processor: Any = AutoImageProcessor.from_pretrained(rest)
    except Exception as error:  # the text tower works without; encoding images then says what is missing
        logger.warning(
            "%s has no image processor (%s): give image embeddings or pixel tensors", name, _first_line(error)
        )
        processor = None
    preprocess = None if processor is None else lambda image: processor(images=image, return_tensors="pt")
    return wrap(model, tokenizer=tokenizer, preprocess=preprocess, name=name)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_SCHEMES: dict[str, Callable[[str, str, str | Path | None, torch.device, torch.dtype | None], DualEncoder]] = {
    "open_clip": _load_open_clip,
    "hf": _load_transformers,
}

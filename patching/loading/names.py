"""From a model's name to a verified :class:`DualEncoder`."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import torch

from ...arguments import explains_arguments
from ...errors import UnknownModelError
from ...io.quoting import shown
from ...validation import FloatType, Nothing, check_option
from ..torch_state import neutral_state
from .dual_encoder import DualEncoder
from .medical import MEDICAL
from .sentences import from_sentence_transformers
from .sources import Request, from_open_clip, from_transformers, loading

GROUP = "tracescribe.models"


@explains_arguments
@neutral_state()
def load(
    name: str,
    *,
    pretrained: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
) -> DualEncoder:
    """Load a model by name, build its text tower and verify it.

    Args:
        name: ``"phantom"`` (the shipped miniature; needs no network), ``"phantom:<folder>"`` (one that you trained) or
            another registered alias;
            ``"open_clip:<architecture>"`` with ``pretrained``, or ``"open_clip:hf-hub:<id>"`` and
            ``"open_clip:local-dir:<folder>"`` that carry their weights; ``"hf:<id or folder>"`` for transformers;
            ``"st:<id or folder>"`` for sentence-transformers, without images (docs/text_encoders.md); or a medical
            model: ``"biomedclip"``, ``"pubmedclip"``, ``"plip"``, ``"chexzero"``, ``"bmc-clip"``, ``"biovil-t"``,
            ``"medclip"``, ``"gloria"``, ``"medsiglip"``, ``"conch"`` (docs/medical.md).
        pretrained: for open_clip architectures a tag such as ``"openai"``, or a checkpoint file; for medical models the
            file or folder that holds their weights, instead of a download.
        device: where the model runs.
        dtype: cast the whole model, e.g. ``torch.bfloat16`` or ``"bfloat16"``; its own precision by default.
        trust_remote_code: let a model's repository, or a checkpoint's pickle, run code of its own on this machine.

    Raises:
        UnknownModelError: the name is not understood, or nothing can be loaded under it.
        TraceError: a dtype that is no floating-point type.
        UnsupportedTowerError, TowerMismatchError, NonFiniteError: see :func:`wrap`.

    >>> import tracescribe as ts
    >>> ts.load("phantom")
    DualEncoder('phantom': causal text tower, 8 blocks × 4 heads × 64 wide, read at argmax; on cpu)
    """
    if not isinstance(name, str):
        raise UnknownModelError(f"a model's name is a text, got {shown(name)}; a module of yours goes to ts.wrap")
    wanted = check_option("dtype", dtype, (Nothing(), FloatType()))
    precision = None if wanted is None else getattr(torch, wanted)
    request = Request(name, pretrained, device, precision, trust_remote_code)
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "open_clip":
        return from_open_clip(rest, request)
    if name in MEDICAL:
        return MEDICAL[name](request)
    if pretrained is not None:
        raise UnknownModelError(
            f"{name!r} names its own weights: drop pretrained={str(pretrained)!r}, which goes with "
            f"'open_clip:<architecture>' and medical models"
        )
    if colon and scheme == "hf":
        return from_transformers(rest, request)
    if colon and scheme == "st":
        return from_sentence_transformers(rest, request)
    aliases = _aliases()
    alias = aliases.get(scheme)
    if alias is not None and rest + colon != ":":
        folder = {"folder": rest} if colon else {}
        with loading(f"the model {name!r} ({alias.value}) cannot be loaded"):
            model: DualEncoder = alias.load()(device=device, dtype=precision, **folder)
            return model
    known = sorted([*aliases, *MEDICAL])
    close = difflib.get_close_matches(name, known, n=1)
    raise UnknownModelError(
        f"unknown model {shown(name)}{f', did you mean {close[0]!r}?' if close else ''}: use one of "
        f"{', '.join(map(repr, known))}, 'open_clip:<architecture>' with pretrained=..., 'hf:<id or folder>' or "
        f"'st:<id or folder>'"
    )


def names_weights(name: str, pretrained: str | Path | None = None) -> bool:
    """Whether :func:`load` knows which weights to take: False for the name of a wrapped module, or a bare architecture.

    >>> names_weights("phantom"), names_weights("CLIPModel"), names_weights("open_clip:ViT-B-32")
    (True, False, False)
    """
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "open_clip":
        return pretrained is not None or rest.startswith(("hf-hub:", "local-dir:"))
    return name in MEDICAL or (bool(colon) and scheme in ("hf", "st")) or scheme in _aliases()


def _aliases() -> dict[str, EntryPoint]:
    """The models of installed packages by name.

    Raises:
        UnknownModelError: two packages give one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise UnknownModelError(
                f"two installed packages have a model named {entry.name!r} ({other.value} and {entry.value}): "
                f"uninstall one of them"
            )
    return found

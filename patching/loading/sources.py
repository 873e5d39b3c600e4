"""Where models come from: open_clip's architectures, folders and hub names, and transformers' models."""

from __future__ import annotations

import difflib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import TracescribeError, TraceWarning, UnknownModelError
from ...io.quoting import first_line, shown, shown_path
from ...io.reading import is_folder
from ...warn import warn_user
from .checkpoints import (
    Checkpoint,
    check_model_folder,
    explain,
    lacking,
    read_checkpoint,
    regular_file,
    trained_with_quick_gelu,
)
from .dual_encoder import DualEncoder, wrap
from .hub import hub_or_cache
from .image_encoder import Preprocess

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What :func:`tracescribe.load` was asked for."""

    name: str
    pretrained: str | Path | None = None
    device: str | torch.device = "cpu"
    dtype: torch.dtype | None = None
    trust_remote_code: bool = False


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Whatever a library raises inside becomes one sentence that begins with ``what``."""
    try:
        yield
    except (TracescribeError, MemoryError):
        raise
    except Exception as error:
        raise UnknownModelError(f"{what}: {explain(error)[:400]}") from error


def from_open_clip(
    rest: str, request: Request, preprocess: Preprocess | None = None, *, activation_stated: bool = False
) -> DualEncoder:
    """An architecture of open_clip with a tag or a file, ``hf-hub:<id>``, or ``local-dir:<folder>``.

    preprocess: instead of open_clip's.
    activation_stated: the weights' authors say that the architecture's activation is theirs.

    Raises:
        UnknownModelError: no such architecture, or its weights cannot be loaded; random weights only if none are asked
            for.
    """
    import open_clip

    pretrained = None if request.pretrained is None else str(request.pretrained)
    plain = not rest.startswith(("hf-hub:", "local-dir:"))
    if plain:
        _check_architecture(rest)
        if pretrained is None:
            logger.warning("%s is loaded without pretrained weights: every parameter is random", request.name)
    elif pretrained is not None:
        raise UnknownModelError(f"{request.name!r} names its own weights: drop pretrained={pretrained!r}")
    # the text tower's own weights from before CLIP's training: never in place of weights that are missing
    options: dict[str, Any] = {"device": request.device, "pretrained_text": False}
    what = f"open_clip cannot load {shown(rest)} (pretrained={shown(pretrained)})"
    a_file = pretrained is not None and os.path.lexists(pretrained)
    local = rest.startswith("local-dir:") or a_file or (plain and pretrained is None)
    with loading(what), nullcontext() if local else hub_or_cache(what):
        if rest.startswith("local-dir:"):
            check_model_folder(rest.removeprefix("local-dir:"))
        if plain and pretrained is None:
            with _unsaid("No pretrained weights loaded"):  # said above
                model, _, default = open_clip.create_model_and_transforms(rest, pretrained=None, device=request.device)
        elif plain and not open_clip.get_pretrained_cfg(rest.replace("/", "-"), pretrained):
            model, default = _with_file(
                rest, Path(str(pretrained)), options, request.trust_remote_code, activation_stated
            )
        else:
            if plain:
                tag = open_clip.get_pretrained_cfg(rest.replace("/", "-"), pretrained)
                _compare_activations(
                    rest, f"the tag {pretrained!r}", (bool(tag.get("quick_gelu")), "open_clip lists it so")
                )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "QuickGELU mismatch")  # said above, with what to do about it
                model, default = open_clip.create_model_from_pretrained(rest, pretrained=pretrained, **options)
        tokenizer = open_clip.get_tokenizer(rest)
    return wrap(
        model.to(request.dtype).eval(), tokenizer=tokenizer, preprocess=preprocess or default, name=request.name
    )


@contextmanager
def _unsaid(words: str) -> Iterator[None]:
    """Drop what open_clip logs, by the root logger, with these words."""

    def drop(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)


def _check_architecture(name: str) -> None:
    import open_clip

    known = open_clip.list_models()
    if name.replace("/", "-") not in known:
        close = " or ".join(map(repr, difflib.get_close_matches(name, known, n=3, cutoff=0.5)))
        raise UnknownModelError(
            f"open_clip has no architecture {name!r}: "
            + (f"did you mean {close}?" if close else "see open_clip.list_models()")
        )


def _with_file(
    architecture: str, path: Path, options: dict[str, Any], run_pickled_code: bool, stated: bool
) -> tuple[Any, Any]:
    """An architecture with the weights of a file, and its preprocessing."""
    import open_clip

    if not os.path.lexists(path):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture.replace("/", "-"))) or "none"
        raise UnknownModelError(
            f"open_clip cannot load {architecture!r}: {shown_path(path)} is neither a file nor one of its tags ({tags})"
        )
    regular_file(path)
    if path.suffix in (".npz", ".npy"):  # big_vision's format, which open_clip reads itself
        return open_clip.create_model_from_pretrained(architecture, pretrained=str(path), **options)
    checkpoint = read_checkpoint(path, run_pickled_code=run_pickled_code)
    if not stated:
        _announce_unknown_activation(architecture, checkpoint)
    _compare_activations(architecture, f"the file {path.name!r}", trained_with_quick_gelu(checkpoint))
    with tempfile.TemporaryDirectory() as folder:  # open_clip reads files, and plain weights only
        plain = str(Path(folder) / "weights.pt")
        torch.save(checkpoint.state, plain)
        return open_clip.create_model_from_pretrained(architecture, pretrained=plain, **options)


def _announce_unknown_activation(architecture: str, checkpoint: Checkpoint) -> None:
    """Warn where nothing tells a file's activation and the name without ``-quickgelu`` is the default of the two."""
    import open_clip

    quick = f"{architecture.replace('/', '-')}-quickgelu"
    if quick in open_clip.list_models() and trained_with_quick_gelu(checkpoint) is None:
        warn_user(
            f"nothing tells which activation the weights of {shown_path(checkpoint.path)} were trained with; "
            f"{architecture!r} computes GELU, and QuickGELU weights (OpenAI's, and what was fine-tuned from them) "
            f"would give wrong embeddings without an error. If they are such, load 'open_clip:{quick}'; if not, "
            f"say so in the file: torch.save({{'state_dict': ..., 'quick_gelu': False}}, ...)",
            TraceWarning,
        )


def _compare_activations(architecture: str, weights: str, trained: tuple[bool, str] | None) -> None:
    """Warn where weights and architecture disagree on QuickGELU; nothing else would show it."""
    import open_clip

    computes = bool((open_clip.get_model_config(architecture.replace("/", "-")) or {}).get("quick_gelu", False))
    if trained is None or trained[0] == computes:
        return
    other = architecture.removesuffix("-quickgelu") if computes else f"{architecture}-quickgelu"
    known = other.replace("/", "-") in open_clip.list_models()
    names = ("GELU", "QuickGELU")
    logger.warning(
        "%s was trained with %s, it seems (%s), but %r computes %s: embeddings and traces would be wrong, without an "
        "error; %s",
        weights,
        names[trained[0]],
        trained[1],
        architecture,
        names[computes],
        f"load 'open_clip:{other}'" if known else "build the model with open_clip's quick_gelu option and ts.wrap it",
    )


def complete_model(of_model: Any, place: str, **options: Any) -> Any:
    """``of_model.from_pretrained(place)``, which must find every weight: transformers makes random ones up otherwise.

    Raises:
        UnknownModelError: weights are missing; names them.
    """
    model, found = of_model.from_pretrained(place, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        raise UnknownModelError(f"{place!r} cannot be loaded as a {type(model).__name__}: {lacking(missing)}")
    return model


def from_transformers(rest: str, request: Request, where: str | Path | None = None) -> DualEncoder:
    """A transformers model by its hub id, or from the folder ``where``.

    Raises:
        UnknownModelError: it cannot be loaded, or needs code of its repository and ``trust_remote_code`` is not given.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    place = rest if where is None else str(where)
    options: dict[str, Any] = {"trust_remote_code": request.trust_remote_code}
    what = f"transformers cannot load {shown(place)}"
    with loading(what), nullcontext() if is_folder(place) else hub_or_cache(what):
        if is_folder(place):
            check_model_folder(place)
        try:
            model = complete_model(AutoModel, place, dtype=request.dtype or "auto", **options)
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise UnknownModelError(
                f"{place!r} brings Python code of its own, which runs on your machine: read it, then pass "
                f"trust_remote_code=True"
            ) from error
    try:
        processor: Any = AutoImageProcessor.from_pretrained(place, **options)
    except Exception as error:  # the text tower works without; encoding images then says what is missing
        logger.warning(
            "%s has no image processor (%s): give image embeddings or pixel tensors", request.name, first_line(error)
        )
        processor = None
    preprocess = None if processor is None else lambda image: processor(images=image, return_tensors="pt")
    return wrap(model.to(request.device).eval(), tokenizer=tokenizer, preprocess=preprocess, name=request.name)

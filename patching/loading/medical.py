"""The medical dual encoders by name: where the weights, tokenizer and preprocessing of each come from."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import DataFormatError, UnknownModelError
from ...io.quoting import shown_path
from ...io.reading import is_folder
from ..towers.tokenizers import TransformersTokenizer
from .checkpoints import Checkpoint, check_model_folder, read_checkpoint
from .dual_encoder import DualEncoder, wrap
from .image_encoder import Preprocess
from .pixels import biovil_pixels, chexzero_pixels, gloria_pixels, medclip_pixels
from .sources import Request, complete_model, from_open_clip, from_transformers, loading

BIO_CLINICAL_BERT = "emilyalsentzer/Bio_ClinicalBERT"


def _hub_of_open_clip(hub_id: str) -> Callable[[Request], DualEncoder]:
    def load(request: Request) -> DualEncoder:
        place = f"hf-hub:{hub_id}" if request.pretrained is None else f"local-dir:{request.pretrained}"
        return from_open_clip(place, replace(request, pretrained=None))

    return load


def _hub_of_transformers(hub_id: str) -> Callable[[Request], DualEncoder]:
    return lambda request: from_transformers(hub_id, request, request.pretrained)


def _file_for(architecture: str, source: str, preprocess: Preprocess | None = None) -> Callable[[Request], DualEncoder]:
    """A checkpoint file that its authors distribute, for an architecture of open_clip."""

    def load(request: Request) -> DualEncoder:
        return from_open_clip(
            architecture, replace(request, pretrained=_given(request, source)), preprocess, activation_stated=True
        )

    return load


def _given(request: Request, source: str) -> Path:
    """The file or folder that the user must name."""
    if request.pretrained is None:
        raise UnknownModelError(
            f"{request.name!r} is distributed by its authors ({source}): download it and pass pretrained='where it is'"
        )
    path = Path(request.pretrained)
    if not os.path.lexists(path):
        raise UnknownModelError(f"pretrained={shown_path(path)} does not exist; {request.name!r} comes from {source}")
    return path


def _biovil_t(request: Request) -> DualEncoder:
    """CXR-BERT by hi-ml-multimodal's class, or by the repository's own code if that is allowed."""
    from transformers import AutoModel, AutoTokenizer

    place = str(request.pretrained or "microsoft/BiomedVLP-BioViL-T")
    options: dict[str, Any] = {} if request.pretrained else {"revision": "v1.0"}
    if request.trust_remote_code:
        of_model, of_tokenizer = AutoModel, AutoTokenizer
        options["trust_remote_code"] = True
    else:
        other = ", or pass trust_remote_code=True to run the code of the model's own repository"
        package = _package("health_multimodal.text.model", "hi-ml-multimodal", request, other)
        of_model, of_tokenizer = package.CXRBertModel, package.CXRBertTokenizer
    with loading(f"{request.name!r} cannot be loaded from {place!r}"):
        if is_folder(place):
            check_model_folder(place)
        model, tokenizer = complete_model(of_model, place, **options), of_tokenizer.from_pretrained(place, **options)
    return _wrapped(model, tokenizer, biovil_pixels, request)


def _medclip(request: Request) -> DualEncoder:
    """MedCLIP-ViT: the classes of its package, and pytorch_model.bin of the folder that its README links to."""
    from transformers import AutoTokenizer

    folder = _given(request, "https://github.com/RyanWangZf/MedCLIP, the zip file of MedCLIP-ViT")
    # the rest of the package asks for a class that transformers 5 has not
    package = _package("medclip.modeling_medclip", "medclip==0.0.3", request, skip_init=True)
    with loading(f"{request.name!r} cannot be loaded from {str(folder)!r}"):
        model = package.MedCLIPModel(vision_cls=package.MedCLIPVisionModelViT)
        _fill(model, read_checkpoint(folder / "pytorch_model.bin" if folder.is_dir() else folder))
        has_tokenizer = folder.is_dir() and (folder / "tokenizer_config.json").exists()
        tokenizer = AutoTokenizer.from_pretrained(str(folder) if has_tokenizer else BIO_CLINICAL_BERT)
    return _wrapped(model, tokenizer, medclip_pixels, request)


def _gloria(request: Request) -> DualEncoder:
    """GLoRIA: its repository builds the model that the checkpoint's configuration describes."""
    path = _given(request, "https://github.com/marshuang80/gloria, chexpert_resnet50.ckpt")
    package = _package("gloria.builder", "git+https://github.com/marshuang80/gloria", request)
    checkpoint = read_checkpoint(path, run_pickled_code=request.trust_remote_code)
    if "hyper_parameters" not in checkpoint.extra:
        raise UnknownModelError(f"{str(path)!r} holds no 'hyper_parameters': it is no checkpoint of GLoRIA's training")
    state = {name.rpartition("gloria.")[2]: weight for name, weight in checkpoint.state.items()}
    with loading(f"{request.name!r} cannot be loaded from {str(path)!r}"):
        model = package.build_gloria_model(checkpoint.extra["hyper_parameters"])
        _fill(model, replace(checkpoint, state=state))
    return _wrapped(model, TransformersTokenizer(model.tokenizer, gloria_words), gloria_pixels, request)


def gloria_words(text: str) -> str:
    """A text as GLoRIA's ``process_text`` cleans it: lower-case words; sentences of a single word are left out.

    Raises:
        DataFormatError: nothing is left of the text.

    >>> gloria_words("Small left effusion, no edema. Normal.")
    'small left effusion no edema'
    """
    sentences = [part for numbered in re.split(r"[0-9]+\.", text.replace("\n", " ")) for part in numbered.split(".")]
    words = [re.findall(r"\w+", sentence.lower()) for sentence in sentences]
    cleaned = " ".join(word.encode("ascii", "ignore").decode() for part in words if len(part) > 1 for word in part)
    if text.strip() and not cleaned:
        raise DataFormatError(
            f"GLoRIA's own cleaning drops sentences of a single word, and nothing is left of {text!r}: write two words"
        )
    return " ".join(cleaned.split())


def _conch(request: Request) -> DualEncoder:
    """CONCH: the model, tokenizer and preprocessing of its package."""
    package = _package("conch.open_clip_custom", "git+https://github.com/mahmoodlab/CONCH", request)
    with loading(f"{request.name!r} cannot be loaded"):
        path = Path(request.pretrained) if request.pretrained else _download("MahmoodLab/conch", "pytorch_model.bin")
        path = path / "pytorch_model.bin" if path.is_dir() else path
        checkpoint = read_checkpoint(path)
        if checkpoint.archive:  # the package's loader reads the file again, in its way
            raise UnknownModelError(f"{shown_path(path)} is a TorchScript archive, and {request.name!r} is none")
        model, preprocess = package.create_model_from_pretrained("conch_ViT-B-16", str(path))
        _fill(model, checkpoint)  # the package's own loader passes over weights that are missing
        tokenizer = package.get_tokenizer()
    return _wrapped(model, tokenizer, preprocess, request)


def _download(hub_id: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(hub_id, name))


def _fill(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load weights by name, all of them; buffers that earlier versions of transformers saved are left out."""
    wanted = model.state_dict()
    derived = ("position_ids", "relative_position_index")
    state = {k: v for k, v in checkpoint.state.items() if k in wanted or not k.endswith(derived)}
    model.load_state_dict(state)


def _wrapped(model: nn.Module, tokenizer: Any, preprocess: Preprocess, request: Request) -> DualEncoder:
    model = model.to(request.device)
    model = model if request.dtype is None else model.to(request.dtype)
    return wrap(model.eval(), tokenizer=tokenizer, preprocess=preprocess, name=request.name)


def _package(name: str, install: str, request: Request, other: str = "", skip_init: bool = False) -> Any:
    """A module of a model's own package.

    skip_init: import the module alone where the package's ``__init__`` cannot be run.

    Raises:
        UnknownModelError: it is not installed; says how to install it.
    """
    top = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        spec = importlib.util.find_spec(top)
        if skip_init and spec is not None and spec.submodule_search_locations:
            return _without_init(name, list(spec.submodule_search_locations))
        raise UnknownModelError(
            f"{request.name!r} needs the package {top!r} ({error}): pip install '{install}'{other}"
        ) from error


def _without_init(name: str, places: list[str]) -> Any:
    top = name.partition(".")[0]
    bare = types.ModuleType(top)
    bare.__path__ = places
    sys.modules[top] = bare
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[top]


MEDICAL: dict[str, Callable[[Request], DualEncoder]] = {
    "biomedclip": _hub_of_open_clip("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"),
    "pubmedclip": _hub_of_transformers("flaviagiammarino/pubmed-clip-vit-base-patch32"),
    "plip": _hub_of_transformers("vinid/plip"),
    "medsiglip": _hub_of_transformers("google/medsiglip-448"),
    "chexzero": _file_for("ViT-B-32-quickgelu", "https://github.com/rajpurkarlab/CheXzero", chexzero_pixels),
    "bmc-clip": _file_for("ViT-L-14", "https://huggingface.co/BIOMEDICA/BMC_CLIP_CF"),
    "biovil-t": _biovil_t,
    "medclip": _medclip,
    "gloria": _gloria,
    "conch": _conch,
}

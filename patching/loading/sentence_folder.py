"""What a folder of sentence-transformers says of its model: modules, pooling, prompts, limits; no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from ...errors import UnknownModelError, UnsupportedTowerError
from ...io.json_lines import read_json
from ...io.quoting import shown, shown_path
from ..adapters.sentence_encoder import check_dense, check_modules, check_transformer

__all__ = ["DensePart", "SentenceFolder", "read_sentence_folder"]

# of the transformer; the package takes the first that is there
_FILES = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
_TANH = "torch.nn.modules.activation.Tanh"


class _Settings(BaseModel):
    """The types of fields that are read; versions of the package write others too."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Transformer(_Settings):
    max_seq_length: PositiveInt | None = None
    do_lower_case: bool = False
    modality_config: dict[str, Any] | None = None
    model_args: dict[str, Any] | None = None
    model_kwargs: dict[str, Any] | None = None
    tokenizer_args: dict[str, Any] | None = None
    processor_kwargs: dict[str, Any] | None = None
    config_args: dict[str, Any] | None = None
    config_kwargs: dict[str, Any] | None = None


class _Pooling(_Settings):
    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True


class _Dense(_Settings):
    activation_function: str | None = _TANH


class _Model(_Settings):
    model_type: str = "SentenceTransformer"
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None


class _Module(_Settings):
    type: str
    path: str


@dataclass(frozen=True)
class DensePart:
    """A linear layer and its activation; ``place`` holds the weights, and ``activation`` is the name of its class."""

    place: Path
    activation: str


@dataclass(frozen=True)
class SentenceFolder:
    """A model as its folder describes it.

    transformer: where its weights and its tokenizer are. pooling: the pooling's settings. head: what follows it, None
    for a division by the length. limit: most tokens of a text, if it is said here. lower: whether texts are put in
    lower case. prompt: what is put before every text. prompts: all of them, by name.
    """

    transformer: Path
    pooling: Mapping[str, Any]
    head: tuple[DensePart | None, ...]
    limit: int | None
    lower: bool
    prompt: str
    prompts: dict[str, str]


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read a folder's settings.

    Raises:
        UnknownModelError: a file is missing, or holds something else than settings; names it.
        UnsupportedTowerError: a part of the model that is not read exactly; names it.
    """
    where = shown_path(folder)
    modules = _modules(folder)
    check_modules([kind for kind, _ in modules], where)
    (_, first), (_, second), *further = modules
    head = [_dense(folder / place) if kind == "Dense" else None for kind, place in further if kind != "Dropout"]
    path = next((folder / first / name for name in _FILES if (folder / first / name).exists()), folder / first / "none")
    transformer = _settings(path, _Transformer)
    check_transformer(transformer, shown_path(path))
    prompt, prompts = _prompts(folder)
    return SentenceFolder(
        transformer=folder / first,
        pooling=_settings(folder / second / "config.json", _Pooling),
        head=tuple(head),
        limit=transformer.get("max_seq_length"),
        lower=transformer.get("do_lower_case", False),
        prompt=prompt,
        prompts=prompts,
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Class and folder of every module, in order."""
    path = folder / "modules.json"
    if not path.exists():
        raise UnknownModelError(
            f"{shown_path(folder)} has no modules.json, so it is no sentence-transformers folder; a plain transformers "
            f"model is loaded by 'hf:{folder}'"
        )
    listed = read_json(path)
    if not isinstance(listed, list):
        raise UnknownModelError(f"{shown_path(path)} is no list of modules but {shown(listed)}")
    found = []
    for module in (_checked(path, entry, _Module) for entry in listed):
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise UnknownModelError(f"{shown_path(path)} leads out of its folder, to {shown(module['path'])}")
        package, _, kind = module["type"].rpartition(".")
        if package.partition(".")[0] != "sentence_transformers":
            raise UnsupportedTowerError(
                f"{shown_path(folder)} has a module of type {shown(module['type'])}, which is none of "
                f"sentence-transformers' and is not read here"
            )
        found.append((kind, module["path"]))
    return found


def _dense(folder: Path) -> DensePart:
    settings = _settings(folder / "config.json", _Dense)
    check_dense(settings, shown_path(folder / "config.json"))
    return DensePart(folder, settings.get("activation_function", _TANH) or "torch.nn.Identity")


def _prompts(folder: Path) -> tuple[str, dict[str, str]]:
    """The prompt that is put before every text, and all prompts by name."""
    path = folder / "config_sentence_transformers.json"
    settings = _settings(path, _Model)
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UnsupportedTowerError(
            f"{shown_path(folder)} is a {shown(kind)}; only a SentenceTransformer, of one embedding per text, can be "
            f"traced"
        )
    prompts = {name: text or "" for name, text in (settings.get("prompts") or {}).items()}
    default = settings.get("default_prompt_name")
    if default is None:
        return "", prompts
    if default not in {"query": "", "document": "", **prompts}:  # these two are there in any case
        raise UnknownModelError(
            f"{shown_path(path)} puts the prompt {shown(default)} before texts, which is none of its prompts "
            f"{shown(list(prompts))}"
        )
    return prompts.get(default, ""), prompts


def _settings(path: Path, kind: type[_Settings]) -> dict[str, Any]:
    """The fields of a file, none where there is no such file."""
    return _checked(path, read_json(path), kind) if path.exists() else {}


def _checked(path: Path, value: Any, kind: type[_Settings]) -> dict[str, Any]:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}, not {shown(first['input'])}"
        if not where:
            said = f"it holds {shown(value)} where an object should be"
        raise UnknownModelError(f"{shown_path(path)} cannot be read: {said}") from None
    found: dict[str, Any] = value
    return found

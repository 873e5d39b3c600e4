"""Loads adapters that peft saved: checks the files, and applies the meaning they were trained with."""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...arguments import explains_arguments
from ...errors import DataFormatError
from ...io.reading import is_file
from .blocks import source_of

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

MAX_RANK = 1 << 14  # wider than any text tower here; a larger number is damage or an attack on memory
MATCH_SECONDS = 2.0  # for all patterns over all module names; a sane pattern takes microseconds


@explains_arguments
def load_lora(module: nn.Module, folder: str | Path) -> PeftModel:
    """Put adapters saved by peft (or by a training run, its folder ``adapter``) into ``module``, in place.

    They compute what they compute under the peft that saved them. Where that peft counted the out_proj adapter of fused
    attention another number of times than the installed one, its factor B is converted (see :mod:`.peft_attention`).

    Raises DataFormatError when the folder holds no adapters for this module, or damaged ones.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    from .peft_attention import give_out_proj_its_gradient, out_proj_factor

    path = Path(folder)
    if not is_file(path / "adapter_config.json"):
        raise DataFormatError(f"{folder}: holds no adapters (adapter_config.json is missing)")
    # without a file peft would look for the folder's name on the network
    if not any(is_file(path / f"adapter_model.{kind}") for kind in ("safetensors", "bin")):
        raise DataFormatError(f"{folder}: holds no adapters (adapter_model.safetensors is missing)")
    source = source_of(module)
    config, saved_by = _read_config(path / "adapter_config.json", source)
    try:
        weights = load_peft_weights(str(folder), device="cpu")
        bad = next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)
    except Exception as problem:  # torch and safetensors raise a dozen kinds for a damaged file
        raise DataFormatError(
            f"{folder}: the adapters' file is damaged ({_line(problem)}); was it cut short?"
        ) from problem
    if bad is not None:
        raise DataFormatError(f"{folder}: the adapters' tensor {bad!r} holds NaN or infinity")
    try:
        factor = out_proj_factor(saved_by)
        with warnings.catch_warnings():  # an error below says what this warning says
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(source, str(folder), config=config)
    except Exception as problem:  # peft's own checks raise many kinds
        raise DataFormatError(f"{folder}: these adapters do not fit the module: {_line(problem)}") from problem
    # peft passes over names that only the file or only the module has
    with _without_its_base(adapted):
        different = sorted(set(weights) ^ set(get_peft_model_state_dict(adapted)))
    if different:
        raise DataFormatError(
            f"{folder}: these adapters do not fit the module: {len(different)} tensors are in one of the two only, "
            f"such as {different[0]!r}"
        )
    if factor != 1:
        _scale_out_proj(adapted, factor)
    give_out_proj_its_gradient(adapted)
    return adapted


@contextmanager
def _without_its_base(adapted: PeftModel) -> Iterator[None]:
    """peft would look on the network for the model that the file names, to learn whether its vocabulary was resized."""
    config = adapted.active_peft_config
    name, config.base_model_name_or_path = config.base_model_name_or_path, None
    try:
        yield
    finally:
        config.base_model_name_or_path = name


@torch.no_grad()
def _scale_out_proj(adapted: nn.Module, factor: float) -> None:
    from peft.tuners.lora.layer import MultiheadAttention

    for layer in list(adapted.modules()):
        if isinstance(layer, MultiheadAttention):
            for adapter in layer.get_base_layer().out_proj.lora_B.values():
                adapter.weight.mul_(factor)


def _read_config(path: Path, module: nn.Module) -> tuple[PeftConfig, object]:
    """The configuration, its patterns replaced by the names of the modules they match; and the peft that saved it."""
    from peft import PeftConfig

    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as problem:
        raise DataFormatError(f"{path}: not JSON that can be read ({_line(problem)})") from problem
    if not isinstance(raw, dict):
        raise DataFormatError(f"{path}: holds a {type(raw).__name__} where an adapter's configuration was expected")
    for field in ("rank_pattern", "alpha_pattern"):
        if not isinstance(raw.get(field) or {}, dict):
            raise DataFormatError(f"{path}: field {field!r} must be an object, not {str(raw[field])[:80]!r}")
    ranks = {"r": raw.get("r", 8), **{f"rank_pattern.{key}": v for key, v in (raw.get("rank_pattern") or {}).items()}}
    for field, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
            raise DataFormatError(
                f"{path}: field {field[:80]!r} must be a rank of 1 to {MAX_RANK}, not {str(rank)[:40]}"
            )
    numerators = [raw.get("lora_alpha", 8), *(raw.get("alpha_pattern") or {}).values()]
    for value in numerators:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataFormatError(f"{path}: lora_alpha must be a finite number, not {str(value)[:40]!r}")
    for field in ("modules_to_save", "layers_pattern"):
        given = raw.get(field) or []
        for name in given if isinstance(given, list) else [given]:
            if not isinstance(name, str) or not re.fullmatch(r"[\w.]+", name):
                raise DataFormatError(f"{path}: field {field!r} must hold module names, not {str(name)[:80]!r}")
    base = raw.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise DataFormatError(f"{path}: field 'base_model_name_or_path' must be a text, not {str(base)[:80]!r}")
    _resolve_patterns(path, raw, [name for name, _ in module.named_modules() if name])
    try:
        with warnings.catch_warnings():  # fields of another peft
            warnings.simplefilter("ignore")
            return PeftConfig.from_peft_type(**raw), raw.get("peft_version")
    except Exception as problem:  # unknown kinds of adapters, fields of a wrong type
        raise DataFormatError(f"{path}: not a configuration that peft reads ({_line(problem)})") from problem


def _resolve_patterns(path: Path, raw: dict[str, Any], names: list[str]) -> None:
    """Replace regular expressions by the names that they match: peft would match them without a limit of time."""
    match = _Matcher(path)
    targets = raw.get("target_modules")
    excluded = raw.get("exclude_modules")
    if isinstance(excluded, str):
        excluded = raw["exclude_modules"] = [name for name in names if match(excluded, name)]
    if isinstance(targets, str) and targets != "all-linear":
        names = [name for name in names if match(targets, name) and not _named(name, excluded)]
        if not names:
            raise DataFormatError(
                f"{path}: these adapters do not fit the module: {targets[:80]!r} matches no module of it"
            )
        raw["target_modules"], raw["exclude_modules"] = "|".join(map(_escaped, names)), None
    elif isinstance(targets, list):
        names = [name for name in names if _named(name, targets) and not _named(name, excluded)]
    for field, default in (("rank_pattern", raw.get("r", 8)), ("alpha_pattern", raw.get("lora_alpha", 8))):
        given = raw.get(field) or {}
        if given:
            found = [
                (name, next((v for key, v in given.items() if match(rf"(.*\.)?({key})", name)), None)) for name in names
            ]
            # peft takes the first key that ends a module's name: of names that end alike the longer one comes first
            found.sort(key=lambda item: len(item[0]), reverse=True)
            raw[field] = {_escaped(name): default if value is None else value for name, value in found}


def _named(name: str, ends: object) -> bool:
    """Whether a list of peft's names a module: by its full name or the end of it."""
    return isinstance(ends, list) and any(name == end or name.endswith(f".{end}") for end in ends)


class _Matcher:
    """Full matches against module names, all of them together within a limit of time."""

    def __init__(self, path: Path) -> None:
        self._path, self._until = path, time.monotonic() + MATCH_SECONDS

    def __call__(self, pattern: str, name: str) -> bool:
        import regex

        try:
            return regex.fullmatch(pattern, name, timeout=max(self._until - time.monotonic(), 1e-3)) is not None
        except TimeoutError:
            problem = f"takes longer than {MATCH_SECONDS:g} s to match against the module's names"
        except (regex.error, RecursionError, OverflowError, MemoryError) as error:
            problem = f"is no regular expression ({_line(error)})"
        raise DataFormatError(f"{self._path}: the pattern {pattern[:80]!r} {problem}")


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")


def _line(problem: BaseException) -> str:
    """A foreign error's message, short."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"

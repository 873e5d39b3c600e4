"""Keys of the cache: one per text pair, over everything that its patched embeddings depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ...patching import Tower
    from ...patching.engine.batching import Prepared

__all__ = ["pair_keys", "shard_key"]

CONTENT = 2  # raised when the engine's numbers change in more than rounding


def pair_keys(tower: Tower, prepared: Prepared, method: str, dtype: str) -> list[str]:
    """SHA-256 by text pair over the tower (weights and architecture), both rows of token ids, the cells and versions.

    Token ids, not captions: another tokenizer with the same ids is the same question. Images are no part of it. The
    path is: who asks for the generic path wants it run, although its numbers agree with the resumed path's.
    """
    sweep = prepared.sweep
    context = json.dumps(
        {
            "content": CONTENT,
            "weights": tower.fingerprint(),
            "architecture": architecture(tower),
            "site": sweep.site.name,
            "window": sweep.window,
            "method": method,
            "path": prepared.path,
            "dtype": dtype,
            "versions": [*(".".join(version(name).split(".")[:2]) for name in ("torch", "nnsight"))],
        },
        sort_keys=True,
    )
    common = hashlib.sha256(context.encode())
    keys = []
    for i, (base, donor) in enumerate(zip(prepared.base, prepared.donor, strict=True)):
        digest = common.copy()
        columns = [
            [list(column.positions), column.head, *([] if column.queries is None else [list(column.queries)])]
            for column in prepared.columns[i]
        ]
        aligned = None if prepared.alignments is None else astuple(prepared.alignments[i])
        told = [_row(base), _row(donor), columns, aligned]
        if prepared.given is not None:
            told.append(prepared.given.key(tower, base))
        if prepared.projection is not None:
            told.append(
                ["projection", hashlib.sha256(prepared.projection.cpu().double().numpy().tobytes()).hexdigest()]
            )
        digest.update(json.dumps(told).encode())
        keys.append(digest.hexdigest())
    return keys


def shard_key(keys: Sequence[str]) -> str:
    """The name of a shard: which text pairs are in it, in which order; the last bits of its numbers depend on it."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


def architecture(tower: nn.Module) -> str:
    """SHA-256 over what a tower computes beside its weights: module classes and their plain settings, by name.

    Two models may share their weights and differ in the activation, the number of heads, a mask or an epsilon.

    >>> from torch import nn
    >>> architecture(nn.GELU()) == architecture(nn.GELU(approximate="tanh"))
    False
    """
    lines = [repr(getattr(tower, "spec", None))]
    for name, module in tower.named_modules():
        plain = {key: value for key, value in vars(module).items() if not key.startswith("_") and _is_plain(value)}
        settings = sorted((key, value) for key, value in plain.items() if key not in ("training", "explicit"))
        lines.append(f"{name} {type(module).__module__}.{type(module).__qualname__} {settings}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, type(None))) or (
        isinstance(value, tuple) and all(map(_is_plain, value))
    )


def _row(item: Any) -> Any:
    """Token ids as JSON; pixels by their content."""
    if hasattr(item, "detach"):
        pixels = item.detach().cpu().float().contiguous().numpy()
        return [list(pixels.shape), hashlib.sha256(pixels.tobytes()).hexdigest()]
    return [int(one) for one in item]

"""Provenance of a result: the model, its weights, the input, the versions, and the time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from ..errors import OptionError
from .quoting import shown

__all__ = ["creation_time", "provenance", "versions"]


def provenance(
    *, model: str, weights_sha256: str, tower: object, facts: Sequence[str], pairs_sha256: str, **further: Any
) -> dict[str, Any]:
    """The record that is saved beside a result, as JSON has it.

    tower: what ran; ``facts`` are the names of its attributes to record, tuples as lists.
    further: what else belongs into the record, such as ``logit_scale``.

    Raises:
        OptionError: SOURCE_DATE_EPOCH is set and is no time.

    >>> from types import SimpleNamespace
    >>> tower = SimpleNamespace(n_layers=8, readout_layers=(8,))
    >>> told = provenance(
    ...     model="phantom", weights_sha256="ab", tower=tower, facts=["n_layers", "readout_layers"], pairs_sha256="cd"
    ... )
    >>> told["tower"]
    {'n_layers': 8, 'readout_layers': [8]}
    """
    described = {name: getattr(tower, name) for name in facts}
    return {
        "model": model,
        "weights_sha256": weights_sha256,
        "pairs_sha256": pairs_sha256,
        "tower": {name: list(value) if isinstance(value, tuple) else value for name, value in described.items()},
        **further,
        "versions": dict(versions()),
        "created": creation_time(),
    }


@cache
def versions() -> Mapping[str, str]:
    """The versions of the packages that decide a result's numbers."""
    return {name: version(name) for name in ("tracescribe", "torch", "nnsight", "numpy")}


def creation_time() -> str:
    """Now, in UTC; or the time that SOURCE_DATE_EPOCH states, so that equal runs write equal files.

    Call it before long work too, so that a bad value is found at once.

    Raises:
        OptionError: SOURCE_DATE_EPOCH is set and is no number of seconds since 1970 that a calendar has.
    """
    stated = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        seconds = time.time() if stated is None else int(stated)
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        raise OptionError(
            f"the environment variable SOURCE_DATE_EPOCH is {shown(stated)}; give whole seconds since 1970, or unset it"
        ) from None

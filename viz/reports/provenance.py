"""How a result came about, as a table of a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..figure_data.labels import shorten
from .report import Table

__all__ = ["provenance_table"]

_FIRST = ("model", "weights_sha256", "pairs_sha256", "tracescribe", "torch", "nnsight", "created", "seed")


def provenance_table(told: Mapping[str, Any], caption: str = "") -> Table:
    """Every entry of a provenance, those that identify the input first.

    >>> provenance_table({"site": "mlp", "model": "phantom"}).rows
    [['model', 'phantom'], ['site', 'mlp']]
    """
    order = [key for key in _FIRST if key in told] + sorted(set(told) - set(_FIRST))
    return Table(["field", "value"], [[key, _text(told[key])] for key in order], caption=caption)


def _text(value: Any) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 160)

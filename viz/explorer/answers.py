"""What the page shows of a selected cell, row or column, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import TracescribeError
from ..figure_data.labels import tidy_token
from .asking import extreme_pairs, role_of
from .buffers import Buffers
from .computing import MAIN
from .panels import Panel, Panels

if TYPE_CHECKING:
    from ...tracer import CausalTrace
    from ..figure_data import HeatmapData
    from .session import ExplorerSession

__all__ = ["alone", "answer", "selected_role"]


def answer(session: ExplorerSession, panels: Panels | str | None, buffers: Buffers) -> dict[str, Any] | None:
    """What is known of the selected cell, row or column."""
    layer, column = session.settings.layer, session.settings.column
    if (layer is None and column is None) or not isinstance(panels, Panels):
        return None
    data = panels.panels[-1].data
    n_layers, n_columns = data.values.shape
    if (layer or 0) >= n_layers or (column or 0) >= n_columns:
        return None
    name = _column_name(panels, column)
    found: dict[str, Any] = {
        "title": _title(data, layer, name, by_role=panels.by_role),
        "cells": [{"name": panel.name, "value": _cell(panel, layer, column)} for panel in panels.panels],
        "lines": _lines(data, layer, column),
        "quantity": data.quantity,
        "token": name,
    }
    if alone(session, panels) and session.result is not None:
        found |= _of_one_pair(session, session.result.traces[MAIN], layer, column, buffers)
    if column is not None and layer is not None:
        found["data"] = _extremes(session, layer, selected_role(session, panels), buffers)
    return found


def alone(session: ExplorerSession, panels: Panels) -> bool:
    """Whether one pair's own tokens are shown, with nothing beside them or subtracted."""
    return session.settings.scope == "pair" and not panels.by_role and len(panels.panels) == 1


def selected_role(session: ExplorerSession, panels: Panels) -> str | None:
    """The role of the tokens in the selected column; None where it is not known."""
    column = session.settings.column
    if column is None:
        return None
    if panels.by_role:
        return panels.panels[-1].data.columns[column]
    if alone(session, panels) and session.result is not None and not session.captions.aligned:
        return role_of(session.result.traces[MAIN], column)
    return None


def _column_name(panels: Panels, column: int | None) -> str:
    """The name of a column: of two maps without a difference, which need not have the same tokens, in both."""
    if column is None:
        return ""
    shown = panels.panels if len(panels.panels) == 2 else panels.panels[-1:]
    labels = [panel.data.labels for panel in shown]
    return " | ".join(dict.fromkeys(names[column] for names in labels if column < len(names)))


def _title(data: HeatmapData, layer: int | None, name: str, *, by_role: bool) -> str:
    parts = [] if layer is None else [f"layer {data.layers[layer]}"]
    if name:
        parts.append(f"{'tokens in role' if by_role else 'token'} {name}")
    return " · ".join(parts)


def _cell(panel: Panel, layer: int | None, column: int | None) -> float | None:
    """The value of a cell; of a row or column, its sum."""
    values = panel.values
    if (layer is not None and layer >= values.shape[0]) or (column is not None and column >= values.shape[1]):
        return None
    chosen = values[slice(None) if layer is None else layer, slice(None) if column is None else column]
    return float(np.nansum(chosen)) if np.isfinite(chosen).any() else None


def _lines(data: HeatmapData, layer: int | None, column: int | None) -> list[dict[str, Any]]:
    """The cells of a row, the largest first, or of a column, from the last layer down."""
    if layer is not None and column is not None:
        return []
    if layer is None:
        assert column is not None
        cells = [
            (f"layer {number_}", float(value))
            for number_, value in zip(data.layers, data.values[:, column], strict=True)
        ]
        return [{"name": name, "value": None if np.isnan(value) else value} for name, value in reversed(cells)]
    named = sorted(
        zip(data.labels, data.values[layer].tolist(), strict=True), key=lambda one: -np.nan_to_num(abs(one[1]))
    )
    return [{"name": name, "value": None if np.isnan(value) else value} for name, value in named[:12]]


def _of_one_pair(
    session: ExplorerSession, trace: CausalTrace, layer: int | None, column: int | None, buffers: Buffers
) -> dict[str, Any]:
    """Heads and attention: of the pair that is entered."""
    result = session.result
    assert result is not None
    found: dict[str, Any] = {"can_split": session.settings.site == "resid"}
    if layer is not None and column is not None:
        attention = session.attention.get((result.number, layer, column))
        if attention is not None:
            found["attention"] = [
                {"cells": buffers.array(patterns), "keys": [tidy_token(token, token.startswith("[")) for token in keys]}
                for patterns, keys in attention
            ]
            found["from"] = [tidy_token(keys[column], keys[column].startswith("[")) for _, keys in attention]
        found["can_attend"] = int(trace.layers[layer]) > 0
    if column is not None:
        heads = session.heads.get((result.number, column))
        found["heads"] = None if heads is None else buffers.array(heads)
    return found


def _extremes(session: ExplorerSession, layer: int, role: str | None, buffers: Buffers) -> dict[str, Any] | None:
    """The pairs of the data set with the strongest and weakest effect where the cell is."""
    if not session.pairs or role is None:
        return None
    trace = session.pooled.get(("data", MAIN, session.pooled_options()))
    if trace is None:
        return {"traced": False, "role": role}
    try:
        ends = extreme_pairs(trace, layer, role)
    except TracescribeError as error:
        return {"traced": True, "role": role, "problem": str(error)}
    return {
        "traced": True,
        "role": role,
        "strongest": [_extreme(session, i, value, buffers) for i, value in ends[0]],
        "weakest": [_extreme(session, i, value, buffers) for i, value in ends[1]],
    }


def _extreme(session: ExplorerSession, i: int, value: float, buffers: Buffers) -> dict[str, Any]:
    pair = session.pairs[i]
    return {
        "number": i,
        "id": str(i if pair.id is None else pair.id),
        "correct": pair.correct,
        "foil": pair.foil,
        "value": value,
        "picture": buffers.picture(session.pictures.of(i)),
    }

"""The cells of a map, (layer, row), as a list that can be ordered; and for each pair which tokens a row holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import TraceError
from .maps import TraceMap
from .profiles import pairs_used
from .read_only import ReadOnlyArrays
from .sides import rows_of

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["MapCells"]


@dataclass(frozen=True, eq=False)
class MapCells(ReadOnlyArrays):
    """The cells of a trace's map that have a value, layer by layer.

    layer: number of each cell's layer (0 = embedding output). row: its row among ``rows``. value: its CTE.
    """

    layer: Int[np.ndarray, " cell"]
    row: Int[np.ndarray, " cell"]
    value: Float[np.ndarray, " cell"]
    rows: tuple[str, ...]

    @classmethod
    def of(cls, cells: TraceMap) -> MapCells:
        """The cells of a map."""
        at, row = np.nonzero(np.isfinite(cells.values))
        return cls(cells.layers[at], row, cells.values[at, row], cells.rows)

    def of_layers(self, layers: Sequence[int]) -> MapCells:
        """The cells of some layers."""
        here = np.isin(self.layer, list(layers))
        return MapCells(self.layer[here], self.row[here], self.value[here], self.rows)

    def __len__(self) -> int:
        return len(self.layer)

    def name(self, cell: int) -> str:
        """How a cell is shown.

        >>> MapCells(np.array([3]), np.array([0]), np.array([0.5]), ("[end]",)).name(0)
        'layer 3, [end]'
        """
        return f"layer {int(self.layer[cell])}, {self.rows[int(self.row[cell])]}"

    def by_effect(self) -> Int[np.ndarray, " cell"]:
        """Numbers of the cells, the largest CTE first."""
        return np.argsort(-self.value, kind="stable")

    def by_magnitude(self) -> Int[np.ndarray, " cell"]:
        """Numbers of the cells, the largest absolute CTE first."""
        return np.argsort(-np.abs(self.value), kind="stable")

    def columns_of(
        self, trace: CausalTrace, used: Int[np.ndarray, " used"], align: str
    ) -> Int[np.ndarray, "used column"]:
        """The row of each of the trace's columns (its tokens), by pair; -1 where it belongs to none."""
        rows = rows_of(trace, used, align)
        place = {label: number for number, label in enumerate(self.rows)}
        return np.array([place.get(label, -1) for label in rows.labels] + [-1])[rows.index]

    def as_map(
        self, sets: Bool[np.ndarray, "set cell"], n_layers: int, first: int
    ) -> Bool[np.ndarray, "set layer row"]:
        """Sets of cells as masks over layers, the first of which has the number ``first``, and rows."""
        out = np.zeros((len(sets), n_layers, len(self.rows)), dtype=bool)
        out[:, self.layer - first, self.row] = sets
        return out


def used_cells(
    trace: CausalTrace, align: str, reduce: str, segment: str | None, layers: Sequence[int] | None = None
) -> tuple[MapCells, Int[np.ndarray, " used"]]:
    """The cells of the trace's map, and the pairs that enter it.

    Raises:
        DegenerateTraceError: no pair enters.
        TraceError: the map has no cell.
    """
    used, _ = pairs_used(trace, segment)
    cells = MapCells.of(trace.map(align=align, reduce=reduce, segment=segment))
    if layers is not None:
        cells = cells.of_layers(layers)
    if not len(cells):
        raise TraceError("the map has no cell with a value")
    return cells, used

"""A circuit: a small set of a map's cells that together carry a given share of the difference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from .read_only import ReadOnlyArrays

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Circuit"]


@dataclass(frozen=True, eq=False)
class Circuit(ReadOnlyArrays):
    """The cells of a circuit in the order in which they were taken, with the exact CTE of patching them together.

    layer, rows: of each cell. alone: its CTE in the map. shares: CTE of the first 1, 2, ... cells patched together.
    stability: by cell, the share of bootstrap draws of the pairs' clusters in which it is chosen again.
    lo, hi: the ``ci`` interval of the circuit's share; None with a single cluster.
    n_cells: how many cells the map has. method: how they were chosen. wanted: the share that was asked for.
    whole: CTE of all cells patched together. n_layers: number of blocks, L.
    """

    layer: Int[np.ndarray, " cell"]
    rows: tuple[str, ...]
    alone: Float[np.ndarray, " cell"]
    shares: Float[np.ndarray, " cell"]
    stability: Float[np.ndarray, " cell"]
    n_cells: int
    method: str
    wanted: float
    whole: float
    n_layers: int
    n_pairs: int
    lo: float | None = None
    hi: float | None = None
    ci: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """CTE of all its cells patched together: at least ``wanted``."""
        return float(self.shares[-1])

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def cells(self) -> list[tuple[int, str]]:
        """(layer, row) of every cell."""
        return list(zip(self.layer.tolist(), self.rows, strict=True))

    def by_layer(self) -> Float[np.ndarray, " layer"]:
        """What the circuit's cells add to its share when they are taken, summed by layer 0..L.

        Layers without a cell have 0. This is what :func:`tracescribe.prescribe` takes from a circuit.
        """
        gains = np.diff(self.shares, prepend=0.0)
        out = np.zeros(self.n_layers + 1)
        np.add.at(out, self.layer, gains)
        return out

    def to_frame(self) -> pd.DataFrame:
        """One line per cell: layer, row, its CTE alone, the share together with those before it, its stability."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": self.layer,
                "row": self.rows,
                "cte_alone": self.alone,
                "share_together": self.shares,
                "stability": self.stability,
            }
        )

    def __repr__(self) -> str:
        spread = "" if self.lo is None or self.hi is None else f" ({self.ci:.0%} CI {self.lo:.2f} to {self.hi:.2f})"
        cells = "; ".join(f"layer {layer}, {row}" for layer, row in self.cells[:6])
        more = "" if len(self) <= 6 else "; ..."
        return (
            f"Circuit({len(self)} of {self.n_cells} cells carry {self.share:.2f}{spread} of S_corr - S_foil, by "
            f"{self.method}, {self.n_pairs} pairs: {cells}{more})"
        )

"""A circuit: a small set of a map's cells that together carry a given share of the difference."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from ...arguments import explains_arguments
from ...errors import DataFormatError, TraceError
from ...io.json_lines import read_json
from ...io.quoting import plural, shown, shown_path
from ...io.records import read_record, write_record
from .read_only import ReadOnlyArrays
from .trace_file import CheckedProvenance, check_provenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Circuit", "load_circuit"]

FORMAT = "tracescribe.circuit/1"
_PER_CELL = ("layer", "rows", "alone", "shares", "stability")


class _Record(BaseModel):
    """A saved circuit, as JSON has it."""

    model_config = ConfigDict(extra="forbid")

    layer: list[NonNegativeInt]
    rows: list[str]
    alone: list[FiniteFloat]
    shares: list[FiniteFloat]
    stability: list[FiniteFloat | None]
    n_cells: PositiveInt
    method: str
    wanted: FiniteFloat
    whole: FiniteFloat
    n_layers: PositiveInt
    n_pairs: PositiveInt
    lo: FiniteFloat | None
    hi: FiniteFloat | None
    ci: FiniteFloat | None
    provenance: CheckedProvenance


@dataclass(frozen=True, eq=False)
class Circuit(ReadOnlyArrays):
    """The cells of a circuit in the order in which they were taken, with the exact CTE of patching them together.

    layer, rows: of each cell. alone: its CTE in the map. shares: CTE of the first 1, 2, ... cells patched together.
    stability: by cell, the share of bootstrap draws of the pairs' clusters in which it is chosen again; NaN with a
        single cluster.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.layer) or {len(getattr(self, name)) for name in _PER_CELL} != {len(self.layer)}:
            raise TraceError(f"a circuit has at least one cell, and {', '.join(_PER_CELL)} of each")
        if self.layer.min() < 0 or self.layer.max() > self.n_layers:
            raise TraceError(f"the cells of a circuit lie in layers 0 to {self.n_layers}")

    @property
    def share(self) -> float:
        """CTE of all its cells patched together: at least ``wanted``, within rounding."""
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file with a checksum that :func:`tracescribe.tracer.load_circuit` reads back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``, or the provenance is not JSON.
            TraceError: the provenance has an entry of a wrong type.
        """
        check_provenance(self.provenance)
        told = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        arrays = {name: value.tolist() for name, value in told.items() if isinstance(value, np.ndarray)}
        arrays["stability"] = [share if math.isfinite(share) else None for share in arrays["stability"]]
        write_record(Path(path), {"format": FORMAT, **told, **arrays}, what="the circuit (its provenance)")

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the circuit as one HTML file; see :func:`tracescribe.viz.circuit_page`."""
        from ...viz import circuit_page, report

        return report(path, circuit_page(self))

    def _repr_html_(self) -> str:
        from ...viz.notebook.comparisons import circuit_html

        return circuit_html(self)

    def __repr__(self) -> str:
        spread = "" if self.lo is None or self.hi is None else f" ({self.ci:.0%} CI {self.lo:.2f} to {self.hi:.2f})"
        cells = "; ".join(f"layer {layer}, {row}" for layer, row in self.cells[:6])
        more = "" if len(self) <= 6 else "; ..."
        return (
            f"Circuit({len(self)} of {self.n_cells} cells carry {self.share:.2f}{spread} of S_corr - S_foil, by "
            f"{self.method}, {plural(self.n_pairs, 'pair')}: {cells}{more})"
        )


@explains_arguments
def load_circuit(path: str | os.PathLike[str]) -> Circuit:
    """Read a file of :meth:`Circuit.save`.

    Raises:
        DataFormatError: no such file; it was changed, or holds something else.

    >>> load_circuit("no/such.json")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.json': No such file or directory
    """
    content, name = read_json(path, lone_surrogates=True), shown_path(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise DataFormatError(f"{name} has format {shown(found)}, expected {FORMAT!r}: it is not a saved circuit")
    try:
        content = read_record(Path(path))
    except DataFormatError:
        raise DataFormatError(f"{name} was changed or damaged after it was written: its checksum differs") from None
    content.pop("format")
    try:
        told = _Record.model_validate(content, strict=True).model_dump()
        arrays: dict[str, Any] = {name: np.array(told.pop(name), dtype=np.float64) for name in _PER_CELL[2:]}
        layer, rows = np.array(told.pop("layer"), dtype=np.int64), tuple(told.pop("rows"))
        return Circuit(layer=layer, rows=rows, **arrays, **told)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        raise DataFormatError(f"{name} is damaged: {where}: {error.errors()[0]['msg']}") from error
    except TraceError as error:
        raise DataFormatError(f"{name} is damaged: {error}") from error

"""Faithfulness curves: what the first k cells of an order do when they are patched together, and all others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ...io.atomic import write_atomically
from ...io.json_lines import parse_json, to_json
from ...io.quoting import plural, shown, shown_path
from ...io.tensors import pack_texts, reading_result, unpack_texts, write_tensors
from .cells import MapCells
from .read_only import ReadOnlyArrays, set_array
from .resampling import table_interval
from .statistics import combine, pair_table
from .trace_file import check_provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Curve", "Faithfulness", "load_faithfulness"]

FORMAT = "tracescribe.faithfulness/1"
CURVES = ("sufficiency", "necessity")
RANDOM = "random"
_AXES = {
    "sizes": (np.int64, 1),
    "permutations": (np.int64, 2),
    "sufficiency": (np.float64, 3),
    "necessity": (np.float64, 3),
    "denominator": (np.float64, 1),
    "clusters": (np.int64, 1),
    "texts": (np.int64, 1),
}
_CELLS = {"layer": np.int64, "row": np.int64, "value": np.float64}


@dataclass(frozen=True, eq=False)
class Curve(ReadOnlyArrays):
    """One curve over the number of patched or spared cells.

    value: CTE of the joint patch. lo, hi: its ``ci`` interval; for random orders the lowest and the highest order.
    cpr, cmd: areas, see :meth:`Faithfulness.curve`.
    """

    sizes: Int[np.ndarray, " size"]
    value: Float[np.ndarray, " size"]
    cpr: float
    cmd: float
    lo: Float[np.ndarray, " size"] | None = None
    hi: Float[np.ndarray, " size"] | None = None
    ci: float | None = None

    def _repr_html_(self) -> str:
        from ...viz.notebook.comparisons import curve_html

        return curve_html(self)


@dataclass(frozen=True, eq=False)
class Faithfulness(ReadOnlyArrays):
    """Effects of patching the first k cells of several orders together, and of patching all but these.

    A map says what each cell does alone. These curves say what its best cells do together: whether they suffice
    (*sufficiency*: the first k are patched) and whether they are needed (*necessity*: all others are patched).

    cells: the map's cells. orders: names of the orders: "effect" (CTE, the largest first), "magnitude" (|CTE|),
        "random 0", "random 1", ... permutations: the cells' numbers in each order.
    sizes: the k of the curves, from 0 to all cells.
    sufficiency, necessity: the numerator of CTE (a difference of the trace's S) by order, k and pair.
    denominator: S_corr - S_foil of each pair. clusters, texts: numbers, for the bootstrap.
    reduce: how pairs are combined, see :meth:`CausalTrace.map`.
    """

    cells: MapCells
    orders: tuple[str, ...]
    permutations: Int[np.ndarray, "order cell"]
    sizes: Int[np.ndarray, " size"]
    sufficiency: Float[np.ndarray, "order size pair"]
    necessity: Float[np.ndarray, "order size pair"]
    denominator: Float[np.ndarray, " pair"]
    clusters: Int[np.ndarray, " pair"]
    texts: Int[np.ndarray, " pair"]
    reduce: str = "ratio_of_means"
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (dtype, ndim) in _AXES.items():
            set_array(self, name, dtype, ndim)
        n_pairs, n_cells, n_orders = len(self.denominator), len(self.cells), len(self.orders)
        curve = (n_orders, len(self.sizes), n_pairs)
        expected = {"permutations": (n_orders, n_cells), "sufficiency": curve, "necessity": curve}
        expected |= {"clusters": (n_pairs,), "texts": (n_pairs,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise TraceError(f"Faithfulness.{name} has shape {getattr(self, name).shape}, expected {shape}")
        whole = len(self.sizes) and self.sizes[0] == 0 and self.sizes[-1] == n_cells
        if not whole or (np.diff(self.sizes) <= 0).any():
            raise TraceError(f"sizes must rise from 0 to all {n_cells} cells, not {self.sizes.tolist()}")
        if not (np.sort(self.permutations, axis=1) == np.arange(n_cells)).all():
            raise TraceError("permutations must hold every cell once")
        parts = (self.sufficiency, self.necessity, self.denominator)
        if not n_pairs or not all(np.isfinite(part).all() for part in parts) or (self.denominator == 0).any():
            raise TraceError("effects must be finite, of at least one pair, and no denominator may be 0")

    @property
    def n_pairs(self) -> int:
        """Number of pairs that enter."""
        return len(self.denominator)

    def top(self, k: int, order: str = "effect") -> list[str]:
        """The names of the first k cells of an order."""
        return [self.cells.name(cell) for cell in self.permutations[self._order(order)][:k].tolist()]

    def values(self, curve: str) -> Float[np.ndarray, "order size"]:
        """CTE of the joint patches of ``"sufficiency"`` or ``"necessity"``, by order and k."""
        return np.stack([combine(self._table(curve, at))[0, :, 0] for at in range(len(self.orders))])

    def curve(
        self, curve: str, order: str = "effect", ci: float | None = 0.95, n_boot: int = 1000, seed: int = 0
    ) -> Curve:
        """One curve with its interval over resampled clusters and texts, and its areas.

        The areas are those of the Mechanistic Interpretability Benchmark (Mueller et al. 2025, arXiv 2504.13151), by
        trapezoids over the share of cells: **CPR** is the area under the faithfulness f, **CMD** the area between f and
        1. In its terms the first k cells are a circuit, all other components are given the other caption's states, and
        f = (m(circuit) - m(nothing kept)) / (m(all kept) - m(nothing kept)). That is the curve of necessity:
        f(k) = 1 - CTE(all but k) / CTE(all). For sufficiency f(k) = CTE(k) / CTE(all). Higher CPR and lower CMD are
        better; both are compared with those of other orders of the same cells.

        order: a name of ``orders``, or "random": the mean of the random ones, between the lowest and the highest.
        ci, n_boot, seed: as in :meth:`CausalTrace.per_layer`.
        """
        if order == RANDOM:
            found = self.values(curve)[[name.startswith(f"{RANDOM} ") for name in self.orders]]
            if not len(found):
                raise TraceError("there is no random order: compute the curves with random=3, for instance")
            value = found.mean(axis=0)
            return Curve(self.sizes, value, *self._areas(curve, value), found.min(axis=0), found.max(axis=0))
        table = self._table(curve, self._order(order))
        value = combine(table)[0, :, 0]
        areas = self._areas(curve, value)
        bounds = table_interval(table, self.clusters, self.texts, ci=ci, n_boot=n_boot, seed=seed)
        if bounds is None:
            return Curve(self.sizes, value, *areas)
        lo, hi = (bound[:, 0] for bound in bounds)
        return Curve(self.sizes, value, *areas, lo, hi, ci)

    def to_frame(self, ci: float | None = 0.95, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
        """One line per curve, order and k: the CTE of the joint patch, its interval, and the curve's areas."""
        import pandas as pd

        lines = []
        for curve in CURVES:
            for order in self.orders:
                one = self.curve(curve, order, ci, n_boot, seed)
                columns = {
                    "curve": curve,
                    "order": order,
                    "k": self.sizes,
                    "share_of_cells": self.sizes / len(self.cells),
                    "cte": one.value,
                    "lo": np.nan if one.lo is None else one.lo,
                    "hi": np.nan if one.hi is None else one.hi,
                    "cpr": one.cpr,
                    "cmd": one.cmd,
                    "n_pairs": self.n_pairs,
                }
                lines.append(pd.DataFrame(columns))
        return pd.concat(lines, ignore_index=True)

    def summary(self) -> str:
        """The areas of the orders, one line."""
        said = []
        for curve in CURVES:
            parts = []
            for order in dict.fromkeys(RANDOM if name.startswith(f"{RANDOM} ") else name for name in self.orders):
                one = self.curve(curve, order, ci=None)
                parts.append(f"{order} CPR {one.cpr:.3f}, CMD {one.cmd:.3f}")
            said.append(f"{curve}: {'; '.join(parts)}")
        return f"{len(self.cells)} cells, {plural(self.n_pairs, 'pair')}. {'. '.join(said)}"

    def plot(
        self,
        *,
        title: str | None = None,
        width: int = 720,
        height: int = 420,
        ci: float | None = 0.95,
        n_boot: int = 1000,
        seed: int = 0,
    ) -> go.Figure:
        """The curves as an interactive figure; see :func:`tracescribe.viz.faithfulness`."""
        from ...viz import faithfulness

        return faithfulness(self, title=title, width=width, height=height, ci=ci, n_boot=n_boot, seed=seed)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the curves as one HTML file; see :func:`tracescribe.viz.faithfulness_page`."""
        from ...viz import faithfulness_page, report

        return report(path, faithfulness_page(self))

    def _repr_html_(self) -> str:
        from ...viz.notebook.comparisons import faithfulness_html

        return faithfulness_html(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that :func:`load_faithfulness` reads back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``, or the provenance is not JSON.
            TraceError: the provenance has an entry of a wrong type.
        """
        check_provenance(self.provenance)
        tensors = {name: getattr(self, name) for name in _AXES}
        tensors |= {f"cells.{name}": getattr(self.cells, name).astype(dtype) for name, dtype in _CELLS.items()}
        tensors |= pack_texts("rows", self.cells.rows) | pack_texts("orders", self.orders)
        metadata = {
            "format": FORMAT,
            "reduce": self.reduce,
            "provenance": to_json(self.provenance, path, "the provenance"),
        }
        with write_atomically(path, binary=True) as handle:
            write_tensors(handle, tensors, metadata)

    def __repr__(self) -> str:
        return f"Faithfulness({len(self.cells)} cells, {len(self.sizes)} sizes, orders: {', '.join(self.orders)})"

    def _order(self, name: str) -> int:
        if name not in self.orders:
            raise TraceError(f"unknown order {shown(name)}; choose one of: {', '.join((*self.orders, RANDOM))}")
        return self.orders.index(name)

    def _table(self, curve: str, order: int) -> Any:
        if curve not in CURVES:
            raise TraceError(f"unknown curve {shown(curve)}; choose one of: {', '.join(CURVES)}")
        effect = getattr(self, curve)[order].T[:, :, None]  # pair, size, one row
        return pair_table(effect, np.ones((self.n_pairs, 1)), self.denominator, self.reduce)

    def _areas(self, curve: str, value: Float[np.ndarray, " size"]) -> tuple[float, float]:
        all_patched = value[-1] if curve == "sufficiency" else value[0]
        if all_patched == 0:
            return float("nan"), float("nan")
        share = value / all_patched
        f = share if curve == "sufficiency" else 1 - share
        at = self.sizes / len(self.cells)
        return float(np.trapezoid(f, at)), float(np.trapezoid(np.abs(1 - f), at))


def first_cells(
    permutations: Sequence[Int[np.ndarray, " cell"]], sizes: Int[np.ndarray, " size"]
) -> Bool[np.ndarray, "order size cell"]:
    """Which cells are among the first k of an order.

    >>> first_cells([np.array([2, 0, 1])], np.array([0, 1, 3])).astype(int).tolist()
    [[[0, 0, 0], [0, 0, 1], [1, 1, 1]]]
    """
    ranks = np.argsort(np.stack(list(permutations)), axis=1)
    return ranks[:, None, :] < np.asarray(sizes)[None, :, None]


@explains_arguments
def load_faithfulness(path: str | os.PathLike[str]) -> Faithfulness:
    """Read a file of :meth:`Faithfulness.save`.

    Raises:
        DataFormatError: no such file; it was cut short or changed, or holds something else.

    >>> load_faithfulness("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    name = shown_path(path)
    with reading_result(path, FORMAT) as file:
        arrays = {key: np.array(file.tensors[key]) for key in _AXES}
        parts = {key: np.array(file.tensors[f"cells.{key}"]) for key in _CELLS}
        for key, array in {**arrays, **parts}.items():
            expected = _AXES[key][0] if key in _AXES else _CELLS[key]
            if array.dtype != expected:
                raise TypeError(f"{key!r} holds {array.dtype.name} numbers")
        provenance = parse_json(file.metadata["provenance"], name, lone_surrogates=True)
        if not isinstance(provenance, dict):
            raise TypeError("its provenance is not an object")
        check_provenance(provenance)
        rows, orders = (unpack_texts(key, file.tensors) for key in ("rows", "orders"))
        if len(parts["row"]) and not 0 <= parts["row"].min() <= parts["row"].max() < len(rows):
            raise ValueError("its cells name rows that it does not hold")
        cells = MapCells(**parts, rows=rows)
        result = Faithfulness(
            cells=cells, orders=orders, reduce=file.metadata["reduce"], provenance=provenance, **arrays
        )
        result.values("sufficiency")  # by a reduction that exists
    return result

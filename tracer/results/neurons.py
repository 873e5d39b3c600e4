"""The neurons with the largest effects: estimates of all, exact effects of the first ones."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt

from ...arguments import explains_arguments
from ...errors import TraceError
from ...io.quoting import plural
from .array_file import ArrayFile, Facts
from .maps import TraceMap
from .pair_effects import check_effects, check_pairs, check_shapes
from .read_only import ReadOnlyArrays, set_array
from .resampling import table_interval
from .statistics import combine, pair_table, rank_correlation
from .trace_file import CheckedProvenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NeuronAgreement", "Neurons", "load_neurons"]

_AXES = {
    "layer": (np.int64, 1),
    "neuron": (np.int64, 1),
    "estimate": (np.float64, 1),
    "chosen": (np.bool_, 1),
    "effects": (np.float64, 2),
    "together": (np.float64, 1),
    "denominator": (np.float64, 1),
    "clusters": (np.int64, 1),
    "texts": (np.int64, 1),
}
Bounds = tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]


@dataclass(frozen=True)
class NeuronAgreement:
    """How well estimates agree with exact effects, on the scale of CTE.

    rank_correlation: Spearman's over the ``cells`` with the largest estimates; None with fewer than 3.
    mean_error, max_error: absolute differences over these cells.
    other_cells, largest_other: how many cells were drawn at random from the rest, and the largest exact |CTE| of them;
        one above the smallest of the chosen ones says that the estimates miss neurons.
    """

    cells: int
    rank_correlation: float | None
    mean_error: float
    max_error: float
    other_cells: int
    largest_other: float | None

    def __str__(self) -> str:
        found = self.rank_correlation
        rank = "no rank correlation" if found is None else f"rank correlation {found:.2f}"
        other = (
            ""
            if self.largest_other is None
            else (f"; largest of {self.other_cells} other neurons {self.largest_other:.3f}")
        )
        return f"{rank} with exact effects, mean error {self.mean_error:.4f}, largest {self.max_error:.4f}{other}"


@dataclass(frozen=True, eq=False)
class Neurons(ReadOnlyArrays):
    """Single neurons by their causal tracing effect: of all an estimate was computed, of these the exact effect.

    A cell is a neuron of one layer's MLP at the tokens of one row, which are replaced together.

    layer, row, neuron: of each cell, the largest \\|estimate\\| first, and then the cells that were drawn at random.
    estimate: CTE by gradient times difference. chosen: False for cells that were drawn at random from the others.
    effects: the numerator of CTE (a difference of cosines) by cell and pair, of exact replacements; NaN where the pair
        has no token of the row. together: that of all chosen cells replaced together.
    denominator: S_corr - S_foil of each pair. clusters, texts: numbers, for the bootstrap.
    rows: labels of the map's rows, in their order. n_cells: how many cells there are. n_layers: L. n_neurons: per MLP.
    """

    layer: Int[np.ndarray, " cell"]
    row: tuple[str, ...]
    neuron: Int[np.ndarray, " cell"]
    estimate: Float[np.ndarray, " cell"]
    chosen: Bool[np.ndarray, " cell"]
    effects: Float[np.ndarray, "cell pair"]
    together: Float[np.ndarray, " pair"]
    denominator: Float[np.ndarray, " pair"]
    clusters: Int[np.ndarray, " pair"]
    texts: Int[np.ndarray, " pair"]
    rows: tuple[str, ...]
    n_cells: int
    n_layers: int
    n_neurons: int
    segment: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (dtype, ndim) in _AXES.items():
            set_array(self, name, dtype, ndim)
        check_pairs(self)
        n, pairs = len(self.layer), len(self.denominator)
        check_shapes(self, neuron=(n,), estimate=(n,), chosen=(n,), effects=(n, pairs), together=(pairs,))
        has = np.isfinite(self.effects)
        check_effects(self, effects=self.effects[~np.isnan(self.effects)], together=self.together)
        if not np.isfinite(self.estimate).all():
            raise TraceError("the estimates of neurons must be finite")
        if not self.chosen.any() or len(self.row) != n or not set(self.row) <= set(self.rows) or not has.any(1).all():
            raise TraceError("neurons need a chosen cell, and every cell a row that a pair has")
        for name, least, most in (("layer", 1, self.n_layers), ("neuron", 0, self.n_neurons - 1)):
            if not least <= getattr(self, name).min() <= getattr(self, name).max() <= most:
                raise TraceError(f"Neurons.{name} must lie within {least} to {most}")
        if self.n_cells != self.n_layers * len(self.rows) * self.n_neurons:
            raise TraceError(
                f"{self.n_layers} layers, {len(self.rows)} rows and {self.n_neurons} neurons are not {self.n_cells} "
                "cells"
            )

    @property
    def n_pairs(self) -> int:
        """Number of pairs that enter."""
        return len(self.denominator)

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def cte(self) -> Float[np.ndarray, " cell"]:
        """The exact CTE of each cell: its effects over the denominators, of the pairs that have the row."""
        return combine(self._table())[0, 0]

    @property
    def share_together(self) -> float:
        """CTE of the chosen cells replaced together."""
        return float(self.together.sum() / self.denominator.sum())

    def interval(self, ci: float = 0.95, n_boot: int = 1000, seed: int = 0) -> Bounds | None:
        """The interval of every exact CTE over resampled clusters and texts; None with a single cluster."""
        bounds = table_interval(self._table(), self.clusters, self.texts, ci=ci, n_boot=n_boot, seed=seed)
        return None if bounds is None else (bounds[0][0], bounds[1][0])

    @property
    def agreement(self) -> NeuronAgreement:
        """How well the estimates of the chosen cells agree with their exact effects."""
        exact, errors = self.cte, np.abs(self.estimate - self.cte)[self.chosen]
        ours, theirs = self.estimate[self.chosen], exact[self.chosen]
        others = np.abs(exact[~self.chosen])
        return NeuronAgreement(
            cells=len(ours),
            rank_correlation=rank_correlation(ours, theirs),
            mean_error=float(errors.mean()),
            max_error=float(errors.max()),
            other_cells=len(others),
            largest_other=float(others.max()) if len(others) else None,
        )

    def to_frame(self, ci: float | None = 0.95, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
        """One line per cell: layer, row, neuron, estimate, exact CTE with its interval, and how it was chosen."""
        import pandas as pd

        bounds = None if ci is None else self.interval(ci, n_boot, seed)
        return pd.DataFrame(
            {
                "layer": self.layer,
                "row": self.row,
                "neuron": self.neuron,
                "estimate": self.estimate,
                "cte": self.cte,
                "lo": np.nan if bounds is None else bounds[0],
                "hi": np.nan if bounds is None else bounds[1],
                "n_pairs": np.isfinite(self.effects).sum(axis=1),
                "chosen_by": np.where(self.chosen, "estimate", "random"),
            }
        )

    def map(self) -> TraceMap:
        """Where the chosen cells sit: their exact CTE summed by layer × row, for :func:`tracescribe.viz.heatmap`."""
        values = np.zeros((self.n_layers, len(self.rows)))
        place = np.array([self.rows.index(row) for row in self.row])
        np.add.at(values.reshape(-1), (self.layer - 1) * len(self.rows) + place, np.where(self.chosen, self.cte, 0.0))
        count = np.zeros(len(self.rows), dtype=np.int64)
        np.maximum.at(count, place, np.isfinite(self.effects).sum(axis=1))
        return TraceMap(
            values=values,
            rows=self.rows,
            layers=np.arange(1, self.n_layers + 1),
            counts=count,
            segment=self.segment,
            n_pairs=self.n_pairs,
            quantity=f"CTE of the first {int(self.chosen.sum())} neurons, summed",
        )

    def summary(self) -> str:
        """How many neurons there are, what the chosen ones do, and how good the estimates are."""
        chosen = int(self.chosen.sum())
        return (
            f"{self.n_cells} cells (layer × row × neuron), {plural(self.n_pairs, 'pair')}. The first {chosen} "
            f"together: CTE {self.share_together:.3f}. Estimates: {self.agreement}"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that :func:`tracescribe.tracer.load_neurons` reads back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``.
        """
        _FILE.write(path, vars(self))

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the neurons as one HTML file; see :func:`tracescribe.viz.neurons_page`."""
        from ...viz import neurons_page, report

        return report(path, neurons_page(self))

    def _repr_html_(self) -> str:
        from ...viz.notebook.finer import neurons_html

        return neurons_html(self)

    def __repr__(self) -> str:
        exact = self.cte
        first = "; ".join(
            f"layer {layer}, {row}, neuron {neuron}: {value:.3f}"
            for layer, row, neuron, value in list(zip(self.layer, self.row, self.neuron, exact, strict=True))[:4]
        )
        return (
            f"Neurons({int(self.chosen.sum())} of {self.n_cells} cells, {plural(self.n_pairs, 'pair')}: {first}; ...)"
        )

    def _table(self) -> Any:
        has = np.isfinite(self.effects)
        effects = np.where(has, self.effects, 0.0).T[:, None, :]  # pair, one layer, cells as rows
        return pair_table(effects, has.T.astype(np.float64), self.denominator, "ratio_of_means")


class _Sizes(Facts):
    n_cells: PositiveInt
    n_layers: PositiveInt
    n_neurons: PositiveInt
    segment: str
    provenance: CheckedProvenance


_FILE = ArrayFile(
    "tracescribe.neurons/1",
    arrays={name: dtype for name, (dtype, _) in _AXES.items()},
    texts=("row", "rows"),
    facts=_Sizes,
)


@explains_arguments
def load_neurons(path: str | os.PathLike[str]) -> Neurons:
    """Read a file of :meth:`Neurons.save`.

    Raises:
        DataFormatError: no such file; it was cut short or changed, or holds something else.

    >>> load_neurons("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    return _FILE.read(path, lambda values: Neurons(**values))

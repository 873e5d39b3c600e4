"""Maps and layer profiles of causal traces, as arrays that carry their axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ...io.quoting import plural
from .alike import check_alike
from .read_only import ReadOnlyArrays
from .resampling import FEW
from .statistics import aggregate_rows, percentile_interval

if TYPE_CHECKING:
    import pandas as pd

    from .causal_trace import CausalTrace

__all__ = ["Excess", "LayerProfile", "TraceMap"]


@dataclass(frozen=True, eq=False)
class LayerProfile(ReadOnlyArrays):
    """One number per layer 0..L with its bootstrap interval.

    value: CTE aggregated over a layer's tokens or rows (a share of S_corr - S_foil, no unit).
    lo, hi: the ``ci`` percentile interval over resampled clusters and texts; None without a bootstrap.
    n_groups, n_texts: how many clusters (patients) and distinct pairs of captions the pairs have; with a control, the
        fewer texts of the two traces. n_texts is None where it is not known.
    replicates: the bootstrap draws themselves, so that a ranking of layers can be judged within each draw.
    denominator: mean S_corr - S_foil (cosine) of the pairs, which ``value`` is a share of; None where there is none.

    >>> LayerProfile(np.array([1.0, 0.9, 1.0]), np.arange(3), "sum", n_pairs=4, n_groups=4)
    LayerProfile(layers 0..2, sum, 4 pairs in 4 groups: 1.00 0.90 1.00)
    """

    value: Float[np.ndarray, "layer"]
    layers: Int[np.ndarray, "layer"]
    aggregate: str
    lo: Float[np.ndarray, "layer"] | None = None
    hi: Float[np.ndarray, "layer"] | None = None
    ci: float | None = None
    n_pairs: int = 0
    n_groups: int = 0
    replicates: Float[np.ndarray, "boot layer"] | None = None
    n_texts: int | None = None
    denominator: float | None = None

    @classmethod
    def from_replicates(
        cls,
        value: Float[np.ndarray, "layer"],
        replicates: Float[np.ndarray, "boot layer"] | None,
        *,
        aggregate: str,
        ci: float | None,
        n_pairs: int,
        n_groups: int,
        layers: Int[np.ndarray, "layer"] | None = None,
        n_texts: int | None = None,
        denominator: float | None = None,
    ) -> LayerProfile:
        """A profile whose interval is the ``ci`` percentile interval of the bootstrap draws (None: no interval).

        layers: numbers of the layers; None for 0, 1, ...
        """
        lo = hi = None
        if replicates is not None and ci is not None:
            lo, hi = percentile_interval(replicates, ci)
        return cls(
            value=value,
            layers=np.arange(len(value)) if layers is None else layers,
            aggregate=aggregate,
            lo=lo,
            hi=hi,
            ci=None if lo is None else ci,
            n_pairs=n_pairs,
            n_groups=n_groups,
            replicates=replicates,
            n_texts=n_texts,
            denominator=denominator,
        )

    @property
    def caution(self) -> str | None:
        """What a reader of the interval must know: how few clusters or texts it rests on; None where there are enough.

        >>> LayerProfile(np.ones(3), np.arange(3), "sum", ci=0.95, n_pairs=580, n_groups=103, n_texts=4).caution
        'the interval rests on 4 distinct texts only'
        """
        if self.ci is None:
            return None
        counts = {"clusters": self.n_groups, "distinct texts": self.n_texts}
        few = [f"{number} {what}" for what, number in counts.items() if number is not None and number < FEW]
        if self.n_texts == 1:
            return "the interval holds for this one pair of captions only: nothing tells how it varies with the wording"
        return f"the interval rests on {' and '.join(few)} only" if few else None

    def to_frame(self) -> pd.DataFrame:
        """One line per layer: layer, the value, its interval, and the effect and denominator it is the ratio of.

        effect: the value times the mean S_corr - S_foil, a difference of cosines.

        >>> LayerProfile(np.array([1.0, 0.9]), np.arange(2), "sum", denominator=0.05).to_frame().columns.tolist()
        ['layer', 'cte', 'effect', 'denominator', 'n_pairs']
        """
        import pandas as pd

        columns: dict[str, Any] = {"layer": self.layers, "cte": self.value}
        if self.lo is not None and self.hi is not None:
            columns |= {"lo": self.lo, "hi": self.hi}
        if self.denominator is not None:
            columns |= {"effect": self.value * self.denominator, "denominator": self.denominator}
        return pd.DataFrame({**columns, "n_pairs": self.n_pairs})

    def __repr__(self) -> str:
        values = " ".join(f"{value:.2f}" for value in self.value)
        spread = "" if self.ci is None else f", {self.ci:.0%} CI"
        texts = "" if self.n_texts is None else f", {self.n_texts} text{'s' * (self.n_texts != 1)}"
        caution = "" if self.caution is None else f" ({self.caution})"
        return (
            f"LayerProfile(layers {self.layers[0]}..{self.layers[-1]}, {self.aggregate}{spread}, "
            f"{plural(self.n_pairs, 'pair')} in {self.n_groups} groups{texts}: {values}){caution}"
        )

    def _repr_html_(self) -> str:
        from ...viz.notebook.results import profile_html

        return profile_html(self)


@dataclass(frozen=True, eq=False)
class TraceMap(ReadOnlyArrays):
    """CTE by layer and token row, over a set of pairs.

    values: NaN only in a row that no pair has.
    rows: what each row stands for (a role, Quantmeyer's names, or a token index).
    counts: number of pairs that have the row.
    reduce, align, segment: how it was made; ``segment`` names the pairs that entered. quantity: what a value is.
    effect, denominator: mean numerator per token and mean S_corr - S_foil (cosines) of the pairs that have the row;
        with "ratio_of_means" a value is exactly their ratio. None where a value is no ratio.
    lo, hi, ci: bounds and level of every cell's interval; None where none was asked for, or all pairs are one cluster.

    >>> values = np.array([[1.0, 0.0], [0.6, 0.3]])
    >>> cells = TraceMap(values, ("first differing", "[end]"), layers=np.arange(2), counts=np.array([5, 5]))
    >>> cells.per_layer("sum").value
    array([1. , 0.9])
    """

    values: Float[np.ndarray, "layer row"]
    rows: tuple[str, ...]
    layers: Int[np.ndarray, "layer"]
    counts: Int[np.ndarray, "row"]
    reduce: str = "ratio_of_means"
    align: str = "role"
    segment: str = "all"
    n_pairs: int = 0
    quantity: str = "CTE"
    effect: Float[np.ndarray, "layer row"] | None = None
    denominator: Float[np.ndarray, "row"] | None = None
    lo: Float[np.ndarray, "layer row"] | None = None
    hi: Float[np.ndarray, "layer row"] | None = None
    ci: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = (len(self.layers), len(self.rows))
        if self.values.shape != expected or self.counts.shape != expected[1:]:
            raise TraceError(
                f"a map of {expected[0]} layers and {expected[1]} rows cannot have values of shape "
                f"{self.values.shape} and counts of shape {self.counts.shape}"
            )

    def per_layer(self, aggregate: str = "sum") -> LayerProfile:
        """Sum, max, mean or (population) standard deviation over the rows of each layer; a map has no interval."""
        return LayerProfile(
            value=aggregate_rows(self.values, aggregate),
            layers=self.layers,
            aggregate=aggregate,
            n_pairs=self.n_pairs,
            n_groups=self.n_pairs,
        )

    def to_frame(self) -> pd.DataFrame:
        """The numbers of the figure, one line per layer and row: the value, how many pairs have the row, and its parts.

        >>> cells = TraceMap(np.array([[1.0], [0.6]]), ("[end]",), layers=np.arange(2), counts=np.array([5]), n_pairs=5)
        >>> cells.to_frame().values.tolist()
        [[0, '[end]', 1.0, 5], [1, '[end]', 0.6, 5]]
        """
        import pandas as pd

        layer, row = (axis.ravel() for axis in np.indices(self.values.shape))
        columns: dict[str, Any] = {
            "layer": self.layers[layer],
            "row": np.array(self.rows, dtype=object)[row],
            "cte" if self.quantity == "CTE" else "value": self.values.ravel(),
        }
        if self.effect is not None and self.denominator is not None:
            columns |= {"effect": self.effect.ravel(), "denominator": self.denominator[row]}
        if self.lo is not None and self.hi is not None:
            columns |= {"lo": self.lo.ravel(), "hi": self.hi.ravel()}
        return pd.DataFrame({**columns, "n_pairs": self.counts[row]})

    @explains_arguments
    def row(self, name: str) -> Float[np.ndarray, "layer"]:
        """The values of one row by layer."""
        if name not in self.rows:
            raise TraceError(f"the map has no row {name!r}; its rows are: {', '.join(self.rows)}")
        return self.values[:, self.rows.index(name)]

    @explains_arguments
    def locality(self, start: str | None = None) -> Float[np.ndarray, "layer"]:
        """How far a layer's effect sits in few rows: std over the rows from the first differing one on.

        Source: Quantmeyer, Mosteiro, Gatt 2024 (arXiv 2407.10488), locality. 0 = spread evenly. Rows before ``start``
        are left out because a causal tower gives 0 there whatever the model.

        start: name of the first row to count; by default "negator" or "first differing", whichever the map has.
        """
        if start is None:
            known = [name for name in ("negator", "first differing") if name in self.rows]
            if not known:
                raise TraceError(f"say from which row on locality counts: start=, one of {', '.join(self.rows)}")
            start = known[0]
        self.row(start)
        return aggregate_rows(self.values[:, self.rows.index(start) :], "std")

    def __repr__(self) -> str:
        return (
            f"TraceMap({len(self.layers)} layers × {len(self.rows)} rows, align={self.align!r}, "
            f"reduce={self.reduce!r}, {plural(self.n_pairs, 'pair')} ({self.segment}))"
        )

    def _repr_html_(self) -> str:
        from ...viz.notebook.results import map_html

        return map_html(self)


@dataclass(frozen=True, eq=False)
class Excess:
    """What a trace shows beyond a control trace: trace - control, for the same model and layers.

    CTE follows any differing token to the readout. A swap that has nothing to do with the distinction of interest
    (left/right, noun/noun) is the control that says how much of a profile is only that.
    """

    trace: CausalTrace
    control: CausalTrace

    def __post_init__(self) -> None:
        if self.trace.n_layers != self.control.n_layers:
            raise TraceError(
                f"the trace has {self.trace.n_layers} layers and its control {self.control.n_layers}; "
                "both must come from the same model"
            )
        check_alike(self.trace, self.control, "the trace and its control", same_weights=True)

    def map(self, align: str = "role", reduce: str = "ratio_of_means", segment: str | None = None) -> TraceMap:
        """Difference of the two maps over the rows that both have; counts are the smaller of the two."""
        ours, theirs = (t.map(align=align, reduce=reduce, segment=segment) for t in (self.trace, self.control))
        rows = tuple(row for row in ours.rows if row in theirs.rows)
        if not rows:
            raise TraceError(
                f"no common rows: {', '.join(ours.rows)} in the trace, {', '.join(theirs.rows)} in control"
            )
        here, there = ([m.rows.index(row) for row in rows] for m in (ours, theirs))
        return TraceMap(
            values=ours.values[:, here] - theirs.values[:, there],
            rows=rows,
            layers=ours.layers,
            counts=np.minimum(ours.counts[here], theirs.counts[there]),
            reduce=reduce,
            align=align,
            segment=f"{ours.segment} - control: {theirs.segment}",
            n_pairs=ours.n_pairs,
        )

    def per_layer(
        self,
        aggregate: str = "sum",
        ci: float | None = 0.95,
        n_boot: int = 1000,
        seed: int = 0,
        reduce: str = "ratio_of_means",
        segment: str | None = None,
        align: str | None = None,
    ) -> LayerProfile:
        """Difference of the two profiles. Options as in :meth:`CausalTrace.per_layer`.

        Clusters that occur in both traces (the same patients) are resampled together, and so are texts; others are
        independent samples. Clusters are the same where the pairs' ``group`` or ``id`` says so. Those of pairs without
        either are the same only where the pairs are: equal captions and images.
        """
        from .profiles import layer_profile

        return layer_profile(
            self.trace,
            self.control,
            aggregate=aggregate,
            ci=ci,
            n_boot=n_boot,
            seed=seed,
            reduce=reduce,
            segment=segment,
            align=align,
        )

    def to_frame(self, align: str = "role", reduce: str = "ratio_of_means", segment: str | None = None) -> pd.DataFrame:
        """The numbers of the map, one line per layer and row that both traces have: the excess and what it is of.

        Columns: layer, row, excess, and for the trace and the control cte, effect, denominator and n_pairs of each.
        """
        sides = [
            side.map(align=align, reduce=reduce, segment=segment).to_frame() for side in (self.trace, self.control)
        ]
        both = sides[0].merge(sides[1], on=["layer", "row"], suffixes=("_trace", "_control"))
        both.insert(2, "excess", both["cte_trace"] - both["cte_control"])
        return both

    def __repr__(self) -> str:
        return f"Excess({self.trace!r} over {self.control!r})"

    def _repr_html_(self) -> str:
        from ...viz.notebook.results import excess_html

        return excess_html(self)

"""Effects of edges between heads: what one head does through one later head."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ...io.quoting import plural, shown
from ..choices import Inputs
from .array_file import ArrayFile, Facts
from .maps import TraceMap
from .pair_effects import check_effects, check_pairs, check_shapes
from .read_only import ReadOnlyArrays, set_array
from .resampling import table_interval
from .statistics import pair_table
from .trace_file import CheckedProvenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HeadEdges", "load_head_edges"]

_CHUNK = 4096  # edges whose draws are held at once

_AXES = {
    "effects": (np.float64, 5),
    "denominator": (np.float64, 1),
    "clusters": (np.int64, 1),
    "texts": (np.int64, 1),
}


@dataclass(frozen=True, eq=False)
class HeadEdges(ReadOnlyArrays):
    """The causal tracing effect of every edge from a head to a head of a later layer.

    effects: the numerator of CTE (a difference of cosines) by pair, sender's layer and head, receiver's layer and head;
        NaN where the receiver is not behind the sender. Index 0 is layer 1.
    denominator: S_corr - S_foil of each pair. clusters, texts: numbers, for the bootstrap.
    inputs: which inputs of the receiver took the changed state, of "q", "k", "v".
    """

    effects: Float[np.ndarray, "pair layer head receiver_layer receiver_head"]
    denominator: Float[np.ndarray, " pair"]
    clusters: Int[np.ndarray, " pair"]
    texts: Int[np.ndarray, " pair"]
    inputs: Inputs = "qkv"
    segment: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (dtype, ndim) in _AXES.items():
            set_array(self, name, dtype, ndim)
        check_pairs(self)
        n_layers, n_heads = self.effects.shape[1:3]
        check_shapes(self, effects=(self.n_pairs, n_layers, n_heads, n_layers, n_heads))
        if n_layers < 2 or n_heads < 1:
            raise TraceError(f"edges need 2 layers and a head, not {n_layers} layers of {n_heads} heads")
        layer = np.arange(n_layers)
        edge = (layer[:, None] < layer)[:, None, :, None] & np.ones((1, n_heads, 1, n_heads), dtype=bool)
        check_effects(self, effects=self.effects[:, edge])
        if not np.isnan(self.effects[:, ~edge]).all():
            raise TraceError("an edge leads to a later layer: all other effects must be NaN")

    @property
    def n_pairs(self) -> int:
        """Number of pairs that enter."""
        return len(self.denominator)

    @property
    def cte(self) -> Float[np.ndarray, "layer head receiver_layer receiver_head"]:
        """CTE of every edge: the sum of the pairs' effects over the sum of their denominators."""
        return self.effects.sum(axis=0) / self.denominator.sum()

    def map(self, *, sender: tuple[int, int] | None = None, receiver: tuple[int, int] | None = None) -> TraceMap:
        """Layer × head: where one head sends to, or where one head receives from; for :func:`tracescribe.viz.heatmap`.

        sender, receiver: (layer from 1, head); one of them.

        Raises:
            TraceError: both or neither, or no such head.
        """
        if (sender is None) == (receiver is None):
            raise TraceError("say which head: sender=(layer, head) or receiver=(layer, head)")
        wanted = sender if receiver is None else receiver
        n_layers, n_heads = self.effects.shape[1:3]
        try:
            layer, head = wanted  # type: ignore[misc]
            fits = 1 <= layer <= n_layers and 0 <= head < n_heads
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise TraceError(
                f"there is no head {shown(wanted)}: give (layer, head) with layers 1 to {n_layers} and heads 0 to "
                f"{n_heads - 1}"
            )
        cte = self.cte
        values = cte[layer - 1, head] if receiver is None else cte[:, :, layer - 1, head]
        where = f"from layer {layer} head {head}" if receiver is None else f"to layer {layer} head {head}"
        return TraceMap(
            values=values,
            rows=tuple(f"head {number}" for number in range(n_heads)),
            layers=np.arange(1, n_layers + 1),
            counts=np.full(n_heads, self.n_pairs),
            segment=self.segment,
            n_pairs=self.n_pairs,
            quantity=f"CTE of edges {where}",
        )

    def by_layer(self) -> TraceMap:
        """The largest edge between every two layers: the sender's layer by the receiver's, the CTE of largest size."""
        n_layers, n_heads = self.effects.shape[1:3]
        between = self.cte.transpose(0, 2, 1, 3).reshape(n_layers, n_layers, n_heads**2)[:-1, 1:]
        largest = np.abs(np.nan_to_num(between)).argmax(axis=-1)
        return TraceMap(
            values=np.take_along_axis(between, largest[..., None], axis=-1)[..., 0],
            rows=tuple(f"to layer {number}" for number in range(2, n_layers + 1)),
            layers=np.arange(1, n_layers),
            counts=np.full(n_layers - 1, self.n_pairs),
            segment=self.segment,
            n_pairs=self.n_pairs,
            quantity="CTE of the largest edge",
        )

    def to_frame(
        self, top: int | None = None, ci: float | None = 0.95, n_boot: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """One line per edge, the largest |CTE| first: both heads, CTE, its interval over resampled clusters and texts.

        top: only so many edges.
        """
        import pandas as pd

        cte = self.cte
        edges = np.argwhere(np.isfinite(cte))
        values = cte[tuple(edges.T)]
        order = np.argsort(-np.abs(values), kind="stable")[:top]
        edges, values = edges[order], values[order]
        bounds = [
            self._interval(edges[at : at + _CHUNK], ci, n_boot, seed) for at in range(0, max(1, len(edges)), _CHUNK)
        ]
        found = [bound for bound in bounds if bound is not None]
        lo, hi = np.concatenate(found, axis=1) if found else (np.nan, np.nan)
        return pd.DataFrame(
            {
                "layer": edges[:, 0] + 1,
                "head": edges[:, 1],
                "receiver_layer": edges[:, 2] + 1,
                "receiver_head": edges[:, 3],
                "cte": values,
                "lo": lo,
                "hi": hi,
                "n_pairs": self.n_pairs,
            }
        )

    def summary(self) -> str:
        """How many edges there are, and the largest one."""
        layer, head, to_layer, to_head, cte = self.to_frame(top=1, ci=None).iloc[0, :5]
        pairs = plural(self.n_pairs, "pair")
        return (
            f"{int(np.isfinite(self.cte).sum())} edges between heads, {pairs}. The largest, from layer "
            f"{int(layer)} head {int(head)} to layer {int(to_layer)} head {int(to_head)}: CTE {cte:.3f}"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that :func:`tracescribe.tracer.load_head_edges` reads back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``.
        """
        _FILE.write(path, vars(self))

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the edges as one HTML file; see :func:`tracescribe.viz.head_edges_page`."""
        from ...viz import head_edges_page, report

        return report(path, head_edges_page(self))

    def _repr_html_(self) -> str:
        from ...viz.notebook.finer import head_edges_html

        return head_edges_html(self)

    def _interval(
        self, edges: Int[np.ndarray, "edge 4"], ci: float | None, n_boot: int, seed: int
    ) -> Float[np.ndarray, "2 edge"] | None:
        """The bounds of some edges."""
        effects = self.effects[:, edges[:, 0], edges[:, 1], edges[:, 2], edges[:, 3]][:, None, :]
        table = pair_table(effects, np.ones(effects.shape[::2]), self.denominator, "ratio_of_means")
        bounds = table_interval(table, self.clusters, self.texts, ci=ci, n_boot=n_boot, seed=seed)
        return None if bounds is None else np.stack([bounds[0][0], bounds[1][0]])

    def __repr__(self) -> str:
        first = "; ".join(
            f"{int(edge.layer)}.{int(edge.head)} → {int(edge.receiver_layer)}.{int(edge.receiver_head)}: {edge.cte:.3f}"
            for edge in self.to_frame(top=4, ci=None).itertuples()
        )
        return f"HeadEdges({plural(self.n_pairs, 'pair')}, inputs {self.inputs}, layer.head → layer.head: {first})"


class _HowMeasured(Facts):
    inputs: Inputs
    segment: str
    provenance: CheckedProvenance


_FILE = ArrayFile(
    "tracescribe.head_edges/1",
    arrays={name: dtype for name, (dtype, _) in _AXES.items()},
    texts=(),
    facts=_HowMeasured,
)


@explains_arguments
def load_head_edges(path: str | os.PathLike[str]) -> HeadEdges:
    """Read a file of :meth:`HeadEdges.save`.

    Raises:
        DataFormatError: no such file; it was cut short or changed, or holds something else.

    >>> load_head_edges("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    return _FILE.read(path, lambda values: HeadEdges(**values))

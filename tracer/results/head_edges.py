"""Effects of edges between heads: what one head does through one later head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ...errors import TraceError
from ...io.quoting import shown
from .maps import TraceMap
from .read_only import ReadOnlyArrays
from .resampling import table_interval
from .statistics import pair_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HeadEdges"]


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
    inputs: str = "qkv"
    segment: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

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
        bounds = None
        if ci is not None:
            effects = self.effects[:, edges[:, 0], edges[:, 1], edges[:, 2], edges[:, 3]][:, None, :]
            table = pair_table(effects, np.ones(effects.shape[::2]), self.denominator, "ratio_of_means")
            bounds = table_interval(table, self.clusters, self.texts, ci=ci, n_boot=n_boot, seed=seed)
        return pd.DataFrame(
            {
                "layer": edges[:, 0] + 1,
                "head": edges[:, 1],
                "receiver_layer": edges[:, 2] + 1,
                "receiver_head": edges[:, 3],
                "cte": values,
                "lo": np.nan if bounds is None else bounds[0][0],
                "hi": np.nan if bounds is None else bounds[1][0],
                "n_pairs": self.n_pairs,
            }
        )

    def __repr__(self) -> str:
        first = "; ".join(
            f"{int(edge.layer)}.{int(edge.head)} → {int(edge.receiver_layer)}.{int(edge.receiver_head)}: {edge.cte:.3f}"
            for edge in self.to_frame(top=4, ci=None).itertuples()
        )
        return f"HeadEdges({self.n_pairs} pairs, inputs {self.inputs}, layer.head → layer.head: {first})"

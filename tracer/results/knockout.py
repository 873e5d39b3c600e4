"""Knock-out of attention by row of queries: one trace per row, whose columns are the tokens they may not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import TraceError
from ...io.quoting import shown

if TYPE_CHECKING:
    import pandas as pd

    from .causal_trace import CausalTrace
    from .maps import TraceMap

__all__ = ["KnockOut"]


@dataclass(frozen=True, eq=False)
class KnockOut:
    """What cutting attention does, by query, key and layer.

    traces: by row of queries the trace of the pairs that have one; its columns are the keys. It can be mapped, saved,
        compared and drawn like any other. align: what a row is.
    """

    traces: Mapping[str, CausalTrace]
    align: str = "role"

    @property
    def queries(self) -> tuple[str, ...]:
        """The rows of queries."""
        return tuple(self.traces)

    def map(self, query: str, reduce: str = "ratio_of_means", segment: str | None = None) -> TraceMap:
        """Layer × key for one row of queries, for :func:`tracescribe.viz.heatmap`."""
        if query not in self.traces:
            raise TraceError(f"there are no queries {shown(query)}; the rows are: {', '.join(self.traces)}")
        return self.traces[query].map(align=self.align, reduce=reduce, segment=segment)

    def at(self, layer: int, reduce: str = "ratio_of_means", segment: str | None = None) -> pd.DataFrame:
        """CTE of one layer's edges as a table, query (lines) × key (columns); NaN where no pair has both."""
        import pandas as pd

        lines = {}
        for query in self.traces:
            cells = self.map(query, reduce, segment)
            place = np.flatnonzero(cells.layers == layer)
            if not len(place):
                raise TraceError(f"there is no layer {shown(layer)}: attention has layers 1 to {cells.layers[-1]}")
            lines[query] = dict(zip(cells.rows, cells.values[place[0]], strict=True))
        found = pd.DataFrame.from_dict(lines, orient="index")
        keys = [row for row in self.traces if row in found] + [row for row in found if row not in self.traces]
        return found[keys].rename_axis(index="query", columns="key")

    def to_frame(
        self,
        reduce: str = "ratio_of_means",
        segment: str | None = None,
        ci: float | None = None,
        n_boot: int = 1000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """One line per layer, query and key: the CTE of the cut, its interval, and what it is the ratio of."""
        import pandas as pd

        tables = []
        for query, trace in self.traces.items():
            cells = trace.map(align=self.align, reduce=reduce, segment=segment, ci=ci, n_boot=n_boot, seed=seed)
            table = cells.to_frame().rename(columns={"row": "key"})
            table.insert(1, "query", query)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def __repr__(self) -> str:
        first = next(iter(self.traces.values()))
        return f"KnockOut({first.n_layers} layers, queries: {', '.join(self.traces)})"

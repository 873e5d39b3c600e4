"""Knock-out of attention by row of queries: one trace per row, whose columns are the tokens they may not read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np

from ...errors import TraceError
from ...io.quoting import shown
from ...validation import check_choice
from ..choices import RowKind

if TYPE_CHECKING:
    import pandas as pd

    from .causal_trace import CausalTrace
    from .maps import TraceMap

__all__ = ["Cut", "KnockOut"]


class Cut(NamedTuple):
    """One cell of a knock-out: the tokens ``query`` may not attend to the token ``key`` in ``layer``."""

    query: str
    layer: int
    key: str
    cte: float


@dataclass(frozen=True, eq=False)
class KnockOut:
    """What cutting attention does, by query, key and layer.

    traces: by row of queries the trace of the pairs that have one; its columns are the keys. It can be mapped, saved,
        compared and drawn like any other. align: what a row is.
    """

    traces: Mapping[str, CausalTrace]
    align: RowKind = "role"

    def __post_init__(self) -> None:
        object.__setattr__(self, "traces", dict(self.traces))
        check_choice("align", self.align, get_args(RowKind))
        if not self.traces:
            raise TraceError("a knock-out needs the trace of at least one row of queries")
        for query, trace in self.traces.items():
            if trace.site != "edges" or trace.provenance.get("replace") != "cut":
                raise TraceError(f"the trace of the queries {shown(query)} is none of attention that is cut")

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

    def largest(self, reduce: str = "ratio_of_means", segment: str | None = None) -> list[Cut]:
        """Of each row of queries the cell of the largest |CTE|, the largest of all first."""
        found = []
        for query in self.traces:
            cells = self.map(query, reduce, segment)
            size = np.abs(np.nan_to_num(cells.values))
            layer, key = np.unravel_index(int(size.argmax()), size.shape)
            found.append(Cut(query, int(cells.layers[layer]), cells.rows[key], float(cells.values[layer, key])))
        return sorted(found, key=lambda cut: -abs(np.nan_to_num(cut.cte)))

    def summary(self) -> str:
        """How many rows of queries there are, and the cut with the largest effect."""
        first = self.largest()[0]
        return (
            f"{len(self.traces)} rows of queries × {self._first.n_layers} layers. The largest effect: without "
            f"attention from {first.query} to {first.key} in layer {first.layer}, CTE {first.cte:.3f}"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that :func:`tracescribe.tracer.load_knock_out` reads back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``.
        """
        from .knockout_file import save_knock_out

        save_knock_out(self, path)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the cuts as one HTML file; see :func:`tracescribe.viz.knock_out_page`."""
        from ...viz import knock_out_page, report

        return report(path, knock_out_page(self))

    def _repr_html_(self) -> str:
        from ...viz.notebook.finer import knock_out_html

        return knock_out_html(self)

    @property
    def _first(self) -> CausalTrace:
        return next(iter(self.traces.values()))

    def __repr__(self) -> str:
        return f"KnockOut({self._first.n_layers} layers, queries: {', '.join(self.traces)})"

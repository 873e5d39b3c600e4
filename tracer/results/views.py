"""What a person takes from a trace: files, tables, pictures, a summary, a circuit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ...arguments import explains_arguments
from ..choices import CircuitMethod

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from ...patching import DualEncoder
    from ..pairs.pairs import Pair
    from .causal_trace import CausalTrace
    from .circuit import Circuit
    from .maps import LayerProfile

__all__ = ["TraceViews"]


class TraceViews:
    """Methods of :class:`CausalTrace` that write, tabulate and draw it, or run it further; it has no other subclass."""

    @property
    def _trace(self) -> CausalTrace:
        return cast("CausalTrace", self)

    @explains_arguments
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as safetensors (format "tracescribe.trace/2"); :func:`load_trace` reads it back exactly."""
        from .storage import save_trace

        save_trace(self._trace, path)

    def to_frame(self) -> pd.DataFrame:
        """One line per (pair, layer, token) as a pandas table: ids, token, role, score, effect, denominator, CTE, ...

        Pairs that enter a map by default come first, and those whose CTE is not defined last. The numbers of a figure
        are those of ``trace.map().to_frame()`` and ``trace.per_layer().to_frame()``.
        """
        from .tables import trace_frame

        return trace_frame(self._trace)

    def heatmap(
        self,
        pair: int | str | None = None,
        *,
        title: str | None = None,
        values: Literal["auto"] | bool = "auto",
        profile: bool | LayerProfile = True,
        limit: float | None = None,
        width: int | None = None,
        height: int | None = None,
        palette: str = "RdBu",
        align: str | None = None,
        reduce: str | None = None,
        segment: str | None = None,
        aggregate: str | None = None,
        ci: float | None = 0.95,
        n_boot: int = 1000,
        seed: int = 0,
    ) -> go.Figure:
        """Interactive plotly heatmap; see :func:`tracescribe.viz.heatmap`."""
        from ...viz import heatmap

        return heatmap(
            self._trace,
            pair,
            title=title,
            values=values,
            profile=profile,
            limit=limit,
            width=width,
            height=height,
            palette=palette,
            align=align,
            reduce=reduce,
            segment=segment,
            aggregate=aggregate,
            ci=ci,
            n_boot=n_boot,
            seed=seed,
        )

    def profile(
        self,
        *,
        title: str | None = None,
        width: int = 680,
        height: int = 380,
        align: str | None = None,
        reduce: str | None = None,
        segment: str | None = None,
        aggregate: str | None = None,
        ci: float | None = 0.95,
        n_boot: int = 1000,
        seed: int = 0,
    ) -> go.Figure:
        """Interactive plotly layer profile; see :func:`tracescribe.viz.profile`."""
        from ...viz import profile

        return profile(
            self._trace,
            title=title,
            width=width,
            height=height,
            align=align,
            reduce=reduce,
            segment=segment,
            aggregate=aggregate,
            ci=ci,
            n_boot=n_boot,
            seed=seed,
        )

    def overlay(
        self,
        image: Any,
        pair: int | str | None = None,
        *,
        layers: list[int] | None = None,
        limit: float | None = None,
        title: str | None = None,
        width: int | None = None,
        palette: str = "RdBu",
    ) -> go.Figure:
        """Interactive plotly map over the image, of a trace of images; see :func:`tracescribe.viz.overlay`."""
        from ...viz import overlay

        return overlay(self._trace, image, pair, layers=layers, limit=limit, title=title, width=width, palette=palette)

    def export(
        self,
        path: str | os.PathLike[str],
        width: str | float = "column",
        *,
        pair: int | str | None = None,
        title: str | None = None,
        notes: bool = False,
        values: Literal["auto"] | bool = "auto",
        profile: bool | LayerProfile = True,
        limit: float | None = None,
        height: float | None = None,
        font: str | None = None,
        size: float = 6.5,
        palette: str = "RdBu",
        dpi: int = 300,
        align: str | None = None,
        reduce: str | None = None,
        segment: str | None = None,
        aggregate: str | None = None,
        ci: float | None = 0.95,
        n_boot: int = 1000,
        seed: int = 0,
    ) -> Path:
        """Write a paper figure (.pdf, .svg, .eps, .pgf, .png); see :func:`tracescribe.viz.export`."""
        from ...viz import export

        return export(
            self._trace,
            path,
            width,
            pair=pair,
            title=title,
            notes=notes,
            values=values,
            profile=profile,
            limit=limit,
            height=height,
            font=font,
            size=size,
            palette=palette,
            dpi=dpi,
            align=align,
            reduce=reduce,
            segment=segment,
            aggregate=aggregate,
            ci=ci,
            n_boot=n_boot,
            seed=seed,
        )

    def report(self, path: str | os.PathLike[str], control: CausalTrace | None = None, seed: int = 0) -> Path:
        """Write a page about the trace as one HTML file; see :func:`tracescribe.viz.trace_page`. Returns the path."""
        from ...viz import report, trace_page

        return report(path, trace_page(self._trace, control=control, seed=seed))

    def circuit(
        self,
        model: DualEncoder,
        pairs: Sequence[Pair] | None = None,
        *,
        share: float = 0.9,
        method: CircuitMethod = "greedy",
        candidates: int = 32,
        targets: Any = None,
        align: str = "role",
        reduce: str = "ratio_of_means",
        segment: str | None = None,
        layers: Sequence[int] | None = None,
        among: Any = None,
        ci: float | None = 0.95,
        n_boot: int = 1000,
        seed: int = 0,
        progress: bool | Callable[[int, int], None] = True,
    ) -> Circuit:
        """A small set of cells, or heads, that carries a share of the difference; see :func:`tracescribe.circuit`.

        model: the model that was traced. pairs: those that were traced; a trace that keeps its embeddings needs none.

        Raises:
            TraceError: as :func:`tracescribe.circuit`.

        >>> import tracescribe as ts
        >>> model, clear = ts.load("phantom"), ts.Text("The lungs are clear.")
        >>> pairs = [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=clear)]
        >>> trace = ts.trace(model, pairs, site="z", heads="each", progress=False)
        >>> found = trace.circuit(model, share=0.3, progress=False)
        >>> found.share >= 0.3, len(found) < found.n_cells
        (True, True)
        """
        from ..run.circuit import circuit

        return circuit(
            model,
            self._trace,
            pairs,
            share=share,
            method=method,
            candidates=candidates,
            targets=targets,
            align=align,
            reduce=reduce,
            segment=segment,
            layers=layers,
            among=among,
            ci=ci,
            n_boot=n_boot,
            seed=seed,
            progress=progress,
        )

    def summary(self) -> str:
        """What a person wants to know first, in one line."""
        from .tables import trace_summary

        return trace_summary(self._trace)

    def _repr_html_(self) -> str:
        from ...viz.notebook.results import trace_html

        return trace_html(self._trace)

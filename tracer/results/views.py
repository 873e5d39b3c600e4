"""What a person takes from a trace: files, tables, pictures, a summary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ...arguments import explains_arguments

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from .causal_trace import CausalTrace
    from .maps import LayerProfile

__all__ = ["TraceViews"]


class TraceViews:
    """Methods of :class:`CausalTrace` that write, tabulate and draw it; it has no other subclass."""

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

    def summary(self) -> str:
        """What a person wants to know first, in one line."""
        from .tables import trace_summary

        return trace_summary(self._trace)

    def _repr_html_(self) -> str:
        from ...viz.notebook.results import trace_html

        return trace_html(self._trace)

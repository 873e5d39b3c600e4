"""What a person takes from a trace: files, tables, pictures, a summary."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from .causal_trace import CausalTrace

__all__ = ["TraceViews"]


class TraceViews:
    """Methods of :class:`CausalTrace` that write, tabulate and draw it; it has no other subclass."""

    @property
    def _trace(self) -> CausalTrace:
        return cast("CausalTrace", self)

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

    def heatmap(self, **options: Any) -> go.Figure:
        """Interactive plotly heatmap; options as in :func:`tracescribe.viz.heatmap`."""
        from ...viz import heatmap

        return heatmap(self._trace, **options)

    def profile(self, **options: Any) -> go.Figure:
        """Interactive plotly layer profile; options as in :func:`tracescribe.viz.profile`."""
        from ...viz import profile

        return profile(self._trace, **options)

    def overlay(self, image: Any, **options: Any) -> go.Figure:
        """Interactive plotly map over the image, of a trace of images; as in :func:`tracescribe.viz.overlay`."""
        from ...viz import overlay

        return overlay(self._trace, image, **options)

    def export(self, path: str | os.PathLike[str], **options: Any) -> Any:
        """Write a paper figure (pdf, svg, png, eps); options as in :func:`tracescribe.viz.export`."""
        from ...viz import export

        return export(self._trace, path, **options)

    def summary(self) -> str:
        """What a person wants to know first, in one line."""
        from .tables import trace_summary

        return trace_summary(self._trace)

    def _repr_html_(self) -> str:
        from ...viz.notebook.results import trace_html

        return trace_html(self._trace)

"""Figures of results: heatmaps, layer profiles, paper figures, the report page."""

from __future__ import annotations

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of tracescribe")

from ..errors import FigureError
from .explorer.start import explore
from .figures import export, export_overlay, faithfulness, heatmap, overlay, profile
from .interactive.html import save_html
from .layouts import alpha_bars, curves, draw, panels, pareto
from .paper.figure import PaperFigure
from .published import published_maps
from .reports.finer_pages import head_edges_page, knock_out_page, negator_attention_page, neurons_page
from .reports.report import Note, Picture, Plot, Report, Section, Table, report
from .reports.result_pages import circuit_page, comparison_page, faithfulness_page
from .reports.trace_page import trace_page
from .tables import caption, export_table

__all__ = [
    "FigureError",
    "Note",
    "PaperFigure",
    "Picture",
    "Plot",
    "Report",
    "Section",
    "Table",
    "alpha_bars",
    "caption",
    "circuit_page",
    "comparison_page",
    "curves",
    "draw",
    "explore",
    "export",
    "export_overlay",
    "export_table",
    "faithfulness",
    "faithfulness_page",
    "head_edges_page",
    "heatmap",
    "knock_out_page",
    "negator_attention_page",
    "neurons_page",
    "overlay",
    "panels",
    "pareto",
    "profile",
    "published_maps",
    "report",
    "save_html",
    "trace_page",
]


def __dir__() -> list[str]:
    """What completion offers: not the modules that these names are from."""
    return __all__

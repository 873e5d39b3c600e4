"""How results look: heatmaps, layer profiles, paper figures, the report page."""

from __future__ import annotations

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of tracescribe")

from .heatmaps import heatmap
from .html import save_html
from .overlays import export_overlay, overlay
from .pages import Note, Picture, Plot, Report, Section, Table, report
from .profiles import profile
from .static import export
from .views import FigureError

__all__ = [
    "FigureError",
    "Note",
    "Picture",
    "Plot",
    "Report",
    "Section",
    "Table",
    "export",
    "export_overlay",
    "heatmap",
    "overlay",
    "profile",
    "report",
    "save_html",
]

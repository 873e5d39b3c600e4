"""Writes a view to a file, and draws the static picture of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FigureError
from ...io.quoting import shown
from ..figure_data.labels import quoted
from .panels import Panels
from .prescribing import Plan

if TYPE_CHECKING:
    from ..interactive.figure import NotebookFigure
    from ..paper.figure import PaperFigure

__all__ = ["static_figure", "static_forms", "write_view"]

FIGURES, TABLES = (".pdf", ".svg", ".eps", ".png"), (".csv", ".tex", ".md")


def write_view(drawn: Panels, plan: Plan | str | None, path: str, aggregate: str) -> Path:
    """Write the maps, their numbers (of two: of the difference), or the plan, by the suffix; returns the path.

    Raises:
        FigureError: another suffix, or no plan to write.
        OutputError: nothing can be written there.
    """
    from ..figures import export, heatmap
    from ..tables import export_table

    suffix = Path(path).suffix.lower()
    if suffix in FIGURES:
        return export(static_figure(drawn, aggregate), path, "page", notes=True)
    if suffix in TABLES:
        last = drawn.panels[-1]
        if len(drawn.panels) == 2:
            return export_table(static_figure(drawn, aggregate), path)
        curve = last.data.profile if len(drawn.panels) == 3 else None  # of a difference: not that of its cells
        return export_table(heatmap(last.source, aggregate=aggregate, profile=True if curve is None else curve), path)
    if suffix == ".json":
        if not isinstance(plan, Plan):
            raise FigureError(plan or f"there is no plan yet to write to {shown(path)}")
        plan.plan.save(path)
        return Path(path)
    raise FigureError(f"{quoted(path)} must end in {', '.join((*FIGURES, *TABLES))} or .json (the plan)")


def static_figure(drawn: Panels, aggregate: str) -> NotebookFigure | PaperFigure:
    """The view as a figure: a heatmap, or two maps and, where there is one, their difference side by side."""
    from ..figures import heatmap
    from ..layouts import panels
    from ..paper.figure import PaperFigure

    first = drawn.panels[0]
    if len(drawn.panels) == 1:
        return heatmap(first.source, aggregate=aggregate)
    bars: Any = aggregate
    sources = {panel.name: panel.source for panel in drawn.panels[:2]}
    if len(drawn.panels) == 2:
        return panels(sources, bars=bars, limit=drawn.limit, axis="depth")
    name, data = drawn.panels[2].name, drawn.panels[2].data
    if drawn.by_role:
        return panels(sources, difference=name, bars=bars, limit=drawn.limit)
    made: Any = panels(sources, bars=bars, limit=drawn.limit).shown
    view = replace(data, limit=made.limit, palette=made.palette)  # by position, as on the page
    return PaperFigure(replace(made, views=(*made.views, view), names=(*made.names, name)))


def static_forms(drawn: Panels, aggregate: str) -> dict[str, str]:
    """What a saved notebook keeps of the view: "image/png" (base64) and "text/html", a static picture."""
    bundle = static_figure(drawn, aggregate)._repr_mimebundle_()
    return {form: bundle[form] for form in ("image/png", "text/html") if form in bundle}
